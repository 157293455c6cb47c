"""From one client of a server to the next: what the last one left is undone, and no request runs where that failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.target import Target
from tests.harness.toxi import Toxi
from tests.harness.wire import Wire, bind, cancel, execute, function_call, parse, query, sync

Start = Callable[..., Forebay]

TWICE = ["begin", "insert into kept_once values (1)", "commit", "insert into kept_once values (2)"]

# The same four statements in one write: how many ReadyForQuery they earn, and as what.
BATCHES = {
    "simple": (4, [query(sql) for sql in TWICE]),
    "a Sync each": (4, [part for sql in TWICE for part in (parse("", sql), bind(), execute(), sync())]),
    "one Sync": (1, [part for sql in TWICE for part in (parse("", sql), bind(), execute())] + [sync()]),
    "one text": (1, [query(";".join(TWICE))]),
}


def waiting_for_lock(admin: Any, pid: str) -> str:
    """The statement with which a back end waits for a lock; empty: it does not."""
    found = admin.execute(
        "select query from pg_stat_activity where pid = %s and wait_event_type = 'Lock'", [int(pid)]
    ).fetchone()
    return str(found[0]) if found else ""


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.variants("uring-1", "epoll-1")
def test_a_request_is_run_once_and_elsewhere_where_its_hand_over_fails(
    name: str, start: Start, server: Postgres, variant: Variant
) -> None:
    """Run in the last client's session, a request meets its tables and settings; run twice, it pays twice."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 1}}))
    count, batch = BATCHES[name]
    with server.target.connect(user="postgres", dbname="app", autocommit=True) as admin:
        admin.execute("drop table if exists kept_once")
        admin.execute("create table kept_once (a int)")
        admin.execute("grant all on kept_once to public")
        one, two = forebay.target.wire(), forebay.target.wire()
        with two:
            # A temporary table shadows the real one in the session that the first client leaves behind.
            with one:
                one.ask(query("create temp table kept_once (a int)"))
                pid = one.value("select pg_backend_pid()") or ""
                holder = server.target.connect(user="postgres", dbname="app")
                schema = admin.execute(
                    "select relnamespace::regnamespace::text from pg_class where relname = 'kept_once' "
                    "and relpersistence = 't'"
                ).fetchone()
                assert schema is not None
                holder.execute(f"lock table {schema[0]}.kept_once in access share mode")
                two.send(*batch)
                until(
                    lambda: any(row["cl_waiting"] == "1" for row in forebay.console("show pools")),
                    within_s=5,
                    what="the second client waits",
                )
            until(
                lambda: waiting_for_lock(admin, pid) == "DISCARD TEMP", within_s=5, what="the reset waits for the lock"
            )
            admin.execute("select pg_cancel_backend(%s)", [int(pid)])
            frames = two.ready(count)
            assert not [frame.fields for frame in frames if frame.tag == "E"]
            holder.close()
            assert two.value("select pg_backend_pid()") != pid
            assert two.rows("select a from public.kept_once order by a") == [["1"], ["2"]]


