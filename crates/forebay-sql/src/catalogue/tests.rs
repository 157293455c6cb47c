//! What a catalogue says of texts, over rows written by hand. tests/scenarios/test_catalogue.py asks real servers.

use crate::catalogue::{Builder, Catalogue};
use crate::grammar;
use crate::lexer::{Backslash, Kind, Lexer};
use crate::shape::Shape;
use crate::traces::Traces;

/// A catalogue of rows whose columns are divided by bars; an empty column is null.
fn catalogue(rows: &[&str]) -> Catalogue {
    let mut builder = Builder::new();
    for row in rows {
        let mut columns: Vec<Option<&[u8]>> =
            row.splitn(6, '|').map(|column| (!column.is_empty()).then_some(column.as_bytes())).collect();
        columns.resize(6, None);
        builder.row(&columns);
    }
    builder.finish()
}

fn shape(text: &str) -> Shape {
    grammar::parse(text.as_bytes(), Backslash::Plain)
}

fn judge(catalogue: &Catalogue, text: &str) -> Traces {
    catalogue.judge(&shape(text))
}

/// What a function `f` of that body leaves behind, beside a table `orders` with a trigger that takes locks, a function
/// `locker` that takes locks, a domain `code` whose check seeds, and a clean function `plain`.
fn body(language: &str, body: &str) -> Traces {
    let function = format!("function|20000|f|{language}||{body}");
    let catalogue = catalogue(&[
        &function,
        "function|20001|locker|sql||select pg_advisory_lock(1)",
        "function|20002|plain|sql||select 1",
        "function|20003|seeder|sql||select setseed(0.5) is null",
        "relation|20010|orders|r|20011|20012",
        "edge|w20010|f20001|trigger|r",
        "type|20020|code|d|20021",
        "edge|t20020|f20003|constraint|r",
    ]);
    judge(&catalogue, "select f()")
}

#[test]
fn nothing_but_postgresqls_own_is_known_without_rows() {
    let catalogue = Catalogue::builtin();
    assert!(std::sync::Arc::ptr_eq(&catalogue, &Catalogue::builtin()), "it is built once");
    assert_eq!(
        judge(&catalogue, "select lower(relname), oid + 1 from pg_class where oid = any($1::oid[])"),
        Traces::NONE
    );
    assert_eq!(judge(&catalogue, "select table_name from information_schema.tables"), Traces::NONE);
    for unknown in ["select f(1)", "select 1 from orders", "select 'x'::code", "select 1 <~~~> 2"] {
        assert!(judge(&catalogue, unknown).has(Traces::OPAQUE), "{unknown}");
    }
    assert_eq!(
        catalogue.why(&shape("select f(1) from orders")),
        ["function f: it is not known", "relation orders: it is not known"]
    );
    assert!(judge(&catalogue, "select setseed(0.5)").has(Traces::SEED));
    assert_eq!(judge(&catalogue, "begin"), Traces::NONE);
}

#[test]
fn a_shape_remembers_the_answer_of_the_catalogue_that_was_asked_last() {
    let (first, second) = (Catalogue::builtin(), catalogue(&["relation|20010|orders|r|20011|20012"]));
    let shape = shape("select 1 from orders");
    for _ in 0..2 {
        assert!(first.judge(&shape).has(Traces::OPAQUE));
        assert_eq!(second.judge(&shape), Traces::NONE);
        assert_eq!(second.judge(&shape), Traces::NONE);
    }
}

#[test]
fn triggers_and_defaults_matter_to_writes_alone() {
    let catalogue = catalogue(&[
        "function|20001|stamp|plpgsql||begin perform set_config('app.last', new.id::text, false); return new; end",
        "relation|20010|orders|r|20011|20012",
        "relation|20013|recent|v|20014|20015",
        "edge|r20013|r20010|view|b",
        "edge|w20010|f20001|trigger|r",
        "own|w20010|nextval|default",
    ]);
    assert_eq!(judge(&catalogue, "select * from orders join recent using (id)"), Traces::NONE);
    for write in ["insert into orders values (1)", "update recent set id = 2", "delete from recent"] {
        let traces = judge(&catalogue, write);
        assert!(traces.has(Traces::ANY_SETTING | Traces::SEQUENCE | Traces::WRITES), "{write}: {traces:?}");
        assert!(!traces.has_any(Traces::OPAQUE), "{write}: {traces:?}");
    }
    assert_eq!(
        catalogue.why(&shape("delete from recent")),
        [
            "write to relation recent: its view uses relation orders: its trigger uses function stamp: its body calls set_config; \
         its view uses relation orders: its default calls nextval"
        ]
    );
    assert_eq!(catalogue.settings_named(), [Box::from("app.last")]);
}

