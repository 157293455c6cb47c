"""A session through a pool of one server is the session that PostgreSQL itself would give, and nobody else's.

Each program is a list of steps in one order, "a: …" and "b: …" by two clients; it is run against PostgreSQL and through
forebay, and every step must be answered alike.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.program import answers, programs
from tests.harness.target import Target
from tests.harness.wire import bind, describe, execute, parse, query, row, sync

SETTERS = """
create or replace function set_unseen(n text, v text) returns text language plpgsql as
  $$ begin perform set_config(n, v, false); return v; end $$;
create or replace function set_stable(v text) returns text stable language sql as
  $$ select set_config('app.tenant', v, false) $$;
create table if not exists kept (a int, b text);
grant all on kept to app;
create table if not exists fired (a int);
create or replace function fire() returns trigger language plpgsql as
  $$ begin perform set_config('app.fired', new.a::text, false); return new; end $$;
create or replace trigger fire before insert on fired for each row execute function fire();
create table if not exists counted (id serial primary key, a text);
create schema if not exists other authorization app;
do $$ begin create role clerk; exception when duplicate_object then null; end $$;
grant clerk to app;
grant select, insert on fired, counted to clerk, app;
grant usage on sequence counted_id_seq to clerk, app;
"""

# Forebays through which the objects have been made.
MADE: set[Path] = set()

PROGRAMS = Path(__file__).parent / "sessions"


SHARED = programs(PROGRAMS / "shared.txt")
PINNED = programs(PROGRAMS / "pinned.txt")


@pytest.fixture(autouse=True)
def objects(shared: Forebay) -> None:
    """What the programs use, made once for each forebay and through it, so that it knows."""
    if shared.folder not in MADE:
        with shared.target.at(user="postgres").wire() as wire:
            answer = [frame for frame in wire.ask(query(SETTERS)) if frame.tag == "E"]
            assert not answer, answer
        MADE.add(shared.folder)


def told(frame: object) -> object:
    """A message without what differs from server to server."""
    if frame.tag == "D":  # type: ignore[attr-defined]
        return row(frame)  # type: ignore[arg-type]
    if frame.tag == "E":  # type: ignore[attr-defined]
        fields = frame.fields  # type: ignore[attr-defined]
        return fields["C"], fields["M"]
    return frame.body  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SHARED)
def test_sessions_on_one_server_are_as_good_as_their_own(name: str, shared: Forebay, direct: Target) -> None:
    """What one client sets, another must not see, and the first must keep."""
    assert answers(shared.target, SHARED[name], admin=direct) == answers(direct, SHARED[name], admin=direct)


@pytest.mark.parametrize("name", PINNED)
def test_what_lives_on_one_server_stays_with_its_client(name: str, shared: Forebay, direct: Target) -> None:
    """A temporary table, a lock, a cursor: PostgreSQL keeps them on one connection, so the client keeps that."""
    wide = shared.target.at(dbname="wide")
    assert answers(wide, PINNED[name], admin=direct) == answers(direct, PINNED[name], admin=direct)


@pytest.mark.parametrize("name", PINNED)
def test_a_pin_ends_with_its_client(name: str, shared: Forebay) -> None:
    """A pool of one server must serve others when a client that pinned it has left."""
    with shared.target.wire() as client:
        for step in PINNED[name]:
            who, text = step.split(": ", 1)
            if who == "a":
                client.ask(query(text))
    with shared.target.wire() as other:
        until(lambda: other.value("select 1") == "1", within_s=5, what="the server is free")
        assert other.value("select count(*) from pg_locks where locktype = 'advisory'") == "0"
        assert other.value("select count(*) from pg_listening_channels()") == "0"
        assert other.value("select count(*) from pg_cursors") == "0"


def test_a_statement_has_one_name_whichever_way_it_was_prepared(shared: Forebay, direct: Target) -> None:
    """SQL and protocol share their names: drivers prepare in one way and scripts execute in the other."""

    def said(target: Target) -> list[list[object]]:
        with target.wire() as one, target.wire() as other:
            steps = [
                one.ask(parse("p", "select 1 + $1::int"), sync()),
                other.ask(query("prepare p as select 'other'")),
                one.ask(query("execute p(1)")),
                one.ask(query("prepare p as select 5")),
                other.ask(bind(statement="p"), execute(), sync()),
                one.ask(query("deallocate p")),
                one.ask(bind(statement="p", values=[b"1"]), execute(), sync()),
                other.ask(parse("", "execute p"), bind(), describe("P", ""), execute(), sync()),
                other.ask(parse("p", "select 6"), sync()),
            ]
            return [[told(frame) for frame in step if frame.tag in "DCET"] for step in steps]

    assert said(shared.target) == said(direct)


def test_a_prepare_of_a_taken_name_is_told_what_is_wrong_with_its_statement_first(
    shared: Forebay, direct: Target
) -> None:
    """A driver that prepares again on "already exists" would go on doing so with a statement that can't be prepared."""
    bodies = ("select 5", "select nothing_of_this_name", "selec 5", "insert into nowhere values (1)", "select 6")

    def said(target: Target) -> list[list[object]]:
        with target.wire() as one, target.wire() as other:
            steps = [one.ask(parse("p", "select 4"), sync())]
            for body in bodies:
                other.ask(query("select 'in between'"))
                steps.append(one.ask(query(f"prepare p as {body}")))
            steps += [one.ask(query(text)) for text in ("begin", "prepare p as select 7", "rollback", "execute p")]
            return [[told(frame) for frame in step if frame.tag in "DCE"] for step in steps]

    assert said(shared.target) == said(direct)


