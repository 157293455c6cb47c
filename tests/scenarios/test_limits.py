"""Limits, and what a client is told when it meets one."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from typing import Any

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres, free_port
from tests.harness.wire import Frame, Gone, bind, cancel, execute, message, parse, query, row, startup, sync, terminate

# Servers of a user whom only one test at a time uses; the reader of the catalogue is none of the pool's.
OPEN = "select count(*) from pg_stat_activity where usename = 'gone' and application_name <> 'forebay catalogue'"

# A pool of one server.
ONE = {"app": {"pool_size": 1}}


def hurry(forebay: Forebay, server: Postgres, variant: Variant, *, wait_ms: int) -> None:
    """Has requests wait for so long only. What waits for a server that is still being opened comes before."""
    databases = {"app": {**ONE["app"], "query_wait_timeout": f"{wait_ms}ms"}}
    assert forebay.reload(configuration(server, variant, databases=databases))["event"] == "reload"


def error(frames: list[Frame]) -> dict[str, str]:
    """The fields of the only error."""
    (found,) = [frame.fields for frame in frames if frame.tag == "E"]
    return found


def total(rows: list[dict[str, Any]], column: str, database: str = "app") -> int:
    """The sum of a column of SHOW POOLS over workers."""
    return sum(int(row[column]) for row in rows if row["database"] == database)


def test_a_pool_is_as_large_as_it_says_over_all_workers(start: Start, server: Postgres, variant: Variant) -> None:
    """A limit for each worker would let two workers open twice as many servers."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 3}}))
    with forebay.target.at(user="gone").wire() as wire:
        wire.ask(query("select 1"))
    # Its reader has no name yet while it logs in.
    until(lambda: forebay.catalogue_loads() > 0, within_s=10, what="the catalogue is read")
    stop = threading.Event()
    counts: list[int] = []

    def watch() -> None:
        with server.target.at(user="postgres").wire() as watcher:
            while not stop.is_set():
                counts.append(int(watcher.value(OPEN) or ""))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with contextlib.ExitStack() as stack:
            wires = [stack.enter_context(forebay.target.at(user="gone").wire()) for _ in range(30)]
            for _ in range(5):
                for wire in wires:
                    wire.send(query("select pg_sleep(0.005), pg_backend_pid()"))
                pids = {frame.body for wire in wires for frame in wire.ready() if frame.tag == "D"}
                assert 1 <= len(pids) <= 3
    finally:
        stop.set()
        watcher.join()
    assert max(counts) <= 3