#[test]
fn a_name_is_what_any_object_of_that_name_is() {
    let catalogue = catalogue(&[
        "function|20001|lower|sql||select pg_notify('a', 'b')",
        "function|20002|twice|sql||select 1",
        "function|20003|twice|c|",
        "relation|20010|pg_class|f|20011|20012",
        "operator|20020|+|23|23",
        "edge|o20020|f20001|function|r",
    ]);
    assert_eq!(judge(&catalogue, "select lower('A')"), Traces::NOTIFY);
    assert_eq!(judge(&catalogue, "select twice()"), Traces::OPAQUE);
    assert_eq!(judge(&catalogue, "select oid from pg_class"), Traces::OPAQUE);
    assert_eq!(judge(&catalogue, "select 1 + 1"), Traces::NOTIFY);
    assert_eq!(judge(&catalogue, "select 1 - 1"), Traces::NONE);
}

#[test]
fn an_operator_between_types_of_the_database_comes_with_these_types() {
    let rows = [
        "function|20001|point_eq|c|",
        "operator|20020|=|20030|20030",
        "operator|20021|=~=|20030|20030",
        "edge|o20020|f20001|function|r",
        "edge|o20021|f20001|function|r",
        "type|20030|geo|b|20031",
        "relation|20010|places|r|20011|20012",
        "edge|r20010|t20030|column or partition key|r",
    ];
    let catalogue = catalogue(&rows);
    assert_eq!(judge(&catalogue, "select 1 where 1 = 2"), Traces::NONE);
    assert_eq!(judge(&catalogue, "select 1 from places"), Traces::OPAQUE);
    assert_eq!(judge(&catalogue, "select 'x'::geo"), Traces::OPAQUE);
    assert_eq!(
        judge(&catalogue, "select 'a' =~= 'b'"),
        Traces::OPAQUE,
        "a symbol that is nobody else's takes literals"
    );
    assert_eq!(catalogue.judge_type(20030) | catalogue.judge_type(20031), Traces::OPAQUE);
    assert_eq!(catalogue.judge_type(23), Traces::NONE);
    assert_eq!(catalogue.judge_type(29999), Traces::OPAQUE, "an unknown type may be anything");
}

#[test]
fn casts_of_postgresqls_own_types_are_in_every_statement_and_event_triggers_in_every_change() {
    let catalogue = catalogue(&[
        "function|20001|to_int|c|",
        "function|20002|on_ddl|plpgsql||begin perform pg_notify('ddl', ''); end",
        "edge|d|f20002|event trigger|r",
    ]);
    assert_eq!(judge(&catalogue, "select 1"), Traces::NONE);
    assert!(judge(&catalogue, "create table t (a int)").has(Traces::NOTIFY | Traces::SCHEMA));
    let with_cast = super::tests::catalogue(&["function|20001|to_int|c|", "edge|a|f20001|cast|r"]);
    assert_eq!(judge(&with_cast, "select 1"), Traces::OPAQUE);
}

#[test]
fn rows_that_are_not_the_querys_make_everything_opaque() {
    let rows = ["", "function|x|f|sql||select 1", "edge|z1|f1|trigger|r", "relation|20000", "novelty|1|2|3", "type|1"];
    for row in rows {
        assert_eq!(judge(&catalogue(&[row]), "select 1"), Traces::OPAQUE, "{row}");
    }
}

#[test]
fn functions_in_c_are_clean_if_their_extension_was_reviewed() {
    let catalogue = catalogue(&[
        "function|20001|similarity|c|pg_trgm",
        "function|20002|crosstab|c|tablefunc",
        "function|20003|dblink_exec|c|dblink",
        "function|20004|mine|c|",
        "function|20005|script|plpython3u|",
    ]);
    assert_eq!(judge(&catalogue, "select similarity('a', 'b')"), Traces::NONE);
    for opaque in ["crosstab", "dblink_exec", "mine", "script"] {
        assert_eq!(judge(&catalogue, &format!("select {opaque}('')")), Traces::OPAQUE, "{opaque}");
    }
}

