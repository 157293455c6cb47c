//! PostgreSQL's own objects, by name: those that leave nothing in their session, and what the others leave.
//!
//! The lists hold the names of PostgreSQL 15 to 18. A name that they lack is unknown, never clean.

use std::cmp::Ordering;

use crate::generated::functions::EXCEPTIONS;
use crate::traces::Traces;

const FUNCTIONS: &str = include_str!("builtin/functions.txt");
const OPERATORS: &str = include_str!("builtin/operators.txt");
const TYPES: &str = include_str!("builtin/types.txt");
const RELATIONS: &str = include_str!("builtin/relations.txt");
const KEYWORDS: &str = include_str!("builtin/keywords.txt");

/// What a function or an operator leaves behind, and what it does if that is anything. None: it is not PostgreSQL's.
pub(crate) fn function(name: &str) -> Option<(Traces, &'static str)> {
    if let Ok(at) = EXCEPTIONS.binary_search_by_key(&name, |(listed, _, _)| listed) {
        return Some((EXCEPTIONS[at].1, EXCEPTIONS[at].2));
    }
    (is_listed(FUNCTIONS, name) || is_operator(name)).then_some((Traces::NONE, ""))
}

/// Whether PostgreSQL has an operator of that name.
pub(crate) fn is_operator(name: &str) -> bool {
    is_listed(OPERATORS, name)
}

/// Whether PostgreSQL has a type of that name.
pub(crate) fn is_type(name: &str) -> bool {
    is_listed(TYPES, name)
}

/// What using a system catalogue, a system view or a view of information_schema leaves behind. None: it is none of them.
pub(crate) fn relation(name: &str, writes: bool) -> Option<(Traces, &'static str)> {
    match name {
        // Its rule for UPDATE calls set_config.
        "pg_settings" if writes => Some((Traces::ANY_SETTING, "an update of it sets settings of the session")),
        _ if !is_listed(RELATIONS, name) => None,
        _ if is_of_server(name) => Some((Traces::PRIMARY, "each server has its own rows of it")),
        _ => Some((Traces::NONE, "")),
    }
}

/// Whether a system view tells of the server that is asked, not of the database that all of a cluster have.
fn is_of_server(name: &str) -> bool {
    const OTHERS: [&str; 18] = [
        "pg_aios",
        "pg_available_extension_versions",
        "pg_available_extensions",
        "pg_backend_memory_contexts",
        "pg_config",
        "pg_cursors",
        "pg_file_settings",
        "pg_hba_file_rules",
        "pg_ident_file_mappings",
        "pg_locks",
        "pg_prepared_statements",
        "pg_prepared_xacts",
        "pg_replication_origin_status",
        "pg_replication_slots",
        "pg_settings",
        "pg_shmem_allocations",
        "pg_shmem_allocations_numa",
        "pg_wait_events",
    ];
    // pg_stats and the like hold what ANALYZE found, which is the same on all.
    let is_analysed = name.starts_with("pg_stats") || name.starts_with("pg_statistic");
    !is_analysed && (name.starts_with("pg_stat") || OTHERS.contains(&name))
}

/// Whether it is a word that stands before a parenthesis without being called.
pub(crate) fn is_keyword(name: &str) -> bool {
    is_listed(KEYWORDS, name)
}

/// Whether a sorted list of lines has that line.
fn is_listed(list: &str, name: &str) -> bool {
    let (list, name) = (list.as_bytes(), name.as_bytes());
    let (mut low, mut high) = (0, list.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let start = memchr::memrchr(b'\n', &list[low..middle]).map_or(low, |at| low + at + 1);
        let end = memchr::memchr(b'\n', &list[middle..]).map_or(list.len(), |at| middle + at);
        match list[start..end].cmp(name) {
            Ordering::Less => low = end + 1,
            Ordering::Greater => high = start,
            Ordering::Equal => return true,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_name_is_found_and_no_other() {
        for list in [FUNCTIONS, OPERATORS, TYPES, RELATIONS, KEYWORDS] {
            assert!(list.lines().is_sorted(), "a search by halves needs order");
            for name in list.lines() {
                assert!(is_listed(list, name), "{name}");
                assert!(!is_listed(list, &format!("{name}\u{1}")), "{name} and a byte more");
            }
            assert!(!is_listed(list, "") && !is_listed(list, "\n") && !is_listed(list, "\u{ff}"));
        }
    }

    #[test]
    fn exceptions_are_sorted_and_not_listed_as_clean() {
        assert!(EXCEPTIONS.is_sorted_by_key(|(name, _, _)| name));
        for (name, traces, _) in EXCEPTIONS {
            assert!(!traces.is_none() && !is_listed(FUNCTIONS, name), "{name}");
            assert_eq!(function(name).map(|(traces, _)| traces), Some(*traces), "{name}");
        }
    }

    /// A function that slips out of the exceptions would let one client's session reach the next.
    #[test]
    fn what_changes_a_session_is_no_clean_function() {
        let of = |name| function(name).map(|(traces, _)| traces);
        assert_eq!(of("lower"), Some(Traces::NONE));
        assert_eq!(of("<->"), Some(Traces::NONE));
        assert_eq!(of("pg_try_advisory_lock"), Some(Traces::LOCK));
        assert_eq!(of("pg_advisory_xact_lock"), Some(Traces::PRIMARY));
        assert_eq!(of("query_to_xml"), Some(Traces::OPAQUE));
        assert_eq!(of("dblink"), None);
        assert_eq!(relation("pg_class", true).map(|(traces, _)| traces), Some(Traces::NONE));
        assert_eq!(relation("pg_settings", true).map(|(traces, _)| traces), Some(Traces::ANY_SETTING));
        assert_eq!(relation("orders", false), None);
    }
}
