"""A statement that its server lacks is made there again: it means what it meant, and what is wrong with it is said as
PostgreSQL says it.

Each program is run against PostgreSQL and through a pool of one server that keeps two statements; every step must be
answered alike.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial

import pytest

from tests.harness.pooler import Forebay
from tests.harness.target import Target
from tests.harness.wire import Frame, Wire, bind, close, describe, execute, flush, parse, query, row, sync

# Read by DateStyle where it is parsed.
MONTH = "select extract(month from '02/03/2024'::date)"

# What one client prepares.
OWN = "select 'nobody else'"

Program = Callable[[Wire, Wire], list[list[Frame]]]


def fill(client: Wire) -> None:
    """Uses more statements than the server keeps, and leaves another unnamed one."""
    for n in range(3):
        client.ask(parse(f"fill{n}", f"select {n}"), bind(statement=f"fill{n}"), execute(), sync())
    client.ask(query("select"))


def run(client: Wire, name: str, *values: bytes) -> list[Frame]:
    """The statement of the protocol, once more."""
    return client.ask(bind(statement=name, values=values), execute(), sync())


def by_the_settings_it_was_made_with(one: Wire, other: Wire) -> list[list[Frame]]:
    """Both kinds of statements, outside a transaction and within one that has set more."""
    for name, text in (("q", f"prepare q as {MONTH}"), ("t", "prepare t (text) as select pg_typeof($1)")):
        assert one.ask(query(text))[0].tag == "C", name
    one.ask(parse("p", MONTH), sync())
    one.ask(query("set datestyle to 'ISO, DMY'"))
    steps = []
    for before, after in (("select 1", "select 1"), ("begin", "rollback")):
        steps.append(one.ask(query(before)))
        for ask in (lambda: one.ask(query("execute q")), lambda: run(one, "p"), lambda: run(one, "q")):
            steps += [ask(), one.ask(query("show datestyle"))]
        steps.append(one.ask(query(after)))
        fill(other)
    steps += [one.ask(query("begin")), one.ask(query("set local datestyle to 'German'")), run(one, "p")]
    steps += [one.ask(query("savepoint s")), one.ask(query("execute q")), one.ask(query("show datestyle"))]
    steps += [one.ask(query("rollback to s")), one.ask(query("show datestyle")), one.ask(query("commit"))]
    fill(other)
    return [*steps, run(one, "t", b"1"), one.ask(query("show datestyle")), one.ask(query(MONTH))]


def for_others_too(one: Wire, other: Wire) -> list[list[Frame]]:
    """What one client's settings make of a text is nothing to another that has prepared the same."""
    steps = [one.ask(parse("p", MONTH), sync())]
    one.ask(query("set datestyle to 'ISO, DMY'"))
    fill(other)
    steps += [run(one, "p"), other.ask(parse("p", MONTH), sync()), run(other, "p")]
    fill(other)
    within = [parse("", "select 1"), bind(), execute(), bind(statement="p"), execute(), sync()]
    one.ask(*within)
    steps += [run(other, "p"), run(one, "p"), run(other, "p")]
    fill(other)
    steps += [one.ask(query("begin")), one.ask(query("set local datestyle to 'German'")), run(one, "p")]
    return [*steps, one.ask(query("commit")), run(other, "p")]


def of_what_is_gone(one: Wire, other: Wire) -> list[list[Frame]]:
    """Its table, or the way to it: the server's own words, not that nothing is prepared."""
    one.ask(query("create table goes (n int)"))
    for text in ("prepare q as select n from goes", '/* é */ prepare "Long  name" (int) as select n + $1 from goes'):
        one.ask(query(text))
    one.ask(parse("p", "select n from goes where n = $1"), sync())
    one.ask(query("drop table goes"))
    steps = []
    for text in ("execute q", 'execute "Long  name"(1)', "explain execute q", "execute p(1)"):
        fill(other)
        steps += [one.ask(query(text)), one.ask(query("begin")), one.ask(query(text))]
        steps += [one.ask(query(text)), one.ask(query("rollback"))]
    for name in ("q", "p"):
        fill(other)
        steps.append(run(one, name, *([b"1"] if name == "p" else [])))
    fill(other)
    steps += [one.ask(parse("p", "select 1"), sync()), one.ask(query("prepare q as select 1"))]
    fill(other)
    steps += [one.ask(query("deallocate q")), one.ask(query("prepare q as select 'q again'"))]
    fill(other)
    return [*steps, one.ask(query("execute q")), one.ask(query("deallocate q")), one.ask(query("execute q"))]