#[test]
fn bodies_in_plpgsql_that_leave_nothing_are_clean() {
    for clean in [
        "begin return 1; end",
        "declare x int := 0; y numeric(10, 2); begin x := x + 1; if x > 1 then return x; else return lower('A'); end if; end",
        "begin new.stamp = now(); new.items[1] := 2; return new; end",
        "begin for i in 1..10 loop continue when i = 3; end loop; return null; end",
        "<<outer>> declare r record; begin for r in select * from pg_class loop exit outer; end loop outer; end",
        "begin raise exception 'no % of %', 1, 2 using errcode = '22023'; exception when others then null; end",
        "declare c cursor (k int) for select k; begin open c(1); fetch c into x; close c; end",
        "begin return query select case when a then comment else load end from (values (true, 1, 2)) v (a, comment, load); end",
        "begin return (with recursive w(n) as (select 1 union all select n + 1 from w) select plain() from w); end",
        "#variable_conflict use_column\ndeclare x int; y text; begin get diagnostics x = row_count; assert x = 1; end",
        "begin case x when 1 then return 2; else raise notice 'execute'; end case; end",
        "begin x := cast('1' as varchar(3)) || \"quoted\" || u.name; return x in (1, 2) and not exists (select 1); end",
        "begin return current_setting('app.x', true); end",
        "begin while x < 3 loop x := x + 1; end loop; end",
    ] {
        assert_eq!(body("plpgsql", clean), Traces::NONE, "{clean}");
    }
}

#[test]
fn bodies_in_plpgsql_tell_what_they_leave() {
    let any_setting = Traces::ANY_SETTING | Traces::LOCAL_SETTING;
    for (text, expected) in [
        ("begin perform set_config('a.b', 'c', false); end", any_setting),
        ("begin perform set_config('a.b', (select max(x) from t), true); end", Traces::LOCAL_SETTING),
        ("begin perform set_config(is_local => false, setting_name => 'a.b', new_value => true); end", any_setting),
        ("begin set work_mem = '1MB'; end", Traces::ANY_SETTING),
        ("begin if x then set work_mem = '1MB'; end if; end", Traces::ANY_SETTING),
        ("begin if (select true case) then set work_mem = '1MB'; end if; end", Traces::ANY_SETTING),
        ("begin if case when a then b end then reset all; end if; end", Traces::ANY_SETTING),
        ("begin while case when a then b end loop set role x; end loop; end", Traces::ANY_SETTING),
        ("begin x := (select 1 declare); set role x; end", Traces::ANY_SETTING),
        ("begin <<here>> set role x; end", Traces::ANY_SETTING),
        ("begin set local work_mem = '1MB'; end", Traces::LOCAL_SETTING),
        ("begin SET SESSION AUTHORIZATION x; end", Traces::ANY_SETTING | Traces::AUTHORIZATION),
        ("begin perform pg_try_advisory_lock(1); end", Traces::LOCK),
        ("begin perform pg_advisory_xact_lock(1); end", Traces::PRIMARY),
        ("begin perform 1 from orders for update; perform plain(); end", Traces::PRIMARY),
        ("begin perform 1 from orders for no key update skip locked; end", Traces::PRIMARY),
        ("begin select a into x from orders for key share; end", Traces::PRIMARY),
        ("begin lock table orders in share mode; end", Traces::PRIMARY),
        ("begin if pg_is_in_recovery() then return 1; end if; end", Traces::PRIMARY),
        ("begin listen x; end", Traces::LISTEN),
        ("begin notify x; end", Traces::NOTIFY),
        ("begin load 'x'; end", Traces::LIBRARY),
        ("begin execute 'select 1'; end", Traces::OPAQUE),
        ("begin return query execute x; end", Traces::OPAQUE),
        ("begin create temp table x (a int); end", Traces::OPAQUE),
        ("begin call x(); end", Traces::OPAQUE),
        ("begin do $$ begin end $$; end", Traces::OPAQUE),
        ("begin commit; end", Traces::OPAQUE),
        ("begin perform unheard_of(1); end", Traces::OPAQUE),
        ("begin perform a <~~~> b; end", Traces::OPAQUE),
        ("begin perform U&\"locker\"(); end", Traces::OPAQUE),
        ("begin perform 'x", Traces::OPAQUE),
        ("begin perform locker(); end", Traces::LOCK),
        ("begin perform \"locker\"(); end", Traces::LOCK),
        ("begin perform public.LOCKER (); end", Traces::LOCK),
        ("begin perform o.locker from orders o; end", Traces::LOCK),
        ("begin insert into orders values (1); end", Traces::WRITES | Traces::LOCK),
        ("begin merge into orders using x on true when matched then do nothing; end", Traces::WRITES | Traces::LOCK),
        ("declare x code; begin return x; end", Traces::SEED),
        ("begin return nextval('s'); end", Traces::SEQUENCE | Traces::WRITES),
        ("begin return currval('s'); end", Traces::READS_SEQUENCE),
        // With standard_conforming_strings off, the string goes on behind the backslash, and the rest is code.
        ("begin perform '\\', locker(), '; end", Traces::OPAQUE | Traces::LOCK),
        ("begin perform '\\'' || locker() || '\\''; end", Traces::OPAQUE | Traces::LOCK),
    ] {
        assert_eq!(body("plpgsql", text), expected, "{text}");
    }
}

