//! Extensions whose functions in C were reviewed.

use crate::traces::Traces;

/// Extensions that ship with PostgreSQL, and others of wide use, whose functions in C leave nothing in their session.
///
/// They compute from their arguments, or read what the server knows. Their functions in SQL and PL/pgSQL are judged by
/// their bodies as anybody's.
const REVIEWED: [&str; 33] = [
    "bloom",
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "dict_int",
    "dict_xsyn",
    "earthdistance",
    "fuzzystrmatch",
    "hstore",
    "insert_username",
    "intagg",
    "intarray",
    "isn",
    "lo",
    "ltree",
    "moddatetime",
    "pageinspect",
    "pg_buffercache",
    "pg_freespacemap",
    "pg_stat_statements",
    "pg_trgm",
    "pg_visibility",
    "pgcrypto",
    "pgrowlocks",
    "pgstattuple",
    "seg",
    "sslinfo",
    "tablefunc",
    "tsm_system_rows",
    "unaccent",
    "uuid-ossp",
    "vector",
];

/// What a function in C, or one in PostgreSQL itself, leaves behind that came with an extension.
pub(super) fn judge(extension: &str, function: &str) -> Traces {
    if REVIEWED.binary_search(&extension).is_err() {
        return Traces::OPAQUE;
    }
    match (extension, function) {
        // They run the SQL that their arguments tell.
        ("tablefunc", name) if name.starts_with("crosstab") || name == "connectby" => Traces::OPAQUE,
        // The trigger unlinks large objects.
        ("lo", "lo_manage") => Traces::WRITES,
        _ => Traces::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_reviewed_is_clean() {
        assert!(REVIEWED.is_sorted());
        assert_eq!(judge("pg_trgm", "similarity"), Traces::NONE);
        assert_eq!(judge("tablefunc", "normal_rand"), Traces::NONE);
        assert_eq!(judge("tablefunc", "crosstab4"), Traces::OPAQUE);
        assert_eq!(judge("dblink", "dblink"), Traces::OPAQUE);
        assert_eq!(judge("lo", "lo_manage"), Traces::WRITES);
    }
}
