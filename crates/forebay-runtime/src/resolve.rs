//! Names to addresses, off the loop: a few threads that ask the system's resolver, and what they found.
//!
//! The system's resolver (getaddrinfo) knows /etc/hosts, nsswitch.conf and resolv.conf, and tells no TTL: an answer holds for
//! `dns.max_ttl`. Names in use are looked up again as soon as that is over, so that nobody waits for a lookup but
//! who asks for a name first; and whoever has servers there is told when its addresses have changed. Addresses that
//! were found are used until others are: a resolver that is down, slow, or answers nothing takes none away, nor does one
//! that answers for IPv4 or IPv6 alone.

mod family;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use forebay_core::config::DnsOptions;
use forebay_core::ids::{ConnId, WorkerId};

/// Threads that resolve. The first of them is for names that somebody waits for.
const THREADS: usize = 3;
/// How long a name that nobody asks for is looked up again and again: longer than servers live.
const KEPT_FOR: Duration = Duration::from_secs(2 * 3600);
/// Names kept; beyond it, those that were not asked for longest go.
const NAMES_MAX: usize = 4096;
/// A name that can't be found is looked up again no sooner.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Who wants to know.
pub(crate) type Asker = (WorkerId, ConnId);
/// What was found.
pub(crate) type Found = Result<Vec<IpAddr>, Arc<str>>;
/// What the system's resolver answers.
type Answer = Result<Vec<IpAddr>, Unfound>;

/// Why there is no address.
#[derive(Clone)]
struct Unfound {
    words: Arc<str>,
    /// The name has none; else there was no answer.
    is_lasting: bool,
}

/// What the threads tell.
pub(crate) enum News {
    /// What `Asker` has asked for.
    Found(Asker, Found),
    /// A name has other addresses than were told before, or the first.
    Changed(Arc<str>, Arc<[IpAddr]>),
}

struct Name {
    /// The last good ones.
    addresses: Arc<[IpAddr]>,
    /// Why the last lookup found none.
    error: Option<Unfound>,
    /// When the last lookup ended; `None`: none has.
    looked_at: Option<Instant>,
    asked_at: Instant,
    is_under_way: bool,
    askers: Vec<Asker>,
    /// The address that the next asker is given first.
    turn: usize,
}

/// A name as SHOW DNS_HOSTS prints it.
pub struct Host {
    /// The name.
    pub name: Arc<str>,
    /// When it is looked up again.
    pub ttl: Duration,
    /// Its addresses.
    pub addresses: Arc<[IpAddr]>,
}

/// The names of an engine.
pub(crate) struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    names: Mutex<Names>,
    has_work: Condvar,
}

struct Names {
    known: HashMap<Arc<str>, Name>,
    /// Names that somebody waits for.
    urgent: VecDeque<Arc<str>>,
    options: DnsOptions,
    is_stopped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolver {
    /// Starts the threads. They end when the resolver is dropped.
    pub(crate) fn start(tell: impl Fn(News) + Send + Sync + 'static) -> std::io::Result<Resolver> {
        Resolver::start_with(resolve, tell)
    }

    fn start_with(
        resolve: impl Fn(&str, &[IpAddr]) -> Answer + Send + Sync + 'static,
        tell: impl Fn(News) + Send + Sync + 'static,
    ) -> std::io::Result<Resolver> {
        let options = DnsOptions::default();
        let names = Names { known: HashMap::new(), urgent: VecDeque::new(), options, is_stopped: false };
        let shared = Arc::new(Shared { names: Mutex::new(names), has_work: Condvar::new() });
        let (resolve, tell) = (Arc::new(resolve), Arc::new(tell));
        let resolver = Resolver { shared };
        for i in 0..THREADS {
            let (shared, resolve, tell) = (resolver.shared.clone(), resolve.clone(), tell.clone());
            crate::engine::spawn(format!("forebay-dns-{i}"), move || serve(&shared, i > 0, &*resolve, &*tell))?;
        }
        Ok(resolver)
    }

    /// How long answers hold, from here on.
    pub(crate) fn set_options(&self, options: DnsOptions) {
        self.shared.lock().options = options;
        self.shared.has_work.notify_all();
    }

    /// The addresses of `host`, each first in its turn, if there is an answer that holds; else `asker` is told.
    pub(crate) fn lookup(&self, host: &Arc<str>, asker: Asker) -> Option<Found> {
        if let Ok(ip) = host.parse() {
            return Some(Ok(vec![ip]));
        }
        let now = Instant::now();
        let mut names = self.shared.lock();
        let failed_for = Duration::from_micros(names.options.nxdomain_ttl);
        if !names.known.contains_key(host) {
            names.make_room();
        }
        let name = names.known.entry(host.clone()).or_insert_with(|| Name::new(now));
        name.asked_at = now;
        if !name.addresses.is_empty() {
            return Some(Ok(name.next_addresses()));
        }
        if let (Some(error), Some(at)) = (&name.error, name.looked_at)
            && now.duration_since(at) < if error.is_lasting { failed_for } else { failed_for.min(RETRY_AFTER) }
        {
            return Some(Err(error.words.clone()));
        }
        let is_first = name.askers.is_empty();
        name.askers.push(asker);
        if is_first && !name.is_under_way {
            names.urgent.push_back(host.clone());
            self.shared.has_work.notify_all();
        }
        None
    }

    /// The names that are kept, how many are looked up at the moment, and how many wait for that.
    pub(crate) fn hosts(&self) -> (Vec<Host>, usize, usize) {
        let names = self.shared.lock();
        let now = Instant::now();
        let host = |(name, known): (&Arc<str>, &Name)| Host {
            name: name.clone(),
            ttl: names.due(known).saturating_duration_since(now),
            addresses: known.addresses.clone(),
        };
        let under_way = names.known.values().filter(|name| name.is_under_way).count();
        (names.known.iter().map(host).collect(), under_way, names.urgent.len())
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.shared.lock().is_stopped = true;
        self.shared.has_work.notify_all();
    }
}

impl Name {
    fn new(now: Instant) -> Name {
        Name {
            addresses: Arc::default(),
            error: None,
            looked_at: None,
            asked_at: now,
            is_under_way: false,
            askers: Vec::new(),
            turn: 0,
        }
    }

