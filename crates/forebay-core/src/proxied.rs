//! Clients behind a load balancer that says by the PROXY protocol where they come from.
//!
//! Only those in `listen.proxy_from` may, and must: one that may leave the header out lets its clients write their own.
//! A header from anybody else is refused, for it would let him in as another address.

use std::net::IpAddr;

use forebay_pgwire::proxy::{self, Source};
use forebay_spec::errors;

use crate::event::Level;
use crate::io::{Io, Peer};
use crate::login::address;
use crate::session::client::ClientKey;
use crate::worker::Worker;

/// A network of IP addresses; one of IPv4 has the addresses that map it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    bits: u128,
    mask: u128,
}

impl Network {
    /// Reads `address/length`. `None`: it is none.
    pub fn parse(text: &str) -> Option<Network> {
        let (address, length) = text.split_once('/')?;
        let (address, length) = (address.parse::<IpAddr>().ok()?, length.parse::<u32>().ok()?);
        let missing = if address.is_ipv4() { 32_u32 } else { 128 }.checked_sub(length)?;
        let mask = u128::MAX.checked_shl(missing).unwrap_or(0);
        Some(Network { bits: as_bits(address) & mask, mask })
    }

    /// Whether an address is one of its.
    pub fn has(&self, address: IpAddr) -> bool {
        as_bits(address) & self.mask == self.bits
    }
}

fn as_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
    .to_bits()
}

impl<I: Io> Worker<I> {
    /// Whether a connection begins with a header.
    pub(crate) fn is_proxied(&self, peer: &Peer) -> bool {
        let Peer::Tcp(address, _) = peer else { return false };
        self.tables.proxies().iter().any(|network| network.has(*address))
    }

    /// The first bytes of a connection that begins with a header. Returns how many of them it takes.
    pub(crate) fn proxy_header(&mut self, io: &mut I, key: ClientKey, data: &[u8]) -> usize {
        let (source, taken) = match proxy::header(data) {
            Ok(Some(found)) => found,
            Ok(None) => return 0,
            Err(error) => {
                self.refuse_proxy(io, key, &error.to_string());
                return 0;
            }
        };
        let client = &mut self.clients[key];
        if let Some(login) = &mut client.login {
            login.is_header_due = false;
        }
        if let Source::Tcp(ip, port) = source {
            let id = client.id;
            let (by, _) = address(&self.comes_from(io, key, Peer::Tcp(ip, port)));
            let fields = vec![
                ("client", id.into()),
                ("address", ip.to_string().into()),
                ("port", u64::from(port).into()),
                ("by", by.into()),
            ];
            self.log(io, Level::Debug, "client_proxied", fields);
        }
        taken
    }

    /// A header is not as it must be, or not where one may be.
    #[cold]
    pub(crate) fn refuse_proxy(&mut self, io: &mut I, key: ClientKey, cause: &str) {
        self.stats.protocol_errors.add(1);
        let (from, port) = address(&self.clients[key].peer);
        let fields = vec![("address", from.into()), ("port", u64::from(port).into()), ("reason", cause.into())];
        self.log(io, Level::Warn, "proxy_header_refused", fields);
        self.refuse_and_close(io, key, errors::proxy_header(cause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(network: &str, address: &str) -> bool {
        Network::parse(network).expect("a network").has(address.parse().expect("an address"))
    }

    /// One bit too few, and a stranger may say who he is.
    #[test]
    fn a_network_has_the_addresses_that_begin_as_it_does() {
        assert!(has("10.1.2.0/24", "10.1.2.255") && !has("10.1.2.0/24", "10.1.3.0"));
        assert!(has("10.1.2.3/32", "10.1.2.3") && !has("10.1.2.3/32", "10.1.2.2"));
        assert!(has("10.1.2.0/24", "::ffff:10.1.2.9"), "as it comes in by a socket of both");
        assert!(has("0.0.0.0/0", "192.0.2.1") && !has("0.0.0.0/0", "2001:db8::1"));
        assert!(has("2001:db8::/32", "2001:db8:ffff::1") && !has("2001:db8::/32", "2001:db9::1"));
        assert!(has("::1/128", "::1") && !has("::1/128", "127.0.0.1"));
        assert!(has("10.1.2.3/8", "10.9.9.9"), "bits behind its length do not count");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for faulty in ["10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/-1", "10.0.0.0/", "x/8", "/8"] {
            assert_eq!(Network::parse(faulty), None, "{faulty}");
        }
    }
}
