"""Time limits of clients: each with its SQLSTATE, and the server is free afterwards."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.wire import Wire, bind, execute, parse, query, row, startup, sync

LIMIT_S = 0.3

CANCELLED = "57014"

pytestmark = pytest.mark.variants("uring-2", "epoll-1")


def limited(start: Start, server: Postgres, variant: Variant, setting: str) -> Forebay:
    """A forebay with one server and one limit."""
    return start(configuration(server, variant, databases={"app": {"pool_size": 1, setting: "300ms"}}))


def closed_with(wire: Wire) -> dict[str, str]:
    """The error before the close."""
    began = time.monotonic()
    (found,) = [frame.fields for frame in wire.rest() if frame.tag == "E"]
    assert LIMIT_S * 0.5 <= time.monotonic() - began < LIMIT_S + 3
    return found


def served(forebay: Forebay) -> None:
    """Another client gets the server, and finds it clean."""
    with forebay.target.wire() as other:
        assert other.value("select count(*) from scratch where a = 12") == "0"
        assert other.status == "I"


def test_a_client_that_idles_is_disconnected(start: Start, server: Postgres, variant: Variant) -> None:
    """57P05, as PostgreSQL's idle_session_timeout."""
    forebay = limited(start, server, variant, "client_idle_timeout")
    with forebay.target.wire() as wire:
        assert wire.value("select 1") == "1"
        found = closed_with(wire)
    assert (found["S"], found["C"]) == ("FATAL", "57P05")
    assert "FB701" in found["H"]
    served(forebay)


def test_a_client_in_a_transaction_is_not_idle(start: Start, server: Postgres, variant: Variant) -> None:
    """client_idle_timeout is for clients outside transactions."""
    forebay = limited(start, server, variant, "client_idle_timeout")
    with forebay.target.wire() as wire:
        wire.ask(query("begin"))
        assert wire.value("select pg_sleep(0.5)") == ""
        time.sleep(0.5)  # longer than the limit: nothing may happen, and nothing is there to wait for
        assert wire.value("select 1") == "1"
        wire.ask(query("commit"))


def test_a_transaction_that_idles_is_ended(start: Start, server: Postgres, variant: Variant) -> None:
    """25P03, rolled back: somebody went to lunch with a lock."""
    forebay = limited(start, server, variant, "idle_transaction_timeout")
    with forebay.target.wire() as wire:
        wire.ask(query("begin"))
        wire.ask(query("insert into scratch values (12, 'lunch')"))
        assert wire.value("select pg_sleep(0.5)") == ""
        found = closed_with(wire)
    assert (found["S"], found["C"]) == ("FATAL", "25P03")
    assert "FB702" in found["H"]
    served(forebay)


@pytest.mark.parametrize("step", ["select 1", "select pg_sleep(5)"], ids=["many_statements", "one_statement"])
def test_a_transaction_that_takes_too_long_is_ended(
    step: str, start: Start, server: Postgres, variant: Variant
) -> None:
    """25P04, while it works or between its statements."""
    forebay = limited(start, server, variant, "transaction_timeout")
    with forebay.target.wire() as wire:
        wire.ask(query("begin"))
        wire.ask(query("insert into scratch values (12, 'slow')"))
        wire.send(query(step))
        found = closed_with(wire)
    assert (found["S"], found["C"]) == ("FATAL", "25P04")
    assert "FB703" in found["H"]
    served(forebay)


@pytest.mark.parametrize("by", ["simple", "extended"])
def test_a_query_that_takes_too_long_is_cancelled(by: str, start: Start, server: Postgres, variant: Variant) -> None:
    """57014, and the session lives on."""
    forebay = limited(start, server, variant, "query_timeout")
    asked: dict[str, list[bytes]] = {
        "simple": [query("select pg_sleep(20)")],
        "extended": [parse("", "select pg_sleep(20)"), bind(), execute(), sync()],
    }
    with forebay.target.wire() as wire:
        began = time.monotonic()
        codes = [frame.fields["C"] for frame in wire.ask(*asked[by]) if frame.tag == "E"]
        assert codes == ["57014"]
        assert LIMIT_S * 0.5 <= time.monotonic() - began < LIMIT_S + 3
        assert wire.value("select 1") == "1"
    served(forebay)