    fn next_addresses(&mut self) -> Vec<IpAddr> {
        // Which family comes first is the system's choice (RFC 6724): each has its turns where it stands.
        let of = |is_v6: bool| self.addresses.iter().filter(move |address| address.is_ipv6() == is_v6);
        let rotated = |is_v6: bool| of(is_v6).cycle().skip(self.turn % of(is_v6).count().max(1));
        let (mut v4, mut v6) = (rotated(false), rotated(true));
        let next = |address: &IpAddr| if address.is_ipv6() { v6.next() } else { v4.next() };
        let addresses = self.addresses.iter().filter_map(next).copied().collect();
        self.turn = self.turn.wrapping_add(1);
        addresses
    }
}

impl Names {
    /// When a name is to be looked up again.
    fn due(&self, name: &Name) -> Instant {
        let Some(at) = name.looked_at else { return name.asked_at };
        let holds_for = Duration::from_micros(self.options.max_ttl);
        let failed_for = Duration::from_micros(self.options.nxdomain_ttl).max(RETRY_AFTER);
        at + match &name.error {
            // Nobody is served at a name that was never found: how often it is asked for is the setting's own matter.
            Some(error) if error.is_lasting && name.addresses.is_empty() => failed_for,
            Some(error) if error.is_lasting => failed_for.min(holds_for),
            Some(_) => RETRY_AFTER.min(holds_for),
            None => holds_for,
        }
    }

    /// The next name to look up, or when to look for one again.
    fn next(&mut self, is_for_all: bool, now: Instant) -> Result<Arc<str>, Instant> {
        let mut found = self.urgent.pop_front();
        let mut next = now + Duration::from_secs(60);
        if found.is_none() && is_for_all {
            self.known.retain(|_, name| name.is_under_way || name.asked_at + KEPT_FOR > now);
            for (host, name) in self.known.iter().filter(|(_, name)| !name.is_under_way) {
                let due = self.due(name);
                if due <= now {
                    found = Some(host.clone());
                    break;
                }
                next = next.min(due);
            }
        }
        let host = found.ok_or(next)?;
        if let Some(name) = self.known.get_mut(&host) {
            name.is_under_way = true;
        }
        Ok(host)
    }

    /// A lookup has ended: who waited for it, what they are told, and whether others were told other addresses.
    fn ended(&mut self, host: &str, found: Answer) -> Option<(Vec<Asker>, Found, bool)> {
        let name = self.known.get_mut(host)?;
        name.is_under_way = false;
        name.looked_at = Some(Instant::now());
        let askers = std::mem::take(&mut name.askers);
        match found {
            Ok(addresses) => {
                let is_same = name.addresses.len() == addresses.len()
                    && name.addresses.iter().all(|address| addresses.contains(address));
                name.error = None;
                if !is_same {
                    name.addresses = addresses.into();
                }
                Some((askers, Ok(name.next_addresses()), !is_same))
            }
            Err(error) => {
                name.error = Some(error.clone());
                Some((askers, Err(error.words), false))
            }
        }
    }

