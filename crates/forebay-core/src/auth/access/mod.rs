//! Rules by address: which proof is asked of whom. The first rule that fits decides; whom none fits is turned away.
//!
//! Compiled once a reload. A rule is filed under what it is most particular about, a user, a database or a network, so
//! that a login looks at those that may fit it, however many there are: O(masks in use + rules that may fit).

mod map;
mod pattern;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use rustc_hash::FxHashMap;

pub use map::Maps;
pub use pattern::{PATTERN_BYTES_MAX, Pattern};

use crate::config::{AccessRule, AuthMethod, CertificateDemand, ConnectionKind, NamePattern};

/// Who wants to be let in: what a client says and where it comes from.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// `None`: over a Unix socket.
    pub address: Option<IpAddr>,
    /// The connection is encrypted.
    pub is_encrypted: bool,
    /// It asks for physical replication.
    pub is_physical_replication: bool,
    /// The database it asks for.
    pub database: &'a str,
    /// The user it claims to be.
    pub user: &'a str,
}

/// What holds for a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Demand {
    /// What is asked of it.
    pub method: AuthMethod,
    /// The map that is looked at, for `cert` and `peer`.
    pub map: Option<Arc<str>>,
    /// What its certificate must be besides.
    pub certificate: CertificateDemand,
    /// Number of the directory or service.
    pub service: u32,
    /// The rule that says so; `None`: there are no rules.
    pub place: Option<Arc<str>>,
}

impl Demand {
    /// What one method for all asks.
    pub fn of_method(method: AuthMethod, service: u32) -> Demand {
        Demand { method, map: None, certificate: CertificateDemand::None, service, place: None }
    }
}

/// All rules, in order, and where to look for those that may fit.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    by_user: FxHashMap<Arc<str>, Vec<u32>>,
    by_database: FxHashMap<Arc<str>, Vec<u32>>,
    /// By mask, then by network.
    by_network: Vec<(IpAddr, FxHashMap<IpAddr, Vec<u32>>)>,
    /// Those that are about nothing in particular.
    general: Vec<u32>,
}

#[derive(Debug)]
struct Rule {
    kind: ConnectionKind,
    databases: Names,
    users: Names,
    network: Option<(IpAddr, IpAddr)>,
    demand: Demand,
}

/// One field of a rule.
#[derive(Debug, Default)]
struct Names {
    is_all: bool,
    is_same_user: bool,
    is_replication: bool,
    names: FxHashMap<Arc<str>, ()>,
    patterns: Vec<Pattern>,
}

impl Rules {
    /// Compiles them; or says which rule's pattern can't be read, by the rule's number.
    pub fn build(rules: &[AccessRule]) -> Result<Rules, (usize, String)> {
        let mut built = Rules {
            rules: Vec::with_capacity(rules.len()),
            by_user: FxHashMap::default(),
            by_database: FxHashMap::default(),
            by_network: Vec::new(),
            general: Vec::new(),
        };
        for (index, rule) in rules.iter().enumerate() {
            let names = |patterns: &[NamePattern]| Names::build(patterns).map_err(|cause| (index, cause));
            let rule = Rule {
                kind: rule.kind,
                databases: names(&rule.databases)?,
                users: names(&rule.users)?,
                network: rule.network.map(|(address, mask)| (masked(address, mask), mask)),
                demand: Demand {
                    method: rule.method,
                    map: rule.map.clone(),
                    certificate: rule.certificate,
                    service: rule.service,
                    place: Some(rule.place.clone()),
                },
            };
            built.file(&rule, u32::try_from(index).expect("under 2^32 rules"));
            built.rules.push(rule);
        }
        Ok(built)
    }