@pytest.mark.variants("uring-2", "epoll-2")
def test_clients_of_every_worker_are_served_by_one_server(start: Start, server: Postgres, variant: Variant) -> None:
    """A server stays where it was used last: others must be able to borrow it."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 1}}))
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(forebay.target.wire()) for _ in range(24)]
        for _ in range(10):
            for wire in wires:
                wire.send(query("select pg_backend_pid()"))
            assert len({row(frame)[0] for wire in wires for frame in wire.ready() if frame.tag == "D"}) == 1


@pytest.mark.variants("uring-2", "epoll-2")
def test_a_login_needs_no_server_once_any_worker_has_asked_one(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """What servers say at a login is the same for all: while every server is in use, clients of all workers get in."""
    forebay = start(configuration(server, variant, databases=ONE, listen={"port": free_port()}))
    with contextlib.ExitStack() as stack:
        stack.enter_context(forebay.target.wire()).ask(query("begin"))
        for _ in range(8):
            stack.enter_context(forebay.target.wire(application_name="late"))
        forebay.upgrade()
        for _ in range(8):
            stack.enter_context(forebay.target.wire(application_name="later"))


@pytest.mark.variants("uring-1", "epoll-1")
def test_waiters_are_served_in_the_order_in_which_they_came(shared: Forebay) -> None:
    """The newest first would let the oldest wait for ever under load."""
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(shared.target.wire())
        waiters = [stack.enter_context(shared.target.wire()) for _ in range(12)]
        holder.ask(query("begin"))
        for i, waiter in enumerate(waiters):
            waiter.send(query("select clock_timestamp()"))
            until(lambda: total(shared.console("show pools"), "cl_waiting") == i + 1, within_s=5, what="it waits")  # noqa: B023
        holder.ask(query("commit"))
        times = [row(frame)[0] for waiter in waiters for frame in waiter.ready() if frame.tag == "D"]
        assert times == sorted(times, key=str)


def test_a_request_that_waits_too_long_is_told_who_holds_the_servers(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """The first thing an operator asks: who sits on them, and for how long."""
    forebay = start(configuration(server, variant, databases=ONE))
    with forebay.target.wire(application_name="report.py") as holder, forebay.target.wire() as waiter:
        holder.ask(query("begin"))
        hurry(forebay, server, variant, wait_ms=300)
        began = time.monotonic()
        found = error(waiter.ask(query("select 1")))
        assert time.monotonic() - began >= 0.29
        assert (found["S"], found["C"]) == ("ERROR", "53300")
        assert 'pool "app/app"' in found["M"]
        assert re.search(r"within (3\d\d ms|\d+\.\d s)", found["M"])
        assert found["D"].startswith("1 of 1 servers in use, 1 requests waiting; longest lease ")
        assert re.search(r"idle in a transaction of client \d+ \"report.py\"\.$", found["D"])
        assert "FB201" in found["H"]
        assert "pool_size" in found["H"]
        # The session lives on.
        holder.ask(query("commit"))
        assert waiter.value("select 1") == "1"


def test_a_request_that_waits_too_long_is_told_what_servers_do_that_no_client_has(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """A full pool without a holder would send an operator to look for a fault that is not there."""
    forebay = start(configuration(server, variant, databases=ONE))
    with forebay.target.wire() as waiter, forebay.target.wire() as left:
        left.send(query("select pg_sleep(5)"), terminate())
        assert left.ends()
        hurry(forebay, server, variant, wait_ms=300)
        found = error(waiter.ask(query("select 1")))
        words = r"1 of 1 servers in use, 1 requests waiting; "
        words += r"1 running what a client that has left had asked for \([\d.]+ m?s\)\."
        assert re.fullmatch(words, found["D"]), found["D"]
        until(lambda: waiter.ask(query("select 1"))[0].tag != "E", within_s=20, what="it has run to its end")


def test_a_login_that_waits_too_long_is_told_that_a_server_is_being_opened(start: Start, variant: Variant) -> None:
    """The pool is full and nobody uses it: the server does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = {"pool_size": 1, "query_wait_timeout": "300ms"}
        forebay = start(configuration(silent.getsockname()[1], variant, databases={"app": settings}))
        with forebay.target.dial() as client:
            client.send(startup(user="app", database="app"))
            found = error(client.rest())
        assert found["C"] == "53300"
        words = r"1 of 1 servers in use, 1 requests waiting; 1 being opened \([\d.]+ m?s\)\."
        assert re.fullmatch(words, found["D"]), found["D"]


