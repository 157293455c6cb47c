"""Limits of `forebay-pgbouncer`: PgBouncer's words, true SQLSTATEs, and sessions that go on where they can.

Whatever is idle is ended, as by PgBouncer and by PostgreSQL: outside a request there is no message by which a client
could be told that it lives on, and what it sends next would run outside the transaction that it believes in.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import drop_in
from tests.harness.drop_in import Make
from tests.harness.postgres import Postgres
from tests.harness.wire import bind, execute, parse, query, sync


@pytest.fixture
def make(server: Postgres) -> Iterator[Make]:
    with drop_in.maker(server) as make:
        yield make


SLEEP = {
    "simple": [query("select pg_sleep(20)")],
    "extended": [parse("", "select pg_sleep(20)"), bind(), execute(), sync()],
}


@pytest.mark.parametrize("by", SLEEP)
def test_a_session_outlives_a_query_that_takes_too_long(by: str, make: Make) -> None:
    """PgBouncer hangs up: a pool of connections in the application empties by one with every slow query."""
    running = make(query_timeout="0.3", default_pool_size="1")
    running.start()
    with running.target.wire() as client:
        pid = client.value("select pg_backend_pid()")
        client.ask(query("begin"))
        (error,) = [frame.fields for frame in client.ask(*SLEEP[by]) if frame.tag == "E"]
        assert (error["S"], error["C"], error["M"]) == ("ERROR", "57014", "query timeout")
        assert client.status == "E"
        client.ask(query("rollback"))
        assert client.value("select pg_backend_pid()") == pid, "the server is used again"


def test_a_session_outlives_a_wait_that_takes_too_long(make: Make) -> None:
    running = make(query_wait_timeout="0.3", default_pool_size="1")
    running.start()
    with running.target.wire() as busy, running.target.wire() as client:
        busy.ask(query("begin"))
        for _ in range(2):
            (error,) = [frame.fields for frame in client.ask(*SLEEP["extended"]) if frame.tag == "E"]
            assert (error["S"], error["C"], error["M"]) == ("ERROR", "53300", "query_wait_timeout")
            assert client.status == "I"
        busy.ask(query("commit"))
        assert client.value("select 'served'") == "served"


@pytest.mark.parametrize(
    ("setting", "asks", "words", "code"),
    [
        ("client_idle_timeout", [], "client_idle_timeout", "57P05"),
        ("idle_transaction_timeout", [query("begin")], "idle transaction timeout", "25P03"),
        ("transaction_timeout", [query("begin")], "transaction timeout", "25P04"),
    ],
)
def test_what_is_idle_for_too_long_is_ended(
    setting: str, asks: list[bytes], words: str, code: str, make: Make, server: Postgres
) -> None:
    """With the words that alerts know, and the SQLSTATE that PostgreSQL itself has for it."""
    running = make(**{setting: "0.3"}, default_pool_size="1")
    running.start()
    with running.target.wire() as client:
        for message in asks:
            client.ask(message)
        (error,) = [frame.fields for frame in client.rest() if frame.tag == "E"]
        assert (error["S"], error["C"], error["M"]) == ("FATAL", code, words)
    running.says(f"closing because: {words}")
    with running.target.wire() as other:
        assert other.status == "I"
        assert other.value("select 1") == "1"


def test_a_server_that_is_lost_costs_its_clients_transaction_only(make: Make, server: Postgres) -> None:
    """PgBouncer hangs up with 08P01; here the session lives on, and the SQLSTATE is one that drivers act on."""
    running = make(default_pool_size="1")
    running.start()
    with running.target.wire() as client, server.target.at(user="postgres").wire() as admin:
        client.ask(query("begin"))
        admin.rows(f"select pg_terminate_backend({client.value('select pg_backend_pid()')})")
        (error,) = [frame.fields for frame in client.ask(query("select 1")) if frame.tag == "E"]
        assert (error["S"], error["C"]) == ("ERROR", "57P01")
        assert client.value("select 'alive'") == "alive"


def test_values_that_pgbouncer_loses_are_kept(make: Make) -> None:
    """Its two: a value of more than 127 bytes once quoted is its neighbour's afterwards, and a SET of more than 299
    bytes ends the session."""
    running = make(default_pool_size="1", track_extra_parameters="IntervalStyle, search_path")
    running.start()
    quotes, path = "'" * 63, ", ".join(f"schema_{number:03}" for number in range(40))
    with running.target.wire(application_name=quotes) as long, running.target.wire(application_name="x") as neighbour:
        neighbour.ask(query(f"set search_path to {path}"))
        for _ in range(2):
            assert long.value("show application_name") == quotes
            assert long.value("show search_path") == '"$user", public'
            assert neighbour.value("show application_name") == "x"
            assert neighbour.value("show search_path") == path
