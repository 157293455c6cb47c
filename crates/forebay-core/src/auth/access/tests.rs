//! Which rule decides, checked against a plain reading of the list from its top.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::config::MapLine;

fn rule(kind: ConnectionKind, databases: &[&str], users: &[&str], network: Option<&str>) -> AccessRule {
    let names = |names: &[&str]| names.iter().map(|name| pattern(name)).collect();
    AccessRule {
        place: Arc::from("pg_hba.conf:1"),
        kind,
        databases: names(databases),
        users: names(users),
        network: network.map(|text| {
            let (address, mask) = text.split_once('/').expect("an address and a mask");
            (address.parse().expect("an address"), mask.parse().expect("a mask"))
        }),
        method: AuthMethod::Md5,
        map: None,
        certificate: CertificateDemand::None,
        service: 0,
    }
}

fn pattern(name: &str) -> NamePattern {
    match name {
        "all" => NamePattern::All,
        "sameuser" => NamePattern::SameUser,
        "replication" => NamePattern::Replication,
        _ => name.strip_prefix('/').map_or_else(|| NamePattern::Name(name.into()), |t| NamePattern::Regex(t.into())),
    }
}

fn arrival<'a>(address: Option<&str>, database: &'a str, user: &'a str) -> Arrival<'a> {
    let address = address.map(|text| text.parse::<IpAddr>().expect("an address"));
    Arrival { address, is_encrypted: false, is_physical_replication: false, database, user }
}

fn numbered(mut rules: Vec<AccessRule>) -> Vec<AccessRule> {
    for (index, rule) in rules.iter_mut().enumerate() {
        rule.service = u32::try_from(index).expect("few rules");
    }
    rules
}

fn decides(rules: &[AccessRule], arrival: Arrival<'_>) -> Option<u32> {
    Rules::build(&numbered(rules.to_vec())).expect("they can be read").decide(arrival).map(|demand| demand.service)
}

/// A rule that fits too much lets strangers in; one that fits too little locks users out.
#[test]
fn each_field_of_a_rule_is_held_against_the_client() {
    use ConnectionKind::{Host, HostNoSsl, HostSsl, Local};
    let of = |rule: AccessRule, arrival: Arrival<'_>| decides(&[rule], arrival).is_some();
    let tcp = arrival(Some("10.0.0.7"), "shop", "app");
    let socket = arrival(None, "shop", "app");
    let tls = Arrival { is_encrypted: true, ..tcp };
    for (kind, fits) in [
        (Local, [true, false, false]),
        (Host, [false, true, true]),
        (HostSsl, [false, false, true]),
        (HostNoSsl, [false, true, false]),
    ] {
        let found = [socket, tcp, tls].map(|arrival| of(rule(kind, &["all"], &["all"], None), arrival));
        assert_eq!(found, fits, "{kind:?}");
    }
    let host = |databases: &[&str], users: &[&str], network| rule(Host, databases, users, network);
    for (rule, is_fit) in [
        (host(&["shop"], &["app"], None), true),
        (host(&["other", "shop"], &["all"], None), true),
        (host(&["Shop"], &["all"], None), false),
        (host(&["sameuser"], &["all"], None), false),
        (host(&["replication"], &["all"], None), false),
        (host(&["/^sh"], &["/pp$"], None), true),
        (host(&["/^sh$"], &["all"], None), false),
        (host(&["all"], &["ap"], None), false),
        (host(&["all"], &["all"], Some("10.0.0.0/255.0.0.0")), true),
        (host(&["all"], &["all"], Some("10.1.2.3/255.0.0.255")), false),
        (host(&["all"], &["all"], Some("10.1.2.7/255.0.0.255")), true),
        (host(&["all"], &["all"], Some("10.0.0.8/255.255.255.255")), false),
        (host(&["all"], &["all"], Some("::/::")), false),
    ] {
        assert_eq!(of(rule.clone(), tcp), is_fit, "{rule:?}");
    }
    let same = arrival(Some("::ffff:10.0.0.7"), "app", "app");
    assert!(
        of(host(&["sameuser"], &["all"], Some("10.0.0.7/255.255.255.255")), same),
        "an IPv4 client on an IPv6 socket"
    );
    let replication = Arrival { is_physical_replication: true, ..tcp };
    assert!(!of(host(&["all", "shop", "sameuser"], &["all"], None), replication), "all is no replication");
    assert!(of(host(&["replication"], &["all"], None), replication));
}

/// What nothing admits is turned away, and a rejection further up is not passed by.
#[test]
fn the_first_rule_that_fits_decides_and_none_is_none() {
    let rules = [
        rule(ConnectionKind::Host, &["all"], &["bad"], None),
        rule(ConnectionKind::Host, &["all"], &["all"], Some("10.0.0.0/255.0.0.0")),
        rule(ConnectionKind::Host, &["shop"], &["all"], None),
        rule(ConnectionKind::Host, &["all"], &["all"], Some("10.0.0.0/255.255.0.0")),
    ];
    assert_eq!(decides(&rules, arrival(Some("10.0.0.1"), "shop", "bad")), Some(0));
    assert_eq!(decides(&rules, arrival(Some("10.0.0.1"), "shop", "app")), Some(1));
    assert_eq!(decides(&rules, arrival(Some("11.0.0.1"), "shop", "app")), Some(2));
    assert_eq!(decides(&rules, arrival(Some("11.0.0.1"), "other", "app")), None);
    assert_eq!(decides(&[], arrival(None, "shop", "app")), None);
}