def on_another_path(one: Wire, other: Wire) -> list[list[Frame]]:
    """What PostgreSQL looks at before it looks for tables comes first."""
    one.ask(query("create schema if not exists aside; create table if not exists aside.here (n int)"))
    one.ask(query("set search_path to aside"))
    one.ask(query("prepare q (int) as select n from here where n = $1"))
    one.ask(query("set search_path to public"))
    steps = []
    for text in ("execute q", "execute q('x')", "execute q(1)", "execute q(1, 2)"):
        fill(other)
        steps.append(one.ask(query(text)))
        fill(other)
        steps += [one.ask(query("begin")), one.ask(query(text)), one.ask(query("rollback"))]
    fill(other)
    steps.append(one.ask(parse("", "execute q"), bind(), execute(), sync()))
    one.ask(query("set search_path to aside"))
    fill(other)
    steps.append(one.ask(query("execute q(1)")))
    one.ask(query("drop schema aside cascade"))
    return steps


def places(one: Wire, other: Wire) -> list[list[Frame]]:
    """A name that is put in the place of the client's moves what stands behind it, which the client must not see."""
    one.ask(query("set standard_conforming_strings to off"))
    long = "a_name_that_is_longer_than_any_of_ours"
    texts = []
    for name in ("q", long, '"é q"'):
        texts += [f"prepare {name} as select nothing", f"prepare {name} as select 'a\\'b'", f"execute {name}(nothing)"]
        texts += [f"prepare {name} as select $1::int + 'x'", f"deallocate {name}"]
        texts += [f"/* é */ prepare {name} (int) as select $1", f"execute {name}('x')", f"execute {name}(1 + nothing)"]
        texts += [f"prepare {name} as select nothing", f"explain execute {name}(nothing)", f"deallocate {name}"]
    steps = [one.ask(query(text)) for text in texts]
    one.ask(query(f"prepare {long} (int) as select $1"))
    steps += [
        one.ask(parse("", text), bind(), describe("P"), execute(), sync())
        for text in (f"execute {long}(nothing)", f"execute {long}('x')", f"prepare {long} as select nothing")
    ]
    one.ask(parse("s", "select n from nowhere_at_all"), sync())
    one.ask(query("create temp table nowhere_at_all (n int)"))
    one.ask(parse("s", "select n from nowhere_at_all"), sync())
    one.ask(query("alter table nowhere_at_all rename n to m"))
    steps += [one.ask(query("execute s")), one.ask(query("drop table nowhere_at_all"))]
    return steps


def behind_other_requests(one: Wire, other: Wire) -> list[list[Frame]]:
    """What is sent in one write is answered one by one, also where a query of ours stands in between."""
    one.ask(query("prepare q as select 'q'"))
    steps = []
    for _ in range(2):
        fill(other)
        one.send(parse("", "select 1"), bind(), execute(), sync(), query("execute q"), sync(), query("execute q"))
        steps.append(one.ready(4))
    return steps


def behind_a_pipeline_that_read_it_otherwise(one: Wire, other: Wire) -> list[list[Frame]]:
    """Within a pipeline it is made with the settings of the moment, and made anew for whatever comes next."""
    one.ask(query(f"prepare q as {MONTH}"))
    one.ask(query("set datestyle to 'ISO, DMY'"))
    steps = []
    for then in (
        (query("execute q"),),
        (parse("", "execute q"), bind(), execute(), sync()),
        (bind(statement="q"), execute(), sync()),
        (describe("S", "q"), sync()),
        (query("deallocate q"),),
    ):
        fill(other)
        one.ask(parse("", "select 1"), bind(), execute(), bind(statement="q"), execute(), sync())
        steps += [one.ask(*then), one.ask(query("show datestyle"))]
    one.ask(query(f"prepare q as {MONTH}"))
    one.ask(query("set datestyle to 'ISO, MDY'"))
    fill(other)
    one.ask(parse("", "select 1"), bind(), execute(), bind(statement="q"), execute(), sync())
    return [*steps, one.ask(parse("", "deallocate q"), bind(), execute(), sync()), one.ask(query("execute q"))]


@pytest.mark.parametrize(
    "program",
    [
        by_the_settings_it_was_made_with,
        for_others_too,
        of_what_is_gone,
        on_another_path,
        places,
        behind_other_requests,
        behind_a_pipeline_that_read_it_otherwise,
    ],
)
def test_a_statement_that_is_made_again_is_the_same(shared: Forebay, direct: Target, program: Program) -> None:
    """Whether a server has it is no matter of the client's."""
    assert said(program, shared.target.at(dbname="few")) == said(program, direct)


