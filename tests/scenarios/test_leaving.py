"""Clients that leave in the middle: what they began is undone, and their server serves the next one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.target import Target
from tests.harness.wire import Wire, bind, copy_data, execute, flush, parse, query, sync, terminate

PID = "select pg_backend_pid()"
INSERT = "insert into scratch values (4711, 'left behind')"
COUNT = "select count(*) from scratch where a = 4711"


def in_a_transaction(wire: Wire) -> None:
    wire.ask(query("begin"))
    wire.ask(query(INSERT))


def in_a_failed_transaction(wire: Wire) -> None:
    wire.ask(query("begin"))
    wire.ask(query(INSERT))
    wire.ask(query("select 1/0"))


def in_a_query(wire: Wire) -> None:
    wire.ask(query("begin"))
    wire.send(query(INSERT + "; select pg_sleep(30)"))
    wire.socket.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        wire.read_until("C")


def in_an_unfinished_pipeline(wire: Wire) -> None:
    wire.send(parse("", INSERT), bind(), execute(), flush())
    wire.read_until("C")


def in_a_pipeline_of_many_syncs(wire: Wire) -> None:
    wire.ask(query("begin"))
    for _ in range(50):
        wire.send(parse("", "select pg_sleep(0.01)"), bind(), execute(), sync())


def in_a_copy_in(wire: Wire) -> None:
    wire.send(query("copy scratch from stdin"), copy_data(b"4711\tleft behind\n"))
    wire.read_until("G")


def in_a_copy_in_by_the_extended_protocol(wire: Wire) -> None:
    wire.send(parse("", "copy scratch from stdin"), bind(), execute(), copy_data(b"4711\tx\n"), flush())
    wire.read_until("G")


def in_a_copy_out(wire: Wire) -> None:
    wire.send(query("copy (select repeat('x', 1000) from generate_series(1, 200000)) to stdout"))
    wire.read_until("d")


def in_a_large_result(wire: Wire) -> None:
    wire.send(query("select repeat('x', 1000) from generate_series(1, 200000)"))
    wire.read_until("D")


def in_half_a_message(wire: Wire) -> None:
    wire.ask(query("begin"))
    wire.ask(query(INSERT))
    wire.send(query("select 'never finished'")[:-5])


def in_half_a_copy_message(wire: Wire) -> None:
    wire.send(query("copy scratch from stdin"))
    wire.read_until("G")
    wire.send(copy_data(b"4711\tleft behind\n" * 10_000)[:-7])


MOMENTS: list[Callable[[Wire], None]] = [
    in_a_transaction,
    in_a_failed_transaction,
    in_a_query,
    in_an_unfinished_pipeline,
    in_a_pipeline_of_many_syncs,
    in_a_copy_in,
    in_a_copy_in_by_the_extended_protocol,
    in_a_copy_out,
    in_a_large_result,
    in_half_a_message,
    in_half_a_copy_message,
]

# A message that was begun can't be taken back: that server is closed.
COSTS_THE_SERVER = {in_half_a_message, in_half_a_copy_message}

# Copying to a client that is gone: closing may be cheaper than draining what is left.
MAY_COST_THE_SERVER = {in_a_copy_out, in_a_large_result}


@pytest.mark.parametrize("how", [Wire.close, Wire.reset], ids=["fin", "rst"])
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
def test_what_a_client_left_is_undone_and_its_server_used_again(
    moment: Callable[[Wire], None], how: Callable[[Wire], None], shared: Forebay
) -> None:
    """Deploys kill clients in the middle of everything; a pool that loses a server each time dries up."""
    with shared.target.wire() as other:
        pid = other.value(PID)
        leaver = shared.target.wire()
        moment(leaver)
        began = time.monotonic()
        how(leaver)
        assert other.value(COUNT) == "0"
        assert time.monotonic() - began < 5
        if moment not in COSTS_THE_SERVER | MAY_COST_THE_SERVER:
            assert other.value(PID) == pid


def test_a_waiter_takes_over_from_a_client_that_left(shared: Forebay) -> None:
    """The queue moves on by itself."""
    leaver = shared.target.wire()
    leaver.ask(query("begin"))
    with shared.target.wire() as waiter:
        waiter.send(query("select 'next'"))
        leaver.close()
        assert waiter.ready()[-1].tag == "Z"


def test_a_waiter_that_leaves_takes_no_server(shared: Forebay) -> None:
    """Its request must not run for nobody."""
    with shared.target.wire() as holder, shared.target.wire() as other:
        holder.ask(query("begin"))
        leaver = shared.target.wire()
        leaver.send(query(INSERT))
        until(lambda: any(r["cl_waiting"] == "1" for r in shared.console("show pools")), within_s=5, what="it waits")
        leaver.close()
        until(lambda: all(r["cl_waiting"] == "0" for r in shared.console("show pools")), within_s=5, what="it left")
        holder.ask(query("commit"))
        assert other.value(COUNT) == "0"


def test_what_was_sent_before_terminate_is_run(shared: Forebay, direct: Target) -> None:
    """PostgreSQL reads messages in order: a statement before Terminate is done, read or not."""
    for target in (direct, shared.target):
        with target.wire() as hasty:
            hasty.send(query("insert into scratch values (1147, 'hasty')"), terminate())
        with direct.wire() as other:
            until(
                lambda: other.value("select count(*) from scratch where a = 1147") == "1",
                within_s=5, what=f"the insert of {target.name} is there",
            )  # fmt: skip
            other.ask(query("delete from scratch where a = 1147"))


def test_a_transaction_before_terminate_is_rolled_back(shared: Forebay) -> None:
    """Terminate commits nothing."""
    with shared.target.wire() as leaver, shared.target.wire() as other:
        in_a_transaction(leaver)
        leaver.send(terminate())
        assert leaver.ends()
        assert other.value(COUNT) == "0"


def test_clients_that_come_and_go_leave_nothing_behind(shared: Forebay) -> None:
    """Descriptors and entries of SHOW CLIENTS."""

    def rounds(count: int) -> None:
        for i in range(count):
            wire = shared.target.wire()
            if i % 3:
                wire.ask(query("select 1"))
            wire.close()

    def clients() -> int:
        return len([row for row in shared.console("show clients") if row["database"] == "app"])

    rounds(20)
    until(lambda: clients() == 0, within_s=5, what="all have left")
    before = shared.files()
    rounds(200)
    until(lambda: clients() == 0, within_s=5, what="all have left")
    until(lambda: shared.files() <= before, within_s=5, what=f"descriptors are back at {before}")


@pytest.mark.variants("uring-2", "epoll-2")
def test_clients_that_leave_at_once_strand_nobody(start: Start, server: Postgres, variant: Variant) -> None:
    """A server on its way to another worker's client that is gone must find the next one who waits."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 1}}))
    for _ in range(15):
        for number in range(20):
            with forebay.target.wire() as hasty:
                hasty.send(query("select 1"), *([terminate()] if number % 2 else []))
        with forebay.target.wire() as other:
            other.socket.settimeout(5)
            assert other.value("select 'served'") == "served"
