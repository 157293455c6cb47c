//! What statements leave behind and name (`shapes.txt`), and that no bytes are too much.

use proptest::prelude::*;

use super::*;
use crate::fuzz_entry;

/// Statements, each followed by its shape on an indented line, as [`line`] writes it.
const SHAPES: &str = include_str!("shapes.txt");

/// A shape in one line: verb, name, traces and settings of each statement, then what the text names.
fn line(shape: &Shape) -> String {
    let mut line = String::new();
    for (at, statement) in shape.statements.iter().enumerate() {
        line += if at == 0 { "" } else { "; " };
        line += &format!("{:?}", statement.verb);
        if let Some(name) = &statement.name {
            line += &format!(" {name}");
        }
        line += statement.modes.read_only.map_or("", |is| if is { " read only" } else { " read write" });
        let traces: Vec<_> = statement.traces.names().collect();
        if !traces.is_empty() {
            line += &format!(" <{}>", traces.join(", "));
        }
        if !statement.settings.is_empty() {
            line += &format!(" {{{}}}", statement.settings.join(", "));
        }
    }
    let lists = [
        ("fn", &shape.functions),
        ("maybe", &shape.maybe_functions),
        ("rel", &shape.relations),
        ("type", &shape.types),
    ];
    for (what, names) in lists {
        if !names.is_empty() {
            line += &format!(" | {what} {}", names.join(" "));
        }
    }
    match (shape.is_parsed, line.is_empty()) {
        (false, _) => format!("refused: {line}"),
        (true, true) => "nothing".into(),
        (true, false) => line,
    }
}

fn plain(text: impl AsRef<[u8]>) -> Shape {
    parse(text.as_ref(), Backslash::Plain)
}

