//! Names to addresses, off the loop: a few threads that call getaddrinfo, and what they found.
//!
//! A name that does not answer holds up one of the threads and nobody's loop: whoever asked has a deadline of
//! its own, and falls back on the last good addresses.

use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use forebay_core::ids::{ConnId, WorkerId};

/// Threads that resolve.
const THREADS: usize = 2;
/// How long an answer is used without asking again.
const FRESH_FOR: Duration = Duration::from_secs(15);
/// Names kept; beyond it, old ones go.
const NAMES_MAX: usize = 4096;

/// Who wants to know.
pub(crate) type Asker = (WorkerId, ConnId);
/// What was found.
pub(crate) type Found = Result<Vec<IpAddr>, Arc<str>>;

struct Known {
    addresses: Vec<IpAddr>,
    at: Instant,
}

/// The names of an engine.
pub(crate) struct Resolver {
    known: Mutex<HashMap<Arc<str>, Known>>,
    asks: Mutex<Sender<(Asker, Arc<str>)>>,
}

impl Resolver {
    /// Starts the threads; each answer goes through `report`. They end when the resolver is dropped.
    pub(crate) fn start(report: impl Fn(Asker, Found) + Send + Sync + 'static) -> std::io::Result<Resolver> {
        let (asks, queue) = channel::<(Asker, Arc<str>)>();
        let queue = Arc::new(Mutex::new(queue));
        let report = Arc::new(report);
        for i in 0..THREADS {
            let (queue, report) = (queue.clone(), report.clone());
            crate::engine::spawn(format!("forebay-dns-{i}"), move || serve(&queue, &*report))?;
        }
        Ok(Resolver { known: Mutex::default(), asks: Mutex::new(asks) })
    }

    /// The addresses of `host`, if they need no asking; else asks on behalf of `asker`.
    pub(crate) fn lookup(&self, host: &Arc<str>, asker: Asker) -> Option<Vec<IpAddr>> {
        if let Ok(ip) = host.parse() {
            return Some(vec![ip]);
        }
        if let Some(known) = self.lock().get(host)
            && known.at.elapsed() < FRESH_FOR
        {
            return Some(known.addresses.clone());
        }
        // The threads live as long as the sender does: an error can't happen, and the asker has a deadline.
        let _ = self.asks.lock().unwrap_or_else(PoisonError::into_inner).send((asker, host.clone()));
        None
    }

    /// The last good addresses, however old.
    pub(crate) fn last_good(&self, host: &str) -> Option<Vec<IpAddr>> {
        self.lock().get(host).map(|known| known.addresses.clone())
    }

    /// Keeps what was found.
    pub(crate) fn keep(&self, host: &Arc<str>, addresses: &[IpAddr]) {
        let mut known = self.lock();
        if known.len() >= NAMES_MAX {
            known.retain(|_, k| k.at.elapsed() < FRESH_FOR);
        }
        if known.len() < NAMES_MAX {
            known.insert(host.clone(), Known { addresses: addresses.to_vec(), at: Instant::now() });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(queue: &Mutex<Receiver<(Asker, Arc<str>)>>, report: &(dyn Fn(Asker, Found) + Send + Sync)) {
    loop {
        let ask = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((asker, host)) = ask else { return };
        report(asker, resolve(&host));
    }
}

fn resolve(host: &str) -> Found {
    let found = (host, 0u16).to_socket_addrs().map_err(|error| Arc::<str>::from(error.to_string()))?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address.ip()) {
            addresses.push(address.ip());
        }
    }
    if addresses.is_empty() { Err("the name has no address".into()) } else { Ok(addresses) }
}