def test_a_login_that_takes_too_long_is_ended(start: Start, server: Postgres, variant: Variant) -> None:
    """Row 12: a client that sends a byte a second must not keep its place."""
    forebay = start(configuration(server, variant, limits={"client_login_timeout": "300ms"}))
    began = time.monotonic()
    silent = [forebay.target.dial() for _ in range(20)]
    slow = forebay.target.dial()
    slow.send(startup(user="app", database="app")[:9])
    for wire in (*silent, slow):
        with wire:
            assert [frame.fields["C"] for frame in wire.rest()] in ([], ["08006"])
    assert LIMIT_S * 0.5 <= time.monotonic() - began < LIMIT_S + 3
    served(forebay)


@pytest.mark.parametrize(("wait", "login"), [("300ms", "60s"), ("0s", "300ms")])
def test_a_login_that_waits_for_a_server_is_ended(
    start: Start, server: Postgres, variant: Variant, wait: str, login: str
) -> None:
    """By the shorter of two limits; to wait for ever is for those who are logged in."""
    databases = {"app": {"query_wait_timeout": wait}}
    forebay = start(configuration(server, variant, databases=databases, limits={"client_login_timeout": login}))
    forebay.console("pause app")
    began = time.monotonic()
    with forebay.target.dial() as wire:
        wire.send(startup(user="app", database="app"))
        assert [frame.fields["C"] for frame in wire.rest() if frame.tag == "E"] == ["53300"]
    assert LIMIT_S * 0.5 <= time.monotonic() - began < LIMIT_S + 3


def test_a_users_limit_beats_the_databases(start: Start, server: Postgres, variant: Variant) -> None:
    """Precedence: user, database, global."""
    sections: dict[str, Any] = configuration(
        server, variant, databases={"app": {"query_timeout": "20s"}}, server_defaults={"query_timeout": "30s"},
        **{"users.other": {"query_timeout": "200ms"}},
    )  # fmt: skip
    forebay = start(sections)
    with forebay.target.at(user="other").wire() as limited_user, forebay.target.wire() as free:
        frames = limited_user.ask(query("select pg_sleep(5)"))
        assert [frame.fields["C"] for frame in frames if frame.tag == "E"] == ["57014"]
        assert free.value("select pg_sleep(0.4)") == ""


def patient(wire: Wire, sql: str) -> str | None:
    """The one value of a statement, asked for until it takes no longer than the session allows."""
    while True:
        frames = wire.ask(query(sql))
        errors = [frame.fields["C"] for frame in frames if frame.tag == "E"]
        assert not errors or errors == [CANCELLED], errors
        if not errors:
            return next((row(frame)[0] for frame in frames if frame.tag == "D"), None)


@pytest.mark.variants("uring-1", "epoll-2")
def test_a_look_takes_longer_than_its_client_allows_statements(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """Kept by a look that never ends, the only server would serve nobody else."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 1}}))
    with server.target.connect(user="postgres", dbname="app", autocommit=True) as holder:
        # Thousands of locks make the list of them a matter of milliseconds.
        holder.execute("select count(pg_advisory_lock(g)) from generate_series(1, 6000) g")
        with forebay.target.wire() as hasty, forebay.target.wire() as other:
            hasty.ask(query("set statement_timeout = '1ms'"))
            assert patient(hasty, "select pg_try_advisory_lock(0)") == "t"
            until(lambda: len(forebay.console("show pins")) == 1, within_s=5, what="the look has seen the lock")
            patient(hasty, "select pg_advisory_unlock(0)")
            assert other.value("show statement_timeout") == "0"
            assert patient(hasty, "show statement_timeout") == "1ms"
            # All settings are read, with the time-out lifted, and it stays the client's own.
            patient(hasty, "do $$ begin perform set_config('app.hasty', 'yes', false); end $$")
            assert other.value("show statement_timeout") == "0"
            assert patient(hasty, "show app.hasty") == "yes"
            assert patient(hasty, "show statement_timeout") == "1ms"
    until(lambda: forebay.console("show pins") == [], within_s=5, what="nothing is kept")