/// A trace that is missing here is state of one client that another finds.
#[test]
fn every_statement_has_the_shape_that_is_written_under_it() {
    let lines: Vec<_> = SHAPES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert!(lines.len() > 300, "the table was read");
    let mut wrong = String::new();
    for pair in lines.chunks(2) {
        let [text, expected] = pair else { panic!("a statement without a shape: {pair:?}") };
        let found = line(&plain(text));
        if found != expected.trim() {
            wrong += &format!("{text}\n    expected {}\n    found    {found}\n", expected.trim());
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn a_text_has_the_traces_of_all_its_statements() {
    let shape = plain("set a.b = 1; select nextval('s'); listen c");
    assert_eq!(shape.traces, Traces::SETTING | Traces::SEQUENCE | Traces::WRITES | Traces::LISTEN);
    assert_eq!(shape.settings().collect::<Vec<_>>(), ["a.b"]);
}

/// Read as if a backslash were itself, the string would go on and hide the call.
#[test]
fn a_backslash_means_what_the_session_says() {
    let text = br"select 'a\', set_config('work_mem', '1', false), '' -- '";
    assert_eq!(line(&parse(text, Backslash::Plain)), "Select <setting> {work_mem} | fn set_config");
    let text = br"select 'it\'s', set_config('work\x5fmem', n'\'1', false), E'\\' 'x' -- '";
    assert_eq!(line(&plain(text)), "refused: Other <opaque>");
    assert_eq!(line(&parse(text, Backslash::Escape)), "refused: Other <opaque>", "two strings on one line");
    let text = br"select'it\'s', set_config('work\x5fmem', n'\'1', false), E'\\'
        'x\'', 'y' -- '";
    assert_eq!(line(&parse(text, Backslash::Escape)), "Select <setting> {work_mem} | fn set_config");
}

#[test]
fn bytes_that_are_no_text_may_do_anything() {
    for text in [&b"select '\xff'"[..], b"select 1\0", b"\xc3", b"select '\xed\xa0\x80'"] {
        assert_eq!(line(&plain(text)), "refused: Other <opaque>", "{}", text.escape_ascii());
    }
    // Escapes are checked by the grammar itself.
    for text in [r"select E'\xff'", r"select U&'\d800'", r"select E'\000'"] {
        assert_eq!(line(&plain(text)), "refused: Other <opaque>", "{text}");
    }
    let long = "é".repeat(100);
    assert!(
        plain(format!("select {long} from \"{long}\"")).relations[0].len() < 64,
        "names are cut as PostgreSQL cuts"
    );
}

/// What is nested, chained or long, each over and over.
fn towers() -> Vec<(&'static str, String)> {
    let towers = [
        ("", "(", ")", "select 1"),
        ("select ", "(", ")", "1"),
        ("select ", "1 + ", "", "1"),
        ("select ", "not ", "", "true"),
        ("select ", "- ", "", "1"),
        ("select ", "(select ", ")", "1"),
        ("select ", "array[", "]", "1"),
        ("select ", "f(", ")", "1"),
        ("select ", "case when true then ", " end", "1"),
        ("select 1", " union select 1", "", ""),
        ("select 1", " union (select 1", ")", ""),
        ("select * from t", " join t using (a)", "", ""),
        ("select * from ", "(t join ", " on true)", "t"),
        ("select * from ", "(select * from ", ") x", "t"),
        ("select a", ".b", "", ""),
        ("select a", "::my_type", "", ""),
        ("select a", "[1]", "", ""),
        ("select a in (1", ", 1", "", ")"),
        ("select 1", ", 1", "", ""),
        ("select true", " and true", "", ""),
        ("insert into t values (1)", ", (1)", "", ""),
        ("", "select 1;", "", ""),
        ("", "explain ", "", "select 1"),
        ("", "with a as (", ") select 1", "select 1"),
        ("with a as (select 1)", ", a as (select * from a)", "", " select 1"),
        ("create schema s", " create table t (a int)", "", ""),
        ("", "/*", "*/", ""),
        ("select ", "'a'\n", "", ""),
        ("select ", "$$", "", ""),
    ];
    let mut texts = Vec::new();
    for (before, open, close, middle) in towers {
        for count in [300, 4000, 100_000] {
            let (open, close) = (open.repeat(count), close.repeat(count));
            texts.push((before, format!("{before}{open}{middle}{close}")));
        }
    }
    texts
}

/// A stack overflow ends the process, and every client with it.
#[test]
fn no_tower_of_anything_overflows_a_small_stack() {
    let builder = std::thread::Builder::new().stack_size(512 * 1024);
    let run = builder.spawn(|| {
        for (what, text) in towers() {
            for backslash in [Backslash::Plain, Backslash::Escape] {
                let shape = parse(text.as_bytes(), backslash);
                assert!(shape.is_parsed || shape.traces.has(Traces::OPAQUE), "{what}");
                assert!(text.len() <= TEXT_BYTES_MAX || !shape.is_parsed, "{what}");
            }
        }
    });
    run.expect("a thread starts").join().expect("no tower is too high");
}

#[test]
fn a_chain_of_thousands_is_still_read_to_its_end() {
    let chain = "1 + ".repeat(9000);
    assert_eq!(
        line(&plain(format!("select {chain} set_config('a.b', 'c', false)"))),
        "Select <setting> {a.b} | fn + set_config"
    );
    let ctes: Vec<_> = (0..600).map(|n| format!("c{n} as (select 1)")).collect();
    assert_eq!(line(&plain(format!("with {} select 1", ctes.join(", ")))), "refused: Other <opaque>");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Statements cut and joined anywhere: no panic, and nothing that is refused is called harmless.
    #[test]
    fn any_pieces_of_statements_have_a_shape(
        pieces in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<bool>()), 1..4),
        backslash in 0..2_u8,
    ) {
        let statements: Vec<_> = SHAPES.lines().filter(|line| !line.starts_with([' ', '#'])).collect();
        let mut text = vec![backslash];
        for (which, cut, is_head) in pieces {
            let statement = statements[which.index(statements.len())].as_bytes();
            let (head, tail) = statement.split_at(cut.index(statement.len() + 1));
            text.extend_from_slice(if is_head { head } else { tail });
        }
        fuzz_entry::shape(&text);
    }
}

/// A pool that refuses pins would refuse an application's tables, or the clean-up of its driver.
#[test]
fn only_what_is_sure_to_outlast_its_transaction_pins() {
    let pins = |text: &str| plain(text).pins;
    let cases = [
        ("create temp table t (a int)", Traces::TEMP),
        ("create table pg_temp.t (a int)", Traces::TEMP),
        ("select 1 as a into temp t", Traces::TEMP),
        ("create temp table t as select 1", Traces::TEMP),
        ("create temp sequence s", Traces::TEMP),
        ("create temp view v as select 1", Traces::TEMP),
        ("select pg_try_advisory_lock(1), setseed(0.5)", Traces::LOCK | Traces::SEED),
        ("set seed = 0.5", Traces::SEED),
        ("declare c cursor with hold for select 1", Traces::CURSOR),
        ("prepare p as select 1", Traces::PREPARED),
        ("set session authorization bob", Traces::AUTHORIZATION),
        ("select set_config('session_authorization', 'bob', false)", Traces::AUTHORIZATION),
        ("load 'auto_explain'", Traces::LIBRARY),
        ("create function pg_temp.f() returns int language sql as 'select 1'", Traces::TEMP),
        ("create type pg_temp.t as (a int)", Traces::TEMP),
        ("create type pg_temp.t as enum ('a')", Traces::TEMP),
        ("create domain pg_temp.d as int", Traces::TEMP),
        ("explain analyze select pg_advisory_lock(1)", Traces::LOCK),
    ];
    for (text, expected) in cases {
        assert_eq!(pins(text), expected, "{text}");
    }
    let harmless = [
        "create temp table t (a int) on commit drop",
        "create temp table t on commit drop as select 1",
        "create table t (a int)",
        "create view v as select pg_advisory_lock(1), set_config('session_authorization', 'bob', false)",
        "explain select pg_advisory_lock(1)",
        "explain create temp table t as select 1",
        "create function f() returns int language sql as 'select 1'",
        "create extension hstore",
        "drop table t",
        "discard all",
        "discard temp",
        "deallocate all",
        "close all",
        "declare c cursor for select 1",
        "select pg_advisory_unlock(1), pg_advisory_unlock_all(), pg_advisory_xact_lock(2)",
        "reset session authorization",
        "set session authorization default",
        "select nextval('s'), set_config('a.b', 'c', false)",
    ];
    for text in harmless {
        assert_eq!(pins(text), Traces::NONE, "{text}");
    }
}
