//! What servers are asked about a COMMIT, and how their answers are read.
//!
//! Both questions are answered by functions that every role may call. `pg_logical_emit_message` with `flush` needs
//! PostgreSQL 17.

use super::decide::{Known, Status, Told};

/// The oldest PostgreSQL that can be asked.
pub(super) const MAJOR_MIN: u32 = 17;

/// Asked in the transaction, before its COMMIT goes out. One that has an id, so that it may have written, leaves a record of
/// it in the WAL and has that flushed.
pub(super) const BEFORE: &str = "SELECT x, CASE WHEN x IS NOT NULL THEN \
pg_catalog.pg_logical_emit_message(false, 'forebay', ''::pg_catalog.text, true) END, CASE WHEN x IS NOT NULL THEN \
(SELECT system_identifier FROM pg_catalog.pg_control_system()) END, CASE WHEN x IS NOT NULL THEN \
pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) END, \
pg_catalog.current_setting('synchronous_commit') FROM pg_catalog.pg_current_xact_id_if_assigned() AS x";

/// Asked when its answer was lost. Where it is committed, what asks writes as well, and waits for replicas as the commit
/// itself has: what a crash has cut short proves nothing of them.
///
/// An id beyond those that have ended is not given to `pg_xact_status`, which fails for one that was never given out.
pub(super) fn after(known: &Known, asked_before: u32) -> String {
    let Known { xid, waits_for, .. } = known;
    // The server itself waits between two questions.
    let pause = if asked_before > 0 { "SELECT pg_catalog.pg_sleep(0.1);" } else { "" };
    format!(
        "{pause}SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system()), \
CASE WHEN NOT r THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) END, \
CASE WHEN NOT r THEN pg_catalog.pg_current_wal_insert_lsn() END, pg_catalog.pg_last_wal_replay_lsn(), \
pg_catalog.pg_last_xact_replay_timestamp() IS NOT NULL, s, \
CASE WHEN s OPERATOR(pg_catalog.=) 'committed' THEN \
pg_catalog.pg_logical_emit_message(true, 'forebay', ''::pg_catalog.text) END, \
pg_catalog.set_config('synchronous_commit', '{waits_for}', true) \
FROM (SELECT pg_catalog.pg_is_in_recovery() AS r, CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL \
WHEN '{xid}'::pg_catalog.xid8 OPERATOR(pg_catalog.<) pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot()) \
THEN pg_catalog.pg_xact_status('{xid}'::pg_catalog.xid8) ELSE 'in progress' END AS s OFFSET 0) AS q"
    )
}