    fn make_room(&mut self) {
        if self.known.len() >= NAMES_MAX {
            let oldest = self.known.iter().filter(|(_, name)| !name.is_under_way && name.askers.is_empty());
            let oldest = oldest.min_by_key(|(_, name)| name.asked_at).map(|(host, _)| host.clone());
            oldest.map(|host| self.known.remove(&host));
        }
    }
}

fn serve(shared: &Shared, is_for_all: bool, resolve: &impl Fn(&str, &[IpAddr]) -> Answer, tell: &impl Fn(News)) {
    let mut names = shared.lock();
    while !names.is_stopped {
        let now = Instant::now();
        let host = match names.next(is_for_all, now) {
            Ok(host) => host,
            Err(at) => {
                let wait = at.saturating_duration_since(now);
                names = shared.has_work.wait_timeout(names, wait).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
        };
        let known = names.known.get(&host).map(|name| name.addresses.clone()).unwrap_or_default();
        drop(names);
        let found = resolve(&host, &known);
        names = shared.lock();
        let Some((askers, found, is_changed)) = names.ended(&host, found) else { continue };
        // When the others have to look again is another time by now.
        shared.has_work.notify_all();
        let addresses = names.known.get(&host).map(|name| name.addresses.clone()).filter(|_| is_changed);
        drop(names);
        // Before those who asked connect there.
        if let Some(addresses) = addresses {
            tell(News::Changed(host, addresses));
        }
        for asker in askers {
            tell(News::Found(asker, found.clone()));
        }
        names = shared.lock();
    }
}

/// The addresses of a name that had the `known` ones.
fn resolve(host: &str, known: &[IpAddr]) -> Answer {
    let found = (host, 0u16).to_socket_addrs().map_err(|error| Unfound::new(&error.to_string()))?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address.ip()) {
            addresses.push(address.ip());
        }
    }
    if addresses.is_empty() {
        return Err(Unfound::new(NO_ADDRESS));
    }
    Ok(family::completed(addresses, known, |is_v6| family::resolve(host, is_v6)))
}

/// What the system's resolver says of a name that is not there, or has no address: glibc's words, and musl's.
const LASTING: [&str; 5] =
    ["not known", "No address associated", "does not resolve", "has no usable address", NO_ADDRESS];
const NO_ADDRESS: &str = "the name has no address";

