//! The Unix socket that a server on this host has beside its port, and whose it is.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::FileTypeExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::socket::SockAddr;

/// Where PostgreSQL's packages put it, and where PostgreSQL itself does.
const FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];
/// The state of a socket that listens, as /proc tells it (TCP_LISTEN of the kernel's tcp_states.h).
const LISTENS: &str = "0A";

/// The kernel looks through all connections that there could be for a page of them, which takes milliseconds: it is asked again
/// no sooner than this after the last time, or where a port was not among them, than that.
const HOLDS: Duration = Duration::from_secs(10);
const HOLDS_WITHOUT: Duration = Duration::from_secs(1);

/// Who listens at this host's ports, and since when that is known.
static LISTENERS: Mutex<Option<(Instant, Vec<Listener>)>> = Mutex::new(None);

/// The sockets of a server at `port` that there are.
pub(crate) fn sockets(port: u16) -> Vec<SockAddr> {
    let paths = FOLDERS.iter().map(|folder| format!("{folder}/.s.PGSQL.{port}"));
    let there = paths.filter(|path| std::fs::metadata(path).is_ok_and(|m| m.file_type().is_socket()));
    there.filter_map(|path| SockAddr::unix(&path).ok()).collect()
}

/// The user that listens at a port of this host, or did seconds ago; `None`: nobody, several, or the system does not tell.
pub(crate) fn user_at(host: &str, port: u16) -> Option<u32> {
    let mut known = LISTENERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((read_at, listeners)) = &*known {
        let (age, user) = (read_at.elapsed(), user_among(listeners, host, port));
        if age < HOLDS_WITHOUT || user.is_some() && age < HOLDS {
            return user;
        }
    }
    let (_, listeners) = known.insert((Instant::now(), listeners()));
    user_among(listeners, host, port)
}

fn user_among(listeners: &[Listener], host: &str, port: u16) -> Option<u32> {
    let meant = listeners.iter().filter(|l| l.port == port && is_meant(l.address, host));
    let mut users: Vec<_> = meant.map(|l| l.user).collect();
    users.sort_unstable();
    users.dedup();
    if let [user] = users[..] { Some(user) } else { None }
}

/// Those that listen at ports of this host.
fn listeners() -> Vec<Listener> {
    let files = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().filter_map(|table| File::open(table).ok());
    // Those that listen come first, so that a busy machine's other connections are not read.
    let lines = files.map(|file| BufReader::new(file).lines().skip(1).map_while(Result::ok));
    lines.flat_map(|lines| lines.map_while(|line| listener(&line))).collect()
}

struct Listener {
    address: IpAddr,
    port: u16,
    user: u32,
}

/// A line of /proc/net/tcp or tcp6; `None`: it does not listen.
fn listener(line: &str) -> Option<Listener> {
    let mut words = line.split_whitespace();
    let (address, port) = words.nth(1)?.split_once(':')?;
    if words.nth(1)? != LISTENS {
        return None;
    }
    let user = words.nth(3)?.parse().ok()?;
    Some(Listener { address: ip(address)?, port: u16::from_str_radix(port, 16).ok()?, user })
}

/// Words of 32 bits, each in the machine's byte order.
fn ip(digits: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(digits.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match digits.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// Whether a connection to `host` may end at `address`.
fn is_meant(address: IpAddr, host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(ip) => address.is_unspecified() || address == ip,
        Err(_) => address.is_unspecified() || address.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn whose_a_port_is() {
        // SAFETY: asks for a number.
        let me = unsafe { libc::geteuid() };
        for (bound, asked) in [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "localhost"), ("0.0.0.0", "127.0.0.1")] {
            let there = TcpListener::bind((bound, 0)).expect("a port");
            let port = there.local_addr().expect("bound").port();
            assert_eq!(user_among(&listeners(), asked, port), Some(me), "{bound} asked for as {asked}");
        }
        let there = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = there.local_addr().expect("bound").port();
        assert_eq!(user_among(&listeners(), "127.0.0.2", port), None, "nobody listens at the other address");
        drop(there);
        assert_eq!(user_among(&listeners(), "127.0.0.1", port), None, "nobody listens any more");
    }

    /// Each look costs a worker, and all its clients, milliseconds.
    #[test]
    fn the_kernel_is_not_asked_again_and_again() {
        let there = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = there.local_addr().expect("bound").port();
        std::thread::sleep(HOLDS_WITHOUT);
        let user = user_at("127.0.0.1", port).expect("somebody listens");
        let read_at = || LISTENERS.lock().expect("not poisoned").as_ref().expect("it was asked").0;
        let before = read_at();
        for _ in 0..100 {
            assert_eq!(user_at("127.0.0.1", port), Some(user));
        }
        assert_eq!(read_at(), before, "it was asked again");
    }

    #[test]
    fn lines_of_the_kernel_are_read() {
        let line = "   2: 00000000000000000000000001000000:1538 00000000000000000000000000000000:0000 0A 00000000:00000000 \
                    00:00000000 00000000    26        0 31337 1 0000000000000000 100 0 0 10 0";
        let found = listener(line).expect("it listens");
        let word = u32::from_str_radix("01000000", 16).expect("digits").to_ne_bytes();
        let expected = if word[3] == 1 { IpAddr::from(Ipv6Addr::LOCALHOST) } else { found.address };
        assert_eq!((found.address, found.port, found.user), (expected, 0x1538, 26));
        assert!(listener(&line.replace(" 0A ", " 01 ")).is_none(), "a connection");
    }
}