    fn file(&mut self, rule: &Rule, index: u32) {
        if let Some(users) = rule.users.as_list() {
            users.for_each(|user| self.by_user.entry(user.clone()).or_default().push(index));
        } else if let Some(databases) = rule.databases.as_list() {
            databases.for_each(|database| self.by_database.entry(database.clone()).or_default().push(index));
        } else if let Some((network, mask)) = rule.network {
            let place = self.by_network.iter().position(|(known, _)| *known == mask).unwrap_or_else(|| {
                self.by_network.push((mask, FxHashMap::default()));
                self.by_network.len() - 1
            });
            self.by_network[place].1.entry(network).or_default().push(index);
        } else {
            self.general.push(index);
        }
    }

    /// What holds for a client; `None`: no rule fits it.
    pub fn decide(&self, arrival: Arrival<'_>) -> Option<&Demand> {
        // A socket for IPv6 may bring clients of IPv4.
        let arrival = Arrival { address: arrival.address.map(|address| address.to_canonical()), ..arrival };
        let networks = self.by_network.iter().filter_map(|(mask, networks)| {
            arrival.address.filter(|address| is_same_family(*address, *mask)).map(|a| networks.get(&masked(a, *mask)))
        });
        let lists = [self.by_user.get(arrival.user), self.by_database.get(arrival.database), Some(&self.general)];
        let first = |list: &Vec<u32>| list.iter().copied().find(|index| self.rules[*index as usize].fits(arrival));
        let index = lists.into_iter().chain(networks).flatten().filter_map(first).min()?;
        Some(&self.rules[index as usize].demand)
    }
}

impl Rule {
    fn fits(&self, arrival: Arrival<'_>) -> bool {
        let is_kind = match (self.kind, arrival.address) {
            (ConnectionKind::Local, address) => address.is_none(),
            (_, None) => false,
            (ConnectionKind::Host, _) => true,
            (ConnectionKind::HostSsl, _) => arrival.is_encrypted,
            (ConnectionKind::HostNoSsl, _) => !arrival.is_encrypted,
        };
        let is_from_there = match (self.network, arrival.address) {
            (Some((network, mask)), Some(address)) => is_same_family(address, mask) && masked(address, mask) == network,
            _ => true,
        };
        is_kind && is_from_there && self.fits_database(arrival) && self.users.fit(arrival.user)
    }

    fn fits_database(&self, arrival: Arrival<'_>) -> bool {
        let databases = &self.databases;
        if arrival.is_physical_replication {
            // It is connected to no database, whatever name it gives.
            return databases.is_replication;
        }
        (databases.is_same_user && arrival.database == arrival.user) || databases.fit(arrival.database)
    }
}

impl Names {
    fn build(patterns: &[NamePattern]) -> Result<Names, String> {
        let mut names = Names::default();
        for pattern in patterns {
            match pattern {
                NamePattern::All => names.is_all = true,
                NamePattern::SameUser => names.is_same_user = true,
                NamePattern::Replication => names.is_replication = true,
                NamePattern::Name(name) => drop(names.names.insert(name.clone(), ())),
                NamePattern::Regex(text) => names.patterns.push(Pattern::new(text)?),
            }
        }
        Ok(names)
    }

    fn fit(&self, name: &str) -> bool {
        self.is_all || self.names.contains_key(name) || self.patterns.iter().any(|pattern| pattern.is_in(name))
    }

    /// The names, where nothing else is in the field.
    fn as_list(&self) -> Option<impl Iterator<Item = &Arc<str>>> {
        let is_more = self.is_all || self.is_same_user || self.is_replication || !self.patterns.is_empty();
        (!is_more).then(|| self.names.keys())
    }
}

fn is_same_family(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
}

/// `address` without what `mask` leaves out; as it is where they are of different families.
fn masked(address: IpAddr, mask: IpAddr) -> IpAddr {
    match (address, mask) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => Ipv4Addr::from_bits(address.to_bits() & mask.to_bits()).into(),
        (IpAddr::V6(address), IpAddr::V6(mask)) => Ipv6Addr::from_bits(address.to_bits() & mask.to_bits()).into(),
        _ => address,
    }
}