impl Unfound {
    /// The standard library tells the kind of error by its words alone.
    fn new(words: &str) -> Unfound {
        Unfound { words: words.into(), is_lasting: LASTING.iter().any(|lasting| words.contains(lasting)) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    const ME: Asker = (WorkerId(0), ConnId { slot: 0, generation: 0 });

    /// A resolver whose answers are what `said` holds: `None` is none for now.
    fn resolver(said: &Arc<Mutex<Option<Answer>>>) -> (Resolver, Receiver<News>) {
        let (tell, news) = channel();
        let said = said.clone();
        let answer = move |_: &str, _: &[IpAddr]| loop {
            if let Some(found) = said.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                return found;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let tell = Mutex::new(tell);
        let resolver = Resolver::start_with(answer, move |news| {
            // A test that has ended listens no more.
            let _ = tell.lock().unwrap_or_else(PoisonError::into_inner).send(news);
        });
        (resolver.expect("threads can be had"), news)
    }

    fn options(max_ttl_ms: u64) -> DnsOptions {
        DnsOptions { max_ttl: max_ttl_ms * 1000, nxdomain_ttl: 60_000_000 }
    }

    fn addresses(last: &[u8]) -> Vec<IpAddr> {
        last.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect()
    }

    fn say(said: &Mutex<Option<Answer>>, found: Option<Answer>) {
        *said.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    #[test]
    fn addresses_are_given_in_turn_and_found_anew_without_anybody_waiting() {
        let said = Arc::new(Mutex::new(Some(Ok(addresses(&[1, 2])))));
        let (resolver, news) = resolver(&said);
        resolver.set_options(options(20));
        let host: Arc<str> = "db".into();
        assert!(resolver.lookup(&host, ME).is_none(), "the first who asks waits");
        let told = news.recv().expect("it is told");
        assert!(
            matches!(told, News::Changed(_, now) if *now == addresses(&[1, 2])),
            "all, as they may know older ones"
        );
        let first = news.recv().expect("it is told");
        assert!(matches!(first, News::Found(_, Ok(found)) if found == addresses(&[1, 2])));
        assert_eq!(resolver.lookup(&host, ME), Some(Ok(addresses(&[2, 1]))));
        assert_eq!(resolver.lookup(&host, ME), Some(Ok(addresses(&[1, 2]))));
        say(&said, Some(Ok(addresses(&[2, 3]))));
        let changed = news.recv().expect("it is told");
        assert!(matches!(changed, News::Changed(name, now) if *name == *host && *now == addresses(&[2, 3])));
        say(&said, None);
        assert!(resolver.lookup(&host, ME).is_some(), "a resolver that is slow holds nobody up");
        say(&said, Some(Err(Unfound::new("SERVFAIL"))));
        std::thread::sleep(Duration::from_millis(100));
        assert!(matches!(resolver.lookup(&host, ME), Some(Ok(found)) if found.len() == 2), "the last good ones hold");
        assert!(news.try_recv().is_err(), "and nobody is told that they are gone");
    }

    #[test]
    fn a_name_that_is_not_there_is_not_looked_up_for_each_who_asks() {
        let said = Arc::new(Mutex::new(Some(Err(Unfound::new("Name or service not known")))));
        let (resolver, news) = resolver(&said);
        let host: Arc<str> = "db".into();
        assert!(resolver.lookup(&host, ME).is_none());
        assert!(matches!(news.recv(), Ok(News::Found(_, Err(_)))));
        assert!(matches!(resolver.lookup(&host, ME), Some(Err(_))));
        resolver.set_options(DnsOptions { nxdomain_ttl: 0, ..options(60_000) });
        assert!(resolver.lookup(&host, ME).is_none(), "it is asked for again");
    }

    /// A resolver that was not up yet at boot took a name away for as long as one that does not exist.
    #[test]
    fn no_answer_is_no_answer_that_the_name_is_not_there() {
        let known = |words: &str, max_ttl_ms: u64, before: &[u8]| {
            let mut name = Name::new(Instant::now());
            (name.error, name.looked_at) = (Some(Unfound::new(words)), Some(name.asked_at));
            name.addresses = addresses(before).into();
            let (known, urgent) = (HashMap::from([(Arc::from("db"), name)]), VecDeque::new());
            let names = Names { known, urgent, options: options(max_ttl_ms), is_stopped: false };
            names.due(&names.known["db"]).duration_since(names.known["db"].asked_at)
        };
        let (passing, lasting) = ("Temporary failure in name resolution", "Name or service not known");
        assert_eq!(known(passing, 600_000, &[]), RETRY_AFTER);
        assert_eq!(known(lasting, 600_000, &[]).as_secs(), 60);
        assert_eq!(known(lasting, 5_000, &[]).as_secs(), 60, "how old an answer may be is about answers");
        assert_eq!(known(lasting, 5_000, &[1]).as_secs(), 5, "servers are there by this name");
    }

    #[test]
    fn families_stay_where_the_system_has_put_them_and_known_names_when_there_are_many() {
        let mut name = Name::new(Instant::now());
        let v6 = |last: u16| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]);
        let v4 = |last: u8| IpAddr::from([10, 0, 0, last]);
        name.addresses = vec![v6(1), v6(2), v4(1), v4(2), v4(3)].into();
        assert_eq!(name.next_addresses(), [v6(1), v6(2), v4(1), v4(2), v4(3)]);
        assert_eq!(name.next_addresses(), [v6(2), v6(1), v4(2), v4(3), v4(1)]);
        assert_eq!(name.next_addresses(), [v6(1), v6(2), v4(3), v4(1), v4(2)]);

        let said = Arc::new(Mutex::new(Some(Ok(addresses(&[1])))));
        let (resolver, _news) = resolver(&said);
        let mut names = resolver.shared.lock();
        for i in 0..NAMES_MAX {
            let mut name = Name::new(Instant::now());
            (name.addresses, name.looked_at) = (addresses(&[1]).into(), Some(name.asked_at));
            names.known.insert(i.to_string().into(), name);
        }
        drop(names);
        assert!(resolver.lookup(&"7".into(), ME).is_some());
        assert_eq!(resolver.hosts().0.len(), NAMES_MAX, "nothing is forgotten for a name that is known");
    }
}