#[test]
fn bodies_in_sql_tell_what_they_leave() {
    for (text, expected) in [
        ("select 1; select case when true then 2 else 3 end", Traces::NONE),
        ("with x as (select 1) select * from x, orders", Traces::NONE),
        ("insert into orders (a, b) values (1, 2) on conflict (a) do update set b = 3", Traces::WRITES | Traces::LOCK),
        ("update orders set a = 1", Traces::WRITES | Traces::LOCK),
        ("select 1; set role x", Traces::ANY_SETTING),
        ("select 1 into temp x", Traces::OPAQUE),
        ("declare c cursor with hold for select 1", Traces::OPAQUE),
        ("select locker()", Traces::LOCK),
        ("create table x (a int)", Traces::OPAQUE),
        ("begin", Traces::OPAQUE),
    ] {
        assert_eq!(body("sql", text), expected, "{text}");
    }
    assert_eq!(body("sql", ""), Traces::OPAQUE, "a body that was not sent");
}

#[test]
fn custom_settings_are_named_once_and_in_lower_case() {
    let catalogue = catalogue(&[
        "function|20001|a|plpgsql||begin perform set_config('App.User', '1', true); set app.tenant = 'x'; end",
        "function|20002|b|plpgsql||begin execute format('set local app.made = %L', current_setting('app.user')); end",
        "function|20003|c|plpgsql||begin execute 'select set_config(''app.deep'', ''1'', false)'; reset app.tenant; end",
        "function|20004|d|sql||select current_setting('work_mem') || 'not.a setting'",
    ]);
    let named: Vec<&str> = catalogue.settings_named().iter().map(|name| &**name).collect();
    assert_eq!(named, ["app.deep", "app.made", "app.tenant", "app.user"]);
}

#[test]
fn reading_a_sequences_last_value_anywhere_is_told() {
    assert!(!Catalogue::builtin().reads_sequences());
    assert!(catalogue(&["function|20001|a|sql||select lastval()"]).reads_sequences());
    assert!(catalogue(&["relation|20010|t|r|20011|20012", "own|w20010|currval|default"]).reads_sequences());
}

/// A name that the session's search_path could lead elsewhere would run a stranger's function with our user's rights.
#[test]
fn every_name_and_operator_of_the_queries_is_postgresqls_own() {
    for query in [Catalogue::QUERY, Catalogue::STAMP] {
        assert_independent_of_search_path(query);
    }
}

fn assert_independent_of_search_path(query: &str) {
    let lexer = Lexer::new(query.as_bytes(), Backslash::Plain);
    let tokens: Vec<_> = lexer.clone().collect();
    let text = |at: usize| std::str::from_utf8(lexer.bytes(tokens[at])).expect("the query is text");
    // Words that take a parenthesis and are no functions: syntax, and the query's own names with their columns.
    let syntax = [
        "ANY",
        "AND",
        "ARRAY",
        "AS",
        "COALESCE",
        "EXISTS",
        "FROM",
        "JOIN",
        "LATERAL",
        "MATERIALIZED",
        "ON",
        "OPERATOR",
        "VALUES",
        "f",
        "i",
        "k",
        "listed",
        "m",
        "own",
        "part",
        "s",
        "unlogged",
    ];
    for at in 1..tokens.len() {
        match tokens[at].kind {
            Kind::Operator => assert_eq!([text(at - 2), text(at - 1)], ["pg_catalog", "."], "operator {}", text(at)),
            Kind::Word if matches!(text(at), "IN" | "LIKE" | "BETWEEN" | "USING" | "CAST") => panic!("{}", text(at)),
            Kind::Word if at + 1 < tokens.len() && text(at + 1) == "(" && text(at - 1) != "." => {
                assert!(syntax.contains(&text(at)), "function {}", text(at));
            }
            Kind::Mark if text(at) == "::" => assert_eq!(text(at + 1), "pg_catalog", "type {}", text(at + 1)),
            _ => {}
        }
    }
}
