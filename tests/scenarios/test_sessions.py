"""A session through a pool of one server is the session that PostgreSQL itself would give, and nobody else's.

Each program is a list of steps in one order, "a: …" and "b: …" by two clients; it is run against PostgreSQL and through
forebay, and every step must be answered alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.harness.deadline import until
from tests.harness.pooler import Forebay
from tests.harness.target import Target
from tests.harness.wire import Wire, query, row

SETTERS = """
create or replace function set_unseen(n text, v text) returns text language plpgsql as
  $$ begin perform set_config(n, v, false); return v; end $$;
create or replace function set_stable(v text) returns text stable language sql as
  $$ select set_config('app.tenant', v, false) $$;
create table if not exists fired (a int);
create or replace function fire() returns trigger language plpgsql as
  $$ begin perform set_config('app.fired', new.a::text, false); return new; end $$;
create or replace trigger fire before insert on fired for each row execute function fire();
create table if not exists counted (id serial primary key, a text);
do $$ begin create role clerk; exception when duplicate_object then null; end $$;
grant clerk to app;
grant select, insert on fired, counted to clerk, app;
grant usage on sequence counted_id_seq to clerk, app;
"""

# Programs in which no client needs a server of its own.
SHARED: dict[str, list[str]] = {
    "set": ["a: set timezone to 'Asia/Tokyo'", "b: show timezone", "a: show timezone", "b: set work_mem='3MB'", "a: show work_mem", "b: show work_mem"],
    "set is undone by rollback": ["a: begin", "a: set work_mem='5MB'", "a: rollback", "b: show work_mem", "a: show work_mem"],
    "set within savepoints": [
        "a: begin", "a: set app.a='1'", "a: savepoint s", "a: set app.a='2'", "a: rollback to s", "a: commit",
        "b: select 1", "a: show app.a",
    ],
    "set local": ["a: begin", "a: set local work_mem='7MB'", "a: show work_mem", "a: commit", "a: show work_mem", "b: show work_mem"],
    "set_config": ["a: select set_config('app.tenant', '7', false)", "b: set app.other='x'", "a: show app.tenant"],
    "set_config with a computed name": ["a: select set_config('app.' || 'x', '7', false)", "b: select 1", "a: show app.x"],
    "set_config within a function": ["a: select set_unseen('work_mem', '9MB')", "b: show work_mem", "a: show work_mem"],
    "set_config within a stable function": ["a: select set_stable('nine')", "b: set app.tenant='none'", "b: show app.tenant", "a: show app.tenant"],
    "set_config within a trigger": ["a: insert into fired values (4711)", "b: set app.fired='no'", "a: show app.fired", "b: show app.fired"],
    "set in a do block": ["a: do $$ begin execute 'set work_mem = ''11MB'''; end $$", "b: show work_mem", "a: show work_mem"],
    "reset": ["a: set work_mem='5MB'", "b: select 1", "a: reset work_mem", "b: select 1", "a: show work_mem"],
    "reset all": ["a: set work_mem='5MB'", "a: set app.a='x'", "b: select 1", "a: reset all", "b: select 1", "a: show work_mem", "a: show app.a"],
    "discard all": ["a: set work_mem='5MB'", "b: select 1", "a: discard all", "b: show work_mem", "a: show work_mem"],
    "set role": ["a: set role clerk", "b: select current_user", "a: select current_user", "a: reset role", "b: select 1", "a: select current_user"],
    "session characteristics": [
        "a: set session characteristics as transaction isolation level serializable read only", "b: show transaction_isolation",
        "b: insert into scratch values (1, 'b')", "a: show transaction_isolation", "a: insert into scratch values (2, 'a')",
    ],
    "search_path": ["a: create schema if not exists other", "a: set search_path to other, public", "b: show search_path", "a: show search_path"],
    "several statements in one text": ["a: set app.a='1'; set work_mem='6MB'; select 1", "b: show work_mem", "a: show work_mem", "a: show app.a"],
    "a failed text changes nothing": ["a: set work_mem='6MB'; select 1/0", "b: select 1", "a: show work_mem"],
    "a short time limit left behind": ["a: set statement_timeout='1ms'", "b: select count(*) from generate_series(1, 300000)", "b: show statement_timeout"],
    "names that are no one's": ["a: set app.a='x'", "b: select current_setting('app.b', true)", "b: show app.b"],
    "values with quotes": ["a: select set_config('app.a', e'it''s \\\\ \"x\"', false)", "b: select 1", "a: show app.a"],
    "session authorization ends where it began": ["a: reset session authorization", "b: select session_user", "a: select session_user"],
}  # fmt: skip

# Programs in which a client keeps its server for a while.
PINNED: dict[str, list[str]] = {
    "a temporary table": [
        "a: create temp table people (x int)", "b: select count(*) from people", "a: select count(*) from people",
        "a: insert into people values (1)", "a: select count(*) from people", "a: drop table people", "a: select count(*) from people",
    ],
    "a temporary table dropped on commit": [
        "a: begin", "a: create temp table t (x int) on commit drop", "a: insert into t values (1)", "a: select * from t", "a: commit", "a: select * from t",
    ],
    "an advisory lock": [
        "a: select pg_try_advisory_lock(7)", "b: select pg_try_advisory_lock(7)", "a: select pg_advisory_unlock(7)",
        "b: select pg_try_advisory_lock(7)", "b: select pg_advisory_unlock_all()",
    ],
    "a cursor with hold": [
        "a: declare c cursor with hold for select generate_series(1, 3)", "b: fetch c", "a: fetch c", "a: fetch c", "a: close c", "a: fetch c",
    ],
    "a statement prepared in sql": [
        "a: prepare p (int) as select $1 + 1", "b: execute p(1)", "a: execute p(1)", "a: deallocate p", "a: execute p(1)",
    ],
    "listen": ["a: listen news", "b: select count(*) from pg_listening_channels()", "a: select count(*) from pg_listening_channels()", "a: unlisten news"],
    "setseed": ["a: select setseed(0.5)", "b: select 1", "a: select random()", "a: select random()"],
    "a sequence's value is nobody else's": ["a: select nextval('counted_id_seq') > 0", "b: select lastval()"],
    "an inserted row's key is nobody else's": ["a: insert into counted (a) values ('x')", "b: select currval('counted_id_seq')"],
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def objects(direct: Target) -> Iterator[None]:
    """What the programs use, made past forebay before it looks."""
    with direct.at(user="postgres").wire() as wire:
        answer = [frame for frame in wire.ask(query(SETTERS)) if frame.tag == "E"]
        assert not answer, answer
        yield


def answers(target: Target, program: list[str]) -> list[list[object]]:
    """What each step is answered: rows, tags, and errors by code and message."""
    said = []
    with contextlib.ExitStack() as stack:
        clients: dict[str, Wire] = {}
        for step in program:
            who, text = step.split(": ", 1)
            if who not in clients:
                clients[who] = stack.enter_context(target.wire())
            said.append([told(frame) for frame in clients[who].ask(query(text)) if frame.tag in "DCE"])
    return said


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
    assert answers(shared.target, SHARED[name]) == answers(direct, SHARED[name])


@pytest.mark.parametrize("name", PINNED)
def test_what_lives_on_one_server_stays_with_its_client(name: str, shared: Forebay, direct: Target) -> None:
    """A temporary table, a lock, a cursor: PostgreSQL keeps them on one connection, so the client keeps that."""
    wide = shared.target.at(dbname="wide")
    assert answers(wide, PINNED[name]) == answers(direct, PINNED[name])


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