/// A row's values.
type Row<'a> = &'a [Option<&'a [u8]>];

/// What is known of the transaction from here on, but for its endpoint; None: nothing by which it could be found again.
pub(super) fn known(row: Row<'_>) -> Option<Known> {
    let [xid, lsn, system, file, waits_for] = row else { return None };
    let waits_for = text(*waits_for)?;
    // It goes into the text of a question.
    let is_word = waits_for.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    is_word.then_some(())?;
    Some(Known {
        xid: number(*xid)?,
        lsn: lsn_of(*lsn)?,
        system: number(*system)?,
        timeline: timeline_of(*file)?,
        waits_for: waits_for.into(),
        endpoint: "".into(),
    })
}

/// What a server says of it. None: a row of something else, or one that can't be read.
pub(super) fn told(row: Row<'_>) -> Option<Told> {
    let [system, file, written, replayed, was_standby, status, _, _] = row else { return None };
    let writes = match (file, written) {
        (None, None) => None,
        (file, written) => Some((timeline_of(*file)?, lsn_of(*written)?)),
    };
    let replayed = match replayed {
        None => None,
        replayed => Some(lsn_of(*replayed)?),
    };
    let was_standby = *was_standby == Some(b"t".as_slice());
    let status = status.and_then(Status::of);
    Some(Told { system: number(*system)?, writes, replayed, was_standby, status, is_elsewhere: false })
}

fn text(value: Option<&[u8]>) -> Option<&str> {
    std::str::from_utf8(value?).ok()
}

fn number(value: Option<&[u8]>) -> Option<u64> {
    text(value)?.parse().ok()
}

/// `16/B374D848`.
fn lsn_of(value: Option<&[u8]>) -> Option<u64> {
    let (high, low) = text(value)?.split_once('/')?;
    Some(u64::from(u32::from_str_radix(high, 16).ok()?) << 32 | u64::from(u32::from_str_radix(low, 16).ok()?))
}

/// The name of a WAL file begins with it.
fn timeline_of(file: Option<&[u8]>) -> Option<u32> {
    u32::from_str_radix(text(file)?.get(..8)?, 16).ok()
}

/// Whether a text is a COMMIT and nothing else, without AND CHAIN.
pub(super) fn is_commit(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    let text = text.strip_suffix(b";").unwrap_or(text);
    let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let is = |word: Option<&[u8]>, known: [&str; 2]| {
        word.is_some_and(|word| known.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes())))
    };
    let is_commit = is(words.next(), ["commit", "end"]);
    let second = words.next();
    is_commit && (second.is_none() || is(second, ["work", "transaction"])) && words.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(values: &[Option<&'a str>]) -> Vec<Option<&'a [u8]>> {
        values.iter().map(|value| value.map(str::as_bytes)).collect()
    }

    #[test]
    fn what_postgresql_says_is_read() {
        let before =
            [Some("755"), Some("1/706F70"), Some("7713501470476363615"), Some("0000000A0000000100000001"), Some("on")];
        let expected = Known {
            system: 7_713_501_470_476_363_615,
            timeline: 10,
            xid: 755,
            lsn: 0x1_0070_6F70,
            waits_for: "on".into(),
            endpoint: "".into(),
        };
        assert_eq!(known(&row(&before)), Some(expected));
        let after = [
            Some("7"),
            Some("000000010000000000000001"),
            Some("0/10"),
            None,
            Some("f"),
            Some("aborted"),
            None,
            Some("on"),
        ];
        let expected = Told {
            system: 7,
            writes: Some((1, 16)),
            replayed: None,
            was_standby: false,
            status: Some(Status::Aborted),
            is_elsewhere: false,
        };
        assert_eq!(told(&row(&after)), Some(expected));
        let standby = [Some("7"), None, None, Some("0/20"), Some("t"), None, None, Some("on")];
        let expected =
            Told { system: 7, writes: None, replayed: Some(32), was_standby: true, status: None, is_elsewhere: false };
        assert_eq!(told(&row(&standby)), Some(expected));
    }

    /// What can't be read must not become a position or a number by chance.
    #[test]
    fn what_is_malformed_says_nothing() {
        let before = [Some("755"), Some("1/706F70"), Some("77"), Some("0000000A0000000100000001"), Some("on")];
        for (at, value) in [
            (0, None),
            (0, Some("x")),
            (1, Some("17")),
            (1, Some("1/2/3")),
            (2, Some("-7")),
            (3, Some("0000000")),
            (4, Some("on'; drop table x; --")),
            (4, None),
        ] {
            let mut values = before;
            values[at] = value;
            assert_eq!(known(&row(&values)), None, "{at} {value:?}");
        }
        assert_eq!(told(&row(&[Some("")])), None, "the row of a pause");
        let half = [Some("7"), Some("000000010000000000000001"), None, None, Some("f"), None, None, Some("on")];
        assert_eq!(told(&row(&half)), None);
    }

    /// What ends something else as well, or begins anew, is not known by the end of one transaction.
    #[test]
    fn only_a_commit_alone_is_one() {
        for text in ["commit", " COMMIT ; ", "End", "commit work", "END\n TRANSACTION;"] {
            assert!(is_commit(text.as_bytes()), "{text}");
        }
        for text in
            ["", ";", "commit and chain", "commit; select 1", "commit;;", "commit prepared 'x'", "rollback", "work"]
        {
            assert!(!is_commit(text.as_bytes()), "{text}");
        }
    }
}