def test_a_pipeline_that_waits_too_long_is_answered_for_each_sync(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """A driver counts ReadyForQuery: one too few and it waits for ever."""
    forebay = start(configuration(server, variant, databases=ONE))
    with forebay.target.wire() as holder, forebay.target.wire() as waiter:
        holder.ask(query("begin"))
        hurry(forebay, server, variant, wait_ms=300)
        step = [parse("", "insert into scratch values (31, 'x')"), bind(), execute(), sync()]
        waiter.send(*step, *step)
        frames = waiter.ready(2)
        assert {frame.fields["C"] for frame in frames if frame.tag == "E"} == {"53300"}
        holder.ask(query("commit"))
        assert waiter.value("select count(*) from scratch where a = 31") == "0"


def test_a_checkout_timeout_makes_no_server_sick(start: Start, server: Postgres, variant: Variant) -> None:
    """Saturation is never sickness: the next request is served at once."""
    forebay = start(configuration(server, variant, databases=ONE))
    with forebay.target.wire() as holder, forebay.target.wire() as waiter:
        holder.ask(query("begin"))
        hurry(forebay, server, variant, wait_ms=100)
        for _ in range(10):
            assert error(waiter.ask(query("select 1")))["C"] == "53300"
        holder.ask(query("commit"))
        assert waiter.value("select 1") == "1"
        assert [row["sick"] for row in forebay.console("show pools") if row["sick"]] == []


def test_clients_above_the_limit_are_refused(start: Start, server: Postgres, variant: Variant) -> None:
    """53300, over all workers; those inside notice nothing, and a place that comes free is given again."""
    forebay = start(configuration(server, variant, limits={"max_client_conn": 5}))
    wires = [forebay.target.wire() for _ in range(5)]
    try:
        with forebay.target.dial() as refused:
            refused.send(startup(user="app", database="app"))
            found = error(refused.rest())
            assert (found["S"], found["C"]) == ("FATAL", "53300")
            assert "FB204" in found["H"]
        assert [wire.value("select 1") for wire in wires] == ["1"] * 5
        wires.pop().close()

        def let_in() -> bool:
            with contextlib.suppress(AssertionError, Gone):
                wires.append(forebay.target.wire())
                return True
            return False

        until(let_in, within_s=5, what="the free place is given")
    finally:
        for wire in wires:
            wire.close()


def test_a_full_house_still_takes_cancels_and_says_what_is_wrong(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """When all is stuck a cancel is what helps; and drivers show no error that comes in place of TLS's answer."""
    forebay = start(configuration(server, variant, limits={"max_client_conn": 1}))
    with forebay.target.wire() as stuck:
        stuck.send(query("select pg_sleep(20)"))
        until(lambda: forebay.servers_active() == 1, within_s=10, what="it runs")
        with forebay.target.dial() as refused:
            refused.send(struct.pack("!II", 8, 80877103))
            assert refused.take(1) == b"N"
            refused.send(startup(user="app", database="app"))
            assert error(refused.rest())["C"] == "53300"
        with forebay.target.dial() as saviour:
            saviour.send(cancel(*stuck.key))
            assert saviour.ends()
        assert error(stuck.ready())["C"] == "57014"


def test_a_message_above_the_limit_is_refused(start: Start, server: Postgres, variant: Variant) -> None:
    """54000 before a byte of it is kept, and the connection ends: the rest of it can't be skipped safely."""
    forebay = start(configuration(server, variant, limits={"max_packet_size": "64KB"}))
    with forebay.target.wire() as wire:
        assert wire.value("select length('" + "x" * 60_000 + "')") == "60000"
        wire.send(b"Q" + struct.pack("!I", 65537 + 4) + b"select '")
        found = error(wire.rest())
        assert (found["S"], found["C"]) == ("FATAL", "54000")
    with forebay.target.wire() as other:
        assert other.value("select 1") == "1"


def test_a_row_above_the_limit_is_refused(start: Start, server: Postgres, variant: Variant) -> None:
    """The limit holds for both sides; other clients go on."""
    forebay = start(configuration(server, variant, limits={"max_packet_size": "64KB"}))
    with forebay.target.wire() as wire:
        wire.send(query("select repeat('x', 100000)"))
        codes = [frame.fields["C"] for frame in wire.rest() if frame.tag == "E"]
        assert codes == ["54000"]
    with forebay.target.wire() as other:
        assert other.value("select 1") == "1"


@pytest.mark.parametrize("tag", ["\0", "a", "z", "R", "\xff"])
def test_a_message_of_no_kind_is_refused(tag: str, shared: Forebay) -> None:
    """08P01, and the connection ends."""
    with shared.target.wire() as wire:
        wire.send(tag.encode("latin-1") + struct.pack("!I", 8) + b"\0\0\0\0")
        found = error(wire.rest())
        assert (found["S"], found["C"]) == ("FATAL", "08P01")


@pytest.mark.parametrize("length", [0, 3, 0x7FFFFFFF, 0xFFFFFFFF])
def test_an_impossible_length_is_refused(length: int, shared: Forebay) -> None:
    """It must not be waited for, and nothing may be allocated by it."""
    before = shared.rss_kb()
    with shared.target.wire() as wire:
        wire.send(b"Q" + struct.pack("!I", length) + b"select 1\0")
        frames = wire.rest()
        assert error(frames)["S"] == "FATAL"
    assert shared.rss_kb() - before < 2048


@pytest.mark.parametrize(
    "broken",
    [message("P", b"name"), message("B", b"p\0s\0\0"), message("D", b"X\0"), message("D", b""), message("C", b"S"),
     message("Q", b"no end"), message("E", b"p\0"), message("P", b"a\0select 1\0\xff\xff")],
    ids=["parse", "bind", "describe_kind", "describe_empty", "close", "query", "execute", "parse_types"],
)  # fmt: skip
def test_a_message_that_can_not_be_read_harms_nobody_else(broken: bytes, shared: Forebay) -> None:
    """Refused by forebay or by the server: an error either way, and the next client is served."""
    with shared.target.wire() as wire:
        wire.send(broken, sync())
        with contextlib.suppress(Gone):
            wire.ready()
        assert any(line.startswith("ErrorResponse") for line in wire.seen), wire.seen[-3:]
    with shared.target.wire() as other:
        assert other.value("select 1") == "1"


def test_a_client_may_hold_so_many_statements(start: Start, server: Postgres, variant: Variant) -> None:
    """A leak of statements is told to the one who leaks."""
    forebay = start(configuration(server, variant, limits={"client_statements_max": 10}))
    with forebay.target.wire() as wire:
        for i in range(10):
            wire.ask(parse(f"s{i}", f"select {i}"), sync())
        wire.send(parse("one_more", "select 10"), sync())
        with contextlib.suppress(Gone):
            wire.ready()
        assert any("53400" in line for line in wire.seen[-2:])


@pytest.mark.variants("uring-2", "epoll-1")
def test_servers_of_a_database_are_limited_over_its_pools(start: Start, server: Postgres, variant: Variant) -> None:
    """max_db_connections protects the database from many users; a pool that is idle gives way."""
    databases = {"app": {"pool_size": 4, "max_db_connections": 2}}
    forebay = start(configuration(server, variant, databases=databases))
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(forebay.target.at(user="other").wire())
        holders = [stack.enter_context(forebay.target.at(user="gone").wire()) for _ in range(2)]
        for holder in holders:
            holder.ask(query("begin"))
        other.send(query("select 'other'"))
        with server.target.at(user="postgres").wire() as watcher:
            # Those of a test before may still be ending.
            until(lambda: watcher.value(OPEN) == "2", within_s=30, what="two servers are open")
        for holder in holders:
            holder.ask(query("commit"))
        assert [row(frame) for frame in other.ready() if frame.tag == "D"] == [["other"]]


@pytest.mark.variants("uring-2", "epoll-1")
def test_servers_of_a_user_are_limited_over_all_databases(start: Start, server: Postgres, variant: Variant) -> None:
    """max_user_connections, over the pools of one user."""
    sections = configuration(
        server, variant, databases={"app": {}, "b": {"dbname": "elsewhere"}},
        **{"users.gone": {"max_user_connections": 1}},
    )  # fmt: skip
    target = start(sections).target.at(user="gone")
    with target.wire() as one, target.at(dbname="b").wire() as two:
        one.ask(query("begin"))
        two.send(query("select 'later'"))
        with server.target.at(user="postgres").wire() as watcher:
            until(lambda: watcher.value(OPEN) == "1", within_s=30, what="one server is open")
        one.ask(query("commit"))
        assert [row(frame) for frame in two.ready() if frame.tag == "D"] == [["later"]]


def test_a_minimum_of_servers_is_open_from_the_start(start: Start, server: Postgres, variant: Variant) -> None:
    """For a database with a forced user: the first client waits for nothing."""
    databases = {"app": {"pool_size": 5, "min_pool_size": 3, "user": "gone", "secret": {"env": "SECRET_gone"}}}
    start(configuration(server, variant, databases=databases))
    with server.target.at(user="postgres").wire() as watcher:
        until(lambda: watcher.value(OPEN) == "3", within_s=5, what="three servers are open")


def test_idle_servers_are_closed_down_to_the_minimum(start: Start, server: Postgres, variant: Variant) -> None:
    """A burst does not keep the database's connections for ever."""
    databases = {"app": {"pool_size": 4, "min_pool_size": 1, "server_idle_timeout": "300ms"}}
    forebay = start(configuration(server, variant, databases=databases))
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(forebay.target.at(user="gone").wire()) for _ in range(4)]
        for wire in wires:
            wire.send(query("select pg_sleep(0.1)"))
        for wire in wires:
            wire.ready()
        with server.target.at(user="postgres").wire() as watcher:
            until(lambda: watcher.value(OPEN) == "1", within_s=10, what="one server is left")


def test_a_server_past_its_lifetime_is_replaced(start: Start, server: Postgres, variant: Variant) -> None:
    """Long-lived back ends pile up memory; replacing them costs no request."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 1, "server_lifetime": "300ms"}}))
    with forebay.target.wire() as wire:
        first = wire.value("select pg_backend_pid()")
        until(lambda: wire.value("select pg_backend_pid()") != first, within_s=5, what="another server serves")


def test_an_idle_server_that_died_is_found_by_the_check(start: Start, server: Postgres, variant: Variant) -> None:
    """A client must not be the one who finds out."""
    databases = {"app": {"pool_size": 1, "server_check_delay": "50ms", "server_check_query": "select 1"}}
    forebay = start(configuration(server, variant, databases=databases))
    with forebay.target.wire() as wire, server.target.at(user="postgres").wire() as admin:
        for _ in range(3):
            pid = wire.value("select pg_backend_pid()")
            admin.ask(query(f"select pg_terminate_backend({pid})"))
            time.sleep(0.06)  # the check's own delay, which has no event to wait for
            assert wire.value("select 1") == "1"