/// An expression that PostgreSQL reads otherwise might admit whom its author did not mean.
#[test]
fn expressions_that_mean_something_else_in_postgresql_are_refused() {
    for text in [r"\bapp", r"a\Bb", r"\<app", "(?i)app", "[a-z&&b]", "[a--b]", "(", "a{5000}{5000}", &"a".repeat(1_025)]
    {
        assert!(Pattern::new(text).is_err(), "{text}");
    }
    for text in [r"\\b", "^db[0-9]+$", r"^(.*)@example\.org$", r"[[:alpha:]_]\d", "a|b"] {
        assert!(Pattern::new(text).is_ok(), "{text}");
    }
}

/// Whoever is mapped to more names than meant is somebody else at will.
#[test]
fn maps_say_who_may_log_in_as_whom() {
    let line =
        |map: &str, system: &str, user: &str| MapLine { map: map.into(), system: pattern(system), user: pattern(user) };
    let maps = Maps::build(&[
        line("m", "root", "postgres"),
        line("m", "root", "app"),
        line("any", "ops", "all"),
        line("mail", r"/^(.*)@example\.org$", r"\1"),
        line("mail", r"/^(.*)@example\.org$", r"team_\1_x"),
        line("mail", r"/^guest", "/^guest_"),
        line("plain", "root", r"\1"),
    ])
    .expect("they can be read");
    for (map, system, user, is_allowed) in [
        (None, "app", "app", true),
        (None, "root", "app", false),
        (Some("m"), "root", "app", true),
        (Some("m"), "root", "root", false),
        (Some("m"), "app", "app", false),
        (Some("none"), "app", "app", false),
        (Some("any"), "ops", "whoever", true),
        (Some("mail"), "ann@example.org", "ann", true),
        (Some("mail"), "ann@example.org", "team_ann_x", true),
        (Some("mail"), "ann@example.org", "team_anne_x", false),
        (Some("mail"), "ann@example.org", "bob", false),
        (Some("mail"), "@example.org", "", false),
        (Some("mail"), "ann@example.com", "ann", false),
        (Some("mail"), "guest7", "guest_a", true),
        (Some("mail"), "guest7", "a", false),
        (Some("plain"), "root", r"\1", true),
    ] {
        assert_eq!(maps.allow(map, system, user), is_allowed, "{map:?} {system} {user}");
    }
    assert!(Maps::build(&[line("m", "/^a", r"\1")]).is_err(), "there is no group");
    assert!(Maps::build(&[line("m", "/(", "a")]).is_err());
}

/// Twenty thousand rules must not keep a loop busy at each login.
#[test]
fn a_login_looks_at_the_rules_that_may_fit_alone() {
    let mut rules: Vec<_> = (0..20_000_u32)
        .map(|n| {
            let [_, b, c, d] = n.to_be_bytes();
            let (user, database) = (format!("u{n}"), format!("d{n}"));
            match n % 3 {
                0 => rule(ConnectionKind::Host, &["all"], &[&user], None),
                1 => rule(ConnectionKind::Host, &[&database], &["all"], None),
                _ => rule(ConnectionKind::Host, &["all"], &["all"], Some(&format!("10.{b}.{c}.{d}/255.255.255.255"))),
            }
        })
        .collect();
    rules.push(rule(ConnectionKind::Host, &["all"], &["all"], Some("11.0.0.0/255.0.0.0")));
    let rules = Rules::build(&numbered(rules)).expect("they can be read");
    assert_eq!(rules.general.len(), 0);
    assert!(rules.by_user.values().chain(rules.by_database.values()).all(|list| list.len() == 1));
    assert_eq!(rules.by_network.len(), 2);
    assert_eq!(rules.decide(arrival(Some("11.1.1.1"), "shop", "app")).map(|d| d.service), Some(20_000));
    assert_eq!(rules.decide(arrival(Some("11.1.1.1"), "d19999", "app")).map(|d| d.service), Some(19_999));
}

fn plainly(rules: &[AccessRule], arrival: Arrival<'_>) -> Option<u32> {
    let index = rules.iter().position(|rule| decides(std::slice::from_ref(rule), arrival).is_some())?;
    u32::try_from(index).ok()
}

proptest! {
    /// The places that rules are filed under change nothing about which comes first.
    #[test]
    fn the_rule_found_is_the_first_of_the_list_that_fits(
        drawn in proptest::collection::vec((0..4_usize, 0..6_usize, 0..6_usize, 0..5_usize), 0..12),
        database in 0..3_usize, user in 0..3_usize, from in 0..4_usize, is_encrypted: bool, is_physical_replication: bool,
    ) {
        use ConnectionKind::{Host, HostNoSsl, HostSsl, Local};
        const NAMES: [&[&str]; 6] = [&["all"], &["a"], &["b", "a"], &["sameuser"], &["/^a"], &["replication", "c"]];
        const NETWORKS: [Option<&str>; 5] =
            [None, Some("10.0.0.0/255.0.0.0"), Some("10.0.0.1/255.255.255.255"), Some("::1/ffff::"), Some("0.0.0.0/0.0.0.0")];
        let rules: Vec<_> = drawn
            .iter()
            .map(|&(k, d, u, n)| rule([Local, Host, HostSsl, HostNoSsl][k], NAMES[d], NAMES[u % 3], NETWORKS[n]))
            .collect();
        let address = [None, Some("10.0.0.1"), Some("11.0.0.1"), Some("::1")][from];
        let names = ["a", "b", "c"];
        let arrival = Arrival { is_encrypted, is_physical_replication, ..arrival(address, names[database], names[user]) };
        prop_assert_eq!(decides(&rules, arrival), plainly(&rules, arrival));
    }
}
