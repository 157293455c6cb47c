"""Pools of `forebay-pgbouncer`: which are kept and for how long, and what becomes of their servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.test_hosts import refusing
from tests.harness import drop_in
from tests.harness.deadline import until
from tests.harness.drop_in import DropIn, Make
from tests.harness.postgres import Postgres
from tests.harness.target import Target
from tests.harness.wire import bind, execute, parse, query, startup, sync


@pytest.fixture
def make(server: Postgres) -> Iterator[Make]:
    with drop_in.maker(server) as make:
        yield make


def pools(running: DropIn) -> set[str]:
    """Databases that have a pool."""
    return {str(row["database"]) for row in running.console("show pools")} - {"pgbouncer"}


def logins(running: DropIn) -> int:
    """Of all databases since the start."""
    rows = running.console("show stats_totals")
    return sum(int(row["client_login_count"] or 0) for row in rows if row["database"] != "pgbouncer")


def test_pools_that_nobody_uses_are_forgotten(make: Make, server: Postgres) -> None:
    """With a database for each tenant, memory and monitoring would grow with every name that was ever asked for."""
    any_database = {"*": f"host=127.0.0.1 port={server.port}"}
    running = make(any_database, autodb_idle_timeout="2", server_idle_timeout="1", pool_idle_timeout="0")
    running.start()
    for database in ("postgres", "app", "template1"):
        with running.target.at(dbname=database).wire() as wire:
            wire.value("select 1")
    running.says("registered new auto-database: db=postgres")
    assert pools(running) == {"postgres", "app", "template1"}
    with running.target.at(dbname="postgres").wire() as stays:
        until(
            lambda: pools(running) == {"postgres", "app"}, within_s=15, what="one of * goes, the configured one stays"
        )
        running.says("cleaning up idle pool: template1/app")
        assert stays.value("select 1") == "1"
    assert logins(running) == 4, "totals do not fall"
    running.console("set pool_idle_timeout = 1")
    until(lambda: not pools(running), within_s=15, what="without clients and servers none is kept")
    assert logins(running) == 4
    with running.target.wire() as wire:
        assert wire.value("select 1") == "1"
    assert pools(running) == {"app"}


@pytest.mark.parametrize(
    ("mode", "always", "runs"), [("session", "0", 2), ("transaction", "0", 0), ("transaction", "1", 6)]
)
def test_servers_are_reset_by_the_query_where_that_is_asked_for(
    mode: str, always: str, runs: int, make: Make, direct: Target
) -> None:
    """Each of two clients runs three transactions; what a client sets is its own whatever the query does."""
    with direct.wire() as wire:
        wire.ask(query("drop sequence if exists resets; create sequence resets; grant all on resets to public"))
    running = make(
        pool_mode=mode, server_reset_query="select nextval('resets')", server_reset_query_always=always,
        default_pool_size="1",
    )  # fmt: skip
    running.start()
    for name in ("one", "two"):
        with running.target.wire() as wire:
            assert wire.value("show statement_timeout") == "0" or mode == "session", "another's setting"
            wire.ask(query(f"set statement_timeout to '{len(name)}min'"))
            assert wire.value("show statement_timeout") == "3min"
    watched = "select case when is_called then last_value else 0 end from resets"
    with direct.wire() as wire:
        until(lambda: wire.value(watched) == str(runs), within_s=10, what=f"{runs} resets")


@pytest.mark.parametrize(("asked", "delay"), [(True, "0"), (True, "3600"), (False, "0")])
def test_idle_servers_are_asked_by_the_query_where_it_is_time(
    asked: bool, delay: str, make: Make, direct: Target
) -> None:
    """server_check_query is what they are asked, server_check_delay how long they must have been idle before."""
    with direct.wire() as wire:
        wire.ask(query("drop sequence if exists checks; create sequence checks; grant all on checks to public"))
    running = make(
        server_check_query="select nextval('checks')" if asked else "", server_check_delay=delay, default_pool_size="1"
    )
    running.start()
    with running.target.wire() as wire:
        for number in range(4):
            assert wire.value(f"select {number}") == str(number)
    with direct.wire() as wire:
        runs = int(wire.value("select case when is_called then last_value else 0 end from checks") or "")
    assert (runs >= 2) == (asked and delay == "0"), runs


def test_a_server_that_refuses_logins_is_tried_as_often_as_is_set(make: Make) -> None:
    """server_login_retry: a wrong password is mended by hand, and nobody wants to wait long after that."""
    for longest, is_patient in (("0.2", False), ("60", True)):
        with refusing("28P01") as (port, asked):
            away = {"away": f"host=127.0.0.1 port={port} dbname=app"}
            running = make(away, server_login_retry=longest, query_wait_timeout="0.3")
            running.start(environment={"FOREBAY_ENGINE_WORKERS": "1"})

            def times(count: int) -> bool:
                running.target.at(dbname="away").first(startup(user="app", database="away"))  # noqa: B023
                return len(asked) >= count

            # Pauses of 50 ms that double: the twelfth try would come after a minute, if nothing ended that.
            until(lambda: times(7 if is_patient else 12), within_s=30, what="it is tried again")  # noqa: B023
            if is_patient:
                assert asked[6] - asked[5] > 1
            running.close()


def test_everything_is_discarded_after_each_transaction_where_that_is_asked_for(make: Make) -> None:
    running = make(server_reset_query_always="1", default_pool_size="1")
    running.start()
    with running.target.wire() as wire, running.target.wire() as other:
        wire.ask(query("set statement_timeout to '3min'"))
        for _ in range(2):
            frames = wire.ask(parse("named", "select current_setting('statement_timeout')"), sync())
            assert "E" not in [frame.tag for frame in frames] or _ == 1
            (row,) = [frame for frame in wire.ask(bind(statement="named"), execute(), sync()) if frame.tag == "D"]
            assert b"3min" in row.body
            assert other.value("show statement_timeout") == "0"


def test_simple_queries_can_be_refused(make: Make) -> None:
    """A message of theirs may hold a second statement, which somebody has injected."""
    running = make(disable_pqexec="1", default_pool_size="1")
    running.start()
    asked = [parse("", "select 7"), bind(), execute(), sync()]
    with running.target.wire() as wire:
        for _ in range(2):
            (error,) = [frame.fields for frame in wire.ask(query("select 1; drop table x")) if frame.tag == "E"]
            assert (error["S"], error["C"]) == ("ERROR", "0A000")
            assert error["M"].startswith("PQexec disallowed")
            assert wire.status == "I"
        assert [frame.tag for frame in wire.ask(*asked)] == ["1", "2", "D", "C", "Z"]
        wire.ask(parse("", "begin"), bind(), execute(), sync())
        assert wire.status == "T"
        (error,) = [frame.fields for frame in wire.ask(query("select 1")) if frame.tag == "E"]
        assert error["M"].startswith("PQexec disallowed")
        assert wire.status == "E", "as after any error"
    assert running.console("show version"), "the console is asked by simple queries"