def test_a_setting_whose_name_is_a_parameter_is_its_client_s_own(shared: Forebay, direct: Target) -> None:
    """Libraries pass the name of the tenant's setting as they pass its value."""

    def said(target: Target) -> list[list[object]]:
        ask = "select coalesce(nullif(current_setting('app.named', true), ''), 'nothing')"
        with target.wire() as one, target.wire() as other:
            setting = (parse("", "select set_config($1, $2, false)"), execute(), sync())
            steps = []
            for client, value in ((one, b"first"), (other, b"second")):
                set_it = (setting[0], bind(values=[b"App.named", value]), *setting[1:])
                steps += [other.ask(query(ask)), client.ask(*set_it), one.ask(query(ask)), other.ask(query(ask))]
            return [[told(frame) for frame in step if frame.tag in "DCE"] for step in steps]

    assert said(shared.target) == said(direct)


def test_a_default_of_currval_asks_nothing_when_it_is_made(start: Start, server: Postgres, variant: Variant) -> None:
    """A migration that names it is no question, and the row that is put in by it is one: FB101."""
    pool = {"pool_size": 1, "sequence_affinity": "affinity", "catalogue_refresh": "1s"}
    forebay = start(configuration(server, variant, databases={"app": pool}))
    with forebay.target.at(user="postgres").wire() as one, forebay.target.at(user="postgres").wire() as other:
        one.ask(query("create sequence asked_of"))

        def is_refused(text: str) -> bool:
            """Whether it is, where another client had the server since this one's nextval."""
            one.ask(query("select nextval('asked_of')"))
            other.ask(query("set application_name = 'other'"))
            errors = [frame.fields for frame in one.ask(query(text)) if frame.tag == "E"]
            return any("(FB101)" in fields.get("H", "") for fields in errors)

        assert is_refused("select currval('asked_of')")
        assert not is_refused("create table asking (a int default currval('asked_of'), check (a < lastval()))")
        assert not is_refused("alter table asking alter a set default currval('asked_of') + 1")
        assert not is_refused("create view asking_too as select currval('asked_of')")
        assert is_refused("alter table asking add b int default currval('asked_of')")

        # The catalogue is read in the background.
        insert = "insert into asking default values"
        until(lambda: is_refused(insert), within_s=10, what="the catalogue tells of the default")
        one.ask(query("drop table asking; drop view asking_too; drop sequence asked_of"))
