//! Functions and types that are PostgreSQL's own, as far as a shape says something about them.

use crate::traces::Traces;

/// What a call of a built-in function leaves behind, beside what the catalogue knows about the name.
pub(super) fn traces_of_function(name: &str) -> Traces {
    match name {
        "nextval" | "setval" => Traces::SEQUENCE | Traces::WRITES,
        "currval" | "lastval" => Traces::READS_SEQUENCE,
        "setseed" => Traces::SEED,
        "pg_listening_channels" => Traces::LISTEN,
        "pg_notify" => Traces::NOTIFY,
        "pg_advisory_lock"
        | "pg_advisory_lock_shared"
        | "pg_try_advisory_lock"
        | "pg_try_advisory_lock_shared"
        | "pg_advisory_unlock"
        | "pg_advisory_unlock_shared"
        | "pg_advisory_unlock_all" => Traces::LOCK,
        "lo_creat" | "lo_create" | "lo_from_bytea" | "lo_import" | "lo_open" | "lo_put" | "lo_truncate"
        | "lo_truncate64" | "lo_unlink" | "lowrite" => Traces::WRITES,
        // They run SQL that is text to the grammar.
        "query_to_xml"
        | "query_to_xmlschema"
        | "query_to_xml_and_xmlschema"
        | "cursor_to_xml"
        | "cursor_to_xmlschema"
        | "table_to_xml"
        | "table_to_xml_and_xmlschema"
        | "schema_to_xml"
        | "schema_to_xml_and_xmlschema"
        | "database_to_xml"
        | "database_to_xml_and_xmlschema"
        | "ts_stat"
        | "ts_rewrite" => Traces::OPAQUE,
        // State of a session that nothing reads back.
        "pg_replication_origin_session_setup"
        | "pg_replication_origin_session_reset"
        | "pg_create_logical_replication_slot"
        | "pg_create_physical_replication_slot"
        | "pg_copy_logical_replication_slot"
        | "pg_copy_physical_replication_slot" => Traces::OPAQUE,
        _ => Traces::NONE,
    }
}

/// Whether it is a type of PostgreSQL's own, or the array of one.
pub(super) fn is_builtin_type(name: &str) -> bool {
    let element = name.strip_prefix('_').unwrap_or(name);
    BUILTIN_TYPES.binary_search(&element).is_ok()
}

/// Sorted. From pg_type of PostgreSQL 15 without rows of catalogues; the spellings of `serial` are the grammar's.
#[rustfmt::skip]
const BUILTIN_TYPES: [&str; 113] = [
    "aclitem", "any", "anyarray", "anycompatible", "anycompatiblearray", "anycompatiblemultirange",
    "anycompatiblenonarray", "anycompatiblerange", "anyelement", "anyenum", "anymultirange", "anynonarray",
    "anyrange", "bigserial", "bit", "bool", "box", "bpchar", "bytea", "char", "cid", "cidr", "circle", "cstring",
    "date", "datemultirange", "daterange", "event_trigger", "fdw_handler", "float4", "float8", "gtsvector",
    "index_am_handler", "inet", "int2", "int2vector", "int4", "int4multirange", "int4range", "int8", "int8multirange",
    "int8range", "internal", "interval", "json", "jsonb", "jsonpath", "language_handler", "line", "lseg", "macaddr",
    "macaddr8", "money", "name", "numeric", "nummultirange", "numrange", "oid", "oidvector", "path",
    "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary", "pg_ddl_command", "pg_dependencies", "pg_lsn",
    "pg_mcv_list", "pg_ndistinct", "pg_node_tree", "pg_snapshot", "point", "polygon", "record", "refcursor",
    "regclass", "regcollation", "regconfig", "regdictionary", "regnamespace", "regoper", "regoperator", "regproc",
    "regprocedure", "regrole", "regtype", "serial", "serial2", "serial4", "serial8", "smallserial",
    "table_am_handler", "text", "tid", "time", "timestamp", "timestamptz", "timetz", "trigger", "tsm_handler",
    "tsmultirange", "tsquery", "tsrange", "tstzmultirange", "tstzrange", "tsvector", "txid_snapshot", "unknown",
    "uuid", "varbit", "varchar", "void", "xid", "xid8", "xml",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Binary search finds nothing in a list that is out of order.
    #[test]
    fn types_are_sorted() {
        assert!(BUILTIN_TYPES.is_sorted());
        assert!(is_builtin_type("_int4") && is_builtin_type("xml") && !is_builtin_type("citext"));
    }
}