@pytest.mark.variants("uring-1")
def test_what_can_not_be_set_any_more_is_told_and_nothing_of_the_request_is_run(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """A request that ran without the role its client took on would run with another's rights."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 1}}))
    with server.target.connect(user="postgres", dbname="app", autocommit=True) as admin:
        admin.execute("drop table if exists unharmed")
        admin.execute("drop role if exists passing")
        admin.execute("create role passing")
        admin.execute("grant passing to app")
        admin.execute("create table unharmed (a int)")
        admin.execute("grant all on unharmed to public")
        with forebay.target.wire() as one, forebay.target.wire() as two:
            one.ask(query("set role passing"))
            assert two.value("select current_user") == "app"
            admin.execute("drop role passing")
            one.send(query("insert into unharmed values (1)"))
            refused = [frame.fields for frame in one.rest() if frame.tag == "E"]
            assert [(fields["S"], fields["C"]) for fields in refused] == [("FATAL", "22023")]
            assert two.value("select count(*) from unharmed") == "0"


@pytest.mark.variants("uring-1")
def test_a_value_outlives_a_server_that_reads_another_encoding(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """Text for a server that still takes it for the last client's LATIN1 or SJIS means something else there."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 1}}))
    values = ["caf\u00e9 \u3042\\' \u20ac", '"caf\u00e9", b']
    with forebay.target.wire() as one:
        said = one.ask(
            parse("", "select set_config('app.word', $1, false), set_config('search_path', $2, false)"),
            bind(values=[value.encode() for value in values]), execute(), sync(),
        )  # fmt: skip
        assert not [frame.fields for frame in said if frame.tag == "E"]
        for encoding in ("LATIN1", "SJIS"):
            with forebay.target.wire() as two:
                two.ask(query(f"set client_encoding = '{encoding}'"))
                assert one.rows("select current_setting('app.word'), current_setting('search_path')") == [values]


@pytest.mark.variants("uring-1", "epoll-1")
def test_what_stands_behind_the_first_request_of_a_hand_over_follows_it(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """Pipelines of any make-up are answered in order, whatever of them went ahead."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 1}}))
    long = "x" * 40_000

    def program(wire: Wire, zone: str) -> list[object]:
        said = wire.ask(query(f"set timezone = '{zone}'"))
        wire.send(parse("a", "select current_setting('timezone')"), sync(), bind("", "a"), execute(), sync(),
                  query("prepare b as select 7"), query("execute b"), query("deallocate b"),
                  query(f"select length('{long}')"), bind("", "a"), execute(), sync())  # fmt: skip
        said += wire.ready(7)
        wire.send(parse("c", "select 1"), bind("", "c"))
        wire.send(execute(), sync())
        return [frame.line for frame in said + wire.ready() if frame.tag != "S"]

    def answers(target: Target) -> list[list[object]]:
        with target.wire() as one, target.wire() as two:
            return [program(one, "Europe/Oslo"), program(two, "Asia/Tokyo")]

    assert answers(forebay.target) == answers(server.target.at(dbname="app"))


@pytest.mark.variants("uring-1")
def test_a_cancel_reaches_a_request_that_went_ahead(start: Start, server: Postgres, variant: Variant) -> None:
    """While the request runs, the server keeps the answer to what went before it in its buffer."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 1}}))
    with forebay.target.wire() as one, forebay.target.wire() as two:
        one.ask(query("set timezone = 'Europe/Oslo'"))
        two.send(query("select pg_sleep(60)"))
        with server.target.connect(user="postgres", dbname="app", autocommit=True) as admin:
            sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
            until(lambda: admin.execute(sleeping).fetchone() == (1,), within_s=5, what="the request sleeps")
        with forebay.target.dial() as canceller:
            canceller.send(cancel(*two.key))
            assert canceller.ends()
        frames = two.ready()
        assert [frame.fields["C"] for frame in frames if frame.tag == "E"] == ["57014"]
        assert two.value("select 1") == "1"


def has_server(forebay: Forebay) -> bool:
    """Whether any client has one."""
    return any(row["link"] for row in forebay.console("show clients"))


# Behind a prefix these wait for its answer: too long to go ahead whole, or none of those that may.
HELD = {
    "a long text": query(f"insert into scratch values (61, '{'x' * 40_000}')"),
    "a function call": function_call(2880, b"61"),
    "a long value": parse("", "insert into scratch values (61, $1)")
    + bind(values=[b"x" * 40_000])
    + execute()
    + sync(),
}


@pytest.mark.parametrize("name", HELD)
@pytest.mark.variants("uring-1", "epoll-1")
def test_a_cancel_reaches_a_request_that_waits_behind_a_hand_over(
    name: str, start: Start, server: Postgres, variant: Variant
) -> None:
    """It is for that request and no other: not for what goes before it, nor for what comes behind."""
    with Toxi(server.port) as toxi:
        forebay = start(configuration(toxi.port, variant, databases={"app": {"pool_size": 1}}))
        with forebay.target.wire() as one, forebay.target.wire() as two:
            one.ask(query("set timezone = 'Europe/Oslo'"))
            until(lambda: not has_server(forebay), within_s=5, what="what it has set is known")
            toxi.holds_replies.set()
            two.send(HELD[name], query("select 'goes on'"))
            until(lambda: has_server(forebay), within_s=5, what="it waits behind the prefix")
            with forebay.target.dial() as canceller:
                canceller.send(cancel(*two.key))
                assert canceller.ends()
            refused = two.ready()
            assert [frame.fields["C"] for frame in refused if frame.tag == "E"] == ["57014"]
            toxi.holds_replies.clear()
            answered = two.ready()
            assert [frame.tag for frame in answered if frame.tag in "DE"] == ["D"]
            assert two.value("select count(*) from scratch where a = 61") == "0"
            assert two.value("select count(*) from pg_locks where locktype = 'advisory'") == "0"
            assert one.value("show timezone") == "Europe/Oslo"