def test_it_is_made_again_by_another_role(shared: Forebay, direct: Target) -> None:
    """Row security is looked at when it is run: one who may not be without it need not be able to make it without."""
    forebay, server = (target.at(user="postgres") for target in (shared.target.at(dbname="few"), direct))
    with server.wire() as owner:
        owner.ask(query("create table guarded as select 1 as a; grant select on guarded to app"))
        owner.ask(query("alter table guarded enable row level security"))
        try:
            assert said(by_another_role, forebay) == said(by_another_role, server)
        finally:
            owner.ask(query("drop table guarded"))


def by_another_role(one: Wire, other: Wire) -> list[list[Frame]]:
    """Made by one whom row security does not concern, run by one whom it does."""
    one.ask(query("set row_security to off"))
    steps = [one.ask(query("prepare g as select a from guarded")), one.ask(query("execute g"))]
    one.ask(query("set role app"))
    fill(other)
    steps.append(one.ask(query("execute g")))
    one.ask(query("set row_security to on"))
    fill(other)
    return [*steps, one.ask(query("execute g")), one.ask(query("show row_security"))]


def test_a_name_that_a_server_shows_is_not_the_clients(shared: Forebay, direct: Target) -> None:
    """Names on servers are guessed by nobody, but pg_prepared_statements shows them: who uses one is told of none."""
    with shared.target.wire() as one:
        one.ask(parse("own", OWN), bind(statement="own"), execute(), sync())
        name = str(one.value(f"select name from pg_prepared_statements where statement = $${OWN}$$"))
        assert re.fullmatch("fb_[0-9a-z]{8}_[0-9]+", name), name
        for program in (partial(by_that_name, name=name), partial(by_that_name_in_texts, name=name)):
            assert said(program, shared.target) == said(program, direct)
            # It has not been taken away.
            assert [frame.tag for frame in run(one, "own")] == ["2", "D", "C", "Z"]
            assert one.value("select count(*) from pg_prepared_statements where name = '" + name + "'") == "1"


def test_a_name_like_one_of_forebays_is_its_clients(shared: Forebay) -> None:
    """It keeps its server for that, nobody else comes by it, and what forebay makes fail does not come to succeed."""
    with shared.target.wire() as one:
        one.ask(query("drop table if exists abandoned; create table abandoned (n int)"))
        one.ask(
            query("select 1; prepare fb_x as select 'x'; prepare fb_none as select 1; prepare fb_refused as select 2")
        )
        one.ask(query("select 1"))
        assert one.value("execute fb_x") == "x"
        one.send(parse("", "insert into abandoned values (1)"), bind(), execute(), flush())
        one.read_until("C")
    with shared.target.wire() as other:
        assert other.value("select count(*) from abandoned") == "0"
        for name in ("fb_x", "fb_none", "fb_refused"):
            assert other.ask(query(f"execute {name}"))[0].fields["C"] == "26000"
        other.ask(query("drop table abandoned"))


def test_a_statement_about_another_is_made_once(shared: Forebay) -> None:
    """One whose name came to mean something else was made anew for every Bind, and drove others' off the server."""
    count = "select count(*) from pg_prepared_statements where statement ~ '^execute'"
    with shared.target.wire() as one:
        one.ask(parse("named", "execute own"), sync())
        for text in ("select 'first'", "select 'second'"):
            one.ask(query("deallocate own"))
            one.ask(query(f"prepare own as {text}"))
            before = int(one.value(count) or 0)
            assert [row(run(one, "named")[1]) for _ in range(5)] == [[text.split("'")[1]]] * 5
            assert int(one.value(count) or 0) <= before + 1


def test_who_meets_a_wrong_account_is_the_last(shared: Forebay) -> None:
    """A function has taken all statements away, unseen: one request fails, and its server serves nobody else."""
    with shared.target.wire() as one, shared.target.wire() as other:
        for wire in (one, other):
            assert wire.ask(parse("own", OWN), bind(statement="own"), execute(), sync())[-1].tag == "Z"
        other.ask(query("do $$begin execute 'deallocate all'; end$$"))
        answers = [run(wire, "own")[0].tag for wire in (one, other, one, other)]
        assert answers in (["E", "2", "2", "2"], ["2", "2", "2", "2"])


