"""Pins are told: to clients that wait for what is pinned, to those that are pinned, and to who looks after the pool."""

from __future__ import annotations

import re

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.wire import Frame, Wire, query

# What pins, the reason and the kind of statement that SHOW PINS gives for it, and what ends it before the session does.
CAUSES = (
    ("create temp table mine (a int)", "temporary object", "CREATE", "drop table mine"),
    ("select pg_advisory_lock(7)", "advisory lock", "SELECT", "select pg_advisory_unlock(7)"),
    ("declare c cursor with hold for select 1", "cursor with hold", "DECLARE", "close c"),
    ("select 1; prepare p as select 1", "prepared statement", "PREPARE", "deallocate p"),
    ("set session authorization app", "session authorization", "SET", "reset session authorization"),
    ("select setseed(0.5)", "seed", "SELECT", None),
    ("load 'plpgsql'", "library", "LOAD", None),
)


def errors(frames: list[Frame]) -> list[dict[str, str]]:
    """Fields of the errors among them."""
    return [frame.fields for frame in frames if frame.tag == "E"]


def wait_for_pins(forebay: Forebay, *due: tuple[str, str]) -> None:
    """Returns once SHOW PINS gives these: a server is looked at behind the reply to its client."""

    def told() -> list[tuple[str | None, str | None]]:
        return [(row["reasons"], row["statement"]) for row in forebay.console("show pins")]

    try:
        until(lambda: told() == list(due), within_s=5, what="the pins are told")
    except AssertionError:
        raise AssertionError(f"due were {due}, told are {told()}") from None


def refusals(forebay: Forebay, code: str) -> int:
    """How many errors of a code have been counted."""
    found = re.search(rf'^forebay_refusals_total\{{code="{code}"\}} (\d+)$', forebay.metrics(), re.MULTILINE)
    assert found, code
    return int(found[1])


def holders(forebay: Forebay, causes: list[str]) -> list[Wire]:
    """A client for each, pinned by it."""
    clients = []
    for cause in causes:
        client = forebay.target.at(user="postgres").wire()
        assert not errors(client.ask(query(cause))), cause
        client.ask(query("select 1"))
        clients.append(client)
    return clients


def test_a_client_that_waits_for_pinned_servers_is_told_of_all_of_them(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """FB202, whichever workers have them: who reads `1 of 6` looks for a leak elsewhere."""
    causes = ["create temp table mine (a int)"] * 3 + ["select pg_advisory_lock_shared(7)"] * 3
    app = {"pool_size": len(causes), "query_wait_timeout": "1s"}
    forebay = start(configuration(server, variant, databases={"app": app}))
    clients = holders(forebay, causes)
    with forebay.target.at(user="postgres").wire() as waiter:
        [error] = errors(waiter.ask(query("select 1")))
    assert (error["C"], "(FB202)" in error["H"]) == ("53300", True)
    assert error["M"].startswith('6 of 6 servers of pool "app/postgres" are pinned')
    assert error["M"].endswith("(3 temporary object, 3 advisory lock)")
    assert refusals(forebay, "FB202") == 1
    assert refusals(forebay, "FB201") == 0
    for client in clients:
        client.close()


@pytest.mark.variants("uring-1", "epoll-2")
def test_a_pinned_client_that_stays_idle_is_told_and_closed(start: Start, server: Postgres, variant: Variant) -> None:
    """FB207: its server goes back to those that work."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 1, "pin_idle_limit": "500ms"}}))
    [pinned] = holders(forebay, ["select pg_advisory_lock(7)"])
    with forebay.target.at(user="postgres").wire() as other:
        assert other.value("select count(*) from pg_locks where locktype = 'advisory'") == "0", "it got the server"
    error = pinned.read()
    assert (error.tag, error.fields["S"], error.fields["C"]) == ("E", "FATAL", "57P05")
    assert "(FB207)" in error.fields["H"]
    assert pinned.ends()
    pinned.close()
    assert refusals(forebay, "FB207") == 1


@pytest.mark.variants("uring-1", "epoll-2")
def test_every_pin_is_announced_where_the_pool_says_so(start: Start, server: Postgres, variant: Variant) -> None:
    """FB208: an application in development learns of each, and of what would have avoided it."""
    forebay = start(configuration(server, variant, databases={"app": {"on_pin": "notice", "pool_size": 8}}))
    for cause, reason, _, _ in CAUSES:
        with forebay.target.at(user="postgres").wire() as client:
            frames = client.ask(query(cause)) + client.ask(query("select 1"))
            notices = [frame.fields for frame in frames if frame.tag == "N"]
            told = [notice for notice in notices if "(FB208)" in notice.get("H", "")]
            assert [reason in notice["M"] for notice in told] == [True], (cause, notices)
            assert [notice["S"] for notice in told] == ["NOTICE"]
            again = [frame for frame in client.ask(query("select 1")) if frame.tag == "N"]
            assert not again, "once is enough"


@pytest.mark.variants("uring-1", "epoll-2")
def test_show_pins_names_the_statement_that_pinned(start: Start, server: Postgres, variant: Variant) -> None:
    """And not what the client has run since: that is where its developer would look."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 8}}))
    for cause, reason, statement, end in CAUSES:
        with forebay.target.at(user="postgres").wire() as client:
            client.ask(query(cause))
            client.ask(query("update scratch set a = a where false"))
            client.ask(query("discard plans"))
            wait_for_pins(forebay, (reason, statement))
            if end is not None:
                client.ask(query(end))
                wait_for_pins(forebay)
        wait_for_pins(forebay)


@pytest.mark.variants("uring-1", "epoll-2")
def test_of_several_pins_each_has_its_statement(start: Start, server: Postgres, variant: Variant) -> None:
    """One that has ended takes its statement with it."""
    forebay = start(configuration(server, variant))
    with forebay.target.at(user="postgres").wire() as client:
        client.ask(query("begin; create temp table mine (a int); insert into mine values (1); commit"))
        client.ask(query("do 'begin perform pg_advisory_lock(7); end'"))
        wait_for_pins(forebay, ("temporary object, advisory lock", "CREATE, DO"))
        client.ask(query("drop table mine"))
        wait_for_pins(forebay, ("advisory lock", "DO"))


@pytest.mark.variants("uring-1", "epoll-2")
def test_what_a_failed_transaction_has_not_run_pins_nothing(start: Start, server: Postgres, variant: Variant) -> None:
    """No look tells whether there is a seed or a library: the client would have kept its server for good."""
    forebay = start(configuration(server, variant))
    with forebay.target.at(user="postgres").wire() as client:
        client.ask(query("begin"))
        client.ask(query("select 1/0"))
        for cause in ("select setseed(0.5)", "load 'plpgsql'"):
            assert [error["C"] for error in errors(client.ask(query(cause)))] == ["25P02"]
        client.ask(query("rollback"))
        # What is asked behind it has its answer when the server has been looked at.
        client.ask(query("select 1"))
        wait_for_pins(forebay)
        client.ask(query("begin"))
        client.ask(query("select 1/0"))
        client.ask(query("rollback; select setseed(0.5)"))
        wait_for_pins(forebay, ("seed", "SELECT"))