def by_that_name(one: Wire, _: Wire, *, name: str) -> list[list[Frame]]:
    """Used by one who has not given it, then by one who has."""
    steps = [one.ask(query(f"{verb} {name}")) for verb in ("execute", "deallocate", "explain execute")]
    for verb in ("execute", "EXECUTE", "deallocate"):
        steps.append(one.ask(parse("", f"{verb} {name.upper()}"), bind(), execute(), sync()))
    steps += [one.ask(bind(statement=name), execute(), sync()), one.ask(describe("S", name), sync())]
    steps += [one.ask(close("S", name), sync()), one.ask(query(f"prepare {name} as select 'made'"))]
    steps += [one.ask(query(f"execute {name}")), one.ask(query(f"deallocate {name}"))]
    steps += [one.ask(parse("", f"prepare {name} as select 'extended'"), bind(), execute(), sync())]
    return [*steps, one.ask(query(f"execute {name}; deallocate {name}; execute {name}"))]


def by_that_name_in_texts(one: Wire, _: Wire, *, name: str) -> list[list[Frame]]:
    """The same in texts of several statements, where the name is the server's own."""
    steps = [one.ask(query(text)) for text in (f"select 1; execute {name}", f"deallocate {name}; select 1")]
    steps += [one.ask(query(f"select 1; prepare {name} as select 'raw'; execute {name}"))]
    steps += [one.ask(query(f"execute {name}")), one.ask(query(f"prepare {name} as select 2"))]
    steps += [one.ask(parse(name, "select 2"), sync()), one.ask(bind(statement=name), execute(), sync())]
    return [*steps, one.ask(close("S", name), sync()), one.ask(query(f"execute {name}"))]


def said(program: Program, target: Target) -> list[list[object]]:
    """What the program was answered."""
    with target.wire() as one, target.wire() as other:
        steps = program(one, other)
        return [[told(frame) for frame in step if frame.tag in "CDENnTZ12"] for step in steps]


def told(frame: Frame) -> object:
    """What must be the same: not a table's OID."""
    if frame.tag in "EN":
        return tuple(frame.fields.get(code, "") for code in "SCMDHP")
    if frame.tag == "D":
        return row(frame)
    return (frame.tag, frame.body if frame.tag != "T" else frame.body[:2])


@pytest.mark.parametrize("text", ["BEGIN ISOLATION LEVEL READ COMMITTED", "RESET ALL", "COMMIT"])
def test_a_statement_of_a_hand_over_that_is_taken_away_costs_its_server_only(shared: Forebay, text: str) -> None:
    """The next hand-over misses it. Its client has done nothing: it is not told, and keeps what it has set."""
    with shared.target.wire() as one, shared.target.wire() as other:
        other.value("set application_name = 'kept'; set datestyle = 'German'; show datestyle")

        def hand_over(work: str = "") -> tuple[list[str | None], str]:
            one.send(query(f"set time zone 'Asia/Tokyo'; do $$ begin perform pg_sleep(0.05); {work} end $$"))
            other.send(query("select current_setting('datestyle'), current_setting('application_name')"))
            one.ready()
            frames = other.ready()
            return next(row(frame) for frame in frames if frame.tag == "D"), "".join(f.tag for f in frames)

        assert [hand_over(), hand_over()] == [(["German, DMY", "kept"], "TDCZ")] * 2
        name = one.value(f"select name from pg_prepared_statements where statement = '{text}'")
        pid = one.value("select pg_backend_pid()")
        assert name, "a hand-over keeps its statements"
        assert hand_over(f"execute 'deallocate {name}';") == (["German, DMY", "kept"], "TDCZ")
        assert other.value("select pg_backend_pid()") != pid, "a server that lacks it serves nobody"


def test_nobody_takes_the_place_of_a_statement_of_a_hand_over(shared: Forebay) -> None:
    """A reset that is another statement by now would leave one client's search path to the next."""
    slow = "perform pg_sleep(0.05), set_config('search_path', 'pg_temp', false)"
    with shared.target.wire() as one, shared.target.wire() as other:
        usual = other.value("show search_path")

        def hand_over(work: str = "") -> str | None:
            one.send(query(f"do $$ begin {slow}; {work} end $$"))
            other.send(query("show search_path"))
            one.ready()
            if work:
                # What it has put there is its own, and keeps the server for it: by now the server has been looked at.
                time.sleep(0.3)
                one.close()
            return next(row(frame)[0] for frame in other.ready() if frame.tag == "D")

        # Twice: the one that needs it first parses it.
        assert [hand_over(), hand_over()] == [usual, usual]
        name = one.value("select name from pg_prepared_statements where statement = 'RESET ALL'")
        assert name, "a hand-over keeps its statements"
        assert hand_over(f"execute 'deallocate {name}'; execute 'prepare {name} as select 1';") == usual
