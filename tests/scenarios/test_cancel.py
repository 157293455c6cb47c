"""A cancel reaches the request it was sent for, or nothing."""

from __future__ import annotations

import ssl
import threading
import time

import pytest

from tests.conftest import Start
from tests.harness.certificates import Pair
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.target import Target
from tests.harness.wire import PROTOCOL_3_2, Frame, bind, cancel, describe, execute, parse, query, sync

ROUNDS = 200
SLEEP = query("select pg_sleep(30)")


def send_cancel(target: Target, key: tuple[int, bytes]) -> None:
    """Sends a CancelRequest and waits for the close that ends it, as libpq does."""
    with target.dial() as wire:
        wire.send(cancel(*key))
        assert wire.ends()


def codes(frames: list[Frame]) -> list[str]:
    """SQLSTATEs of errors."""
    return [frame.fields["C"] for frame in frames if frame.tag == "E"]


def wait_until_asleep(direct: Target, count: int = 1) -> None:
    """Returns once so many servers sleep."""
    sql = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and usename = 'app'"
    with direct.wire() as watcher:
        until(lambda: int(watcher.value(sql) or "") >= count, within_s=10, what="the query runs")


def wait_until_queued(forebay: Forebay, count: int) -> None:
    """Returns once so many clients wait for a server."""

    def waiting() -> bool:
        return sum(int(row["cl_waiting"] or 0) for row in forebay.console("show pools")) >= count

    until(waiting, within_s=10, what="the client waits")


@pytest.mark.parametrize("version", [3 << 16, PROTOCOL_3_2], ids=["3.0", "3.2"])
def test_a_running_query_is_cancelled(version: int, shared: Forebay, direct: Target) -> None:
    """57014 from the server, and the session goes on."""
    with shared.target.dial() as wire:
        wire.log_in(user="app", database="app", version=version)
        wire.send(SLEEP)
        wait_until_asleep(direct)
        send_cancel(shared.target, wire.key)
        assert codes(wire.ready()) == ["57014"]
        assert wire.value("select 1") == "1"


def test_a_query_in_a_transaction_is_cancelled(shared: Forebay, direct: Target) -> None:
    """The transaction fails, and stays the client's."""
    with shared.target.wire() as wire:
        wire.ask(query("begin"))
        wire.send(SLEEP)
        wait_until_asleep(direct)
        send_cancel(shared.target, wire.key)
        assert codes(wire.ready()) == ["57014"]
        assert wire.status == "E"
        wire.ask(query("rollback"))
        assert wire.value("select 1") == "1"


def test_a_waiting_request_is_cancelled(shared: Forebay) -> None:
    """It leaves the queue without having touched a server."""
    with shared.target.wire() as holder, shared.target.wire() as waiter:
        holder.ask(query("begin"))
        waiter.send(query("insert into scratch values (666, 'never')"))
        wait_until_queued(shared, 1)
        send_cancel(shared.target, waiter.key)
        frames = waiter.ready()
        assert codes(frames) == ["57014"]
        assert waiter.status == "I"
        holder.ask(query("rollback"))
        assert waiter.value("select count(*) from scratch where a = 666") == "0"


def test_a_query_that_is_cancelled_while_it_waits_drops_the_unnamed_statement(shared: Forebay) -> None:
    """As PostgreSQL does before it looks at a Query: a driver that is told otherwise would run an older statement."""
    with shared.target.wire() as holder, shared.target.wire() as waiter:
        waiter.ask(parse("", "select 'older'"), sync())
        holder.ask(query("begin"))
        waiter.send(query("select 1"))
        wait_until_queued(shared, 1)
        send_cancel(shared.target, waiter.key)
        assert codes(waiter.ready()) == ["57014"]
        holder.ask(query("rollback"))
        assert codes(waiter.ask(describe("S"), sync())) == ["26000"]


def test_a_waiting_pipeline_is_cancelled_whole(shared: Forebay) -> None:
    """One ReadyForQuery for each Sync that was sent."""
    with shared.target.wire() as holder, shared.target.wire() as waiter:
        holder.ask(query("begin"))
        step = [parse("", "select 1"), bind(), execute(), sync()]
        waiter.send(*step, *step, *step)
        wait_until_queued(shared, 1)
        send_cancel(shared.target, waiter.key)
        frames = waiter.ready(3)
        assert set(codes(frames)) == {"57014"}
        holder.ask(query("rollback"))
        assert waiter.value("select 'alive'") == "alive"


def test_a_cancel_for_an_idle_client_does_nothing(shared: Forebay) -> None:
    """The last server of that client serves somebody else by then."""
    with shared.target.wire() as idle, shared.target.wire() as busy:
        assert idle.value("select 1") == "1"
        busy.send(query("select pg_sleep(0.3)"))
        for _ in range(5):
            send_cancel(shared.target, idle.key)
        assert codes(busy.ready()) == []
        assert idle.value("select 2") == "2"


def test_a_forged_key_cancels_nothing(shared: Forebay, direct: Target) -> None:
    """Process ids can be guessed, keys can't."""
    with shared.target.wire() as wire:
        pid, key = wire.key
        wire.send(query("select pg_sleep(0.5)"))
        wait_until_asleep(direct)
        flipped = bytes([key[0] ^ 1]) + key[1:]
        keys = [(pid, flipped), (pid, b""), (pid, key + b"\0" * 28), (pid, b"\0" * 32), (pid + 1, key), (0, key)]
        for forged in keys:
            with shared.target.dial() as attacker:
                attacker.send(cancel(*forged))
                assert codes(attacker.rest()) in ([], ["08P01"])
        assert codes(wire.ready()) == []


def test_a_late_cancel_never_hits_the_next_client(shared: Forebay) -> None:
    """The request that it was meant for has ended; the server is with another client."""
    with shared.target.wire() as impatient, shared.target.wire() as next_client:
        for turn in range(ROUNDS):
            impatient.send(query("select 'short'"))
            canceller = threading.Thread(target=send_cancel, args=(shared.target, impatient.key))
            canceller.start()
            next_client.send(query(f"select '{turn}', pg_sleep(0.002)"))
            frames = next_client.ready()
            assert codes(frames) == [], f"round {turn}"
            assert set(codes(impatient.ready())) <= {"57014"}
            canceller.join()


def test_cancels_of_many_clients_hit_their_own(shared: Forebay, direct: Target) -> None:
    """Four servers sleep; every second client gives up."""
    target = shared.target.at(dbname="wide")
    wires = [target.wire() for _ in range(4)]
    try:
        for wire in wires:
            wire.send(query("select pg_sleep(1.5), 'slept'"))
        wait_until_asleep(direct, 4)
        for wire in wires[::2]:
            send_cancel(target, wire.key)
        assert [codes(wire.ready()) for wire in wires] == [["57014"], [], ["57014"], []]
    finally:
        for wire in wires:
            wire.close()


def test_a_storm_of_forged_cancels_leaves_service_alone(start: Start, server: Postgres, variant: Variant) -> None:
    """Row 34 of the fault matrix: a flood of cancels costs nobody a request.

    A forebay of its own: none of this address is listened to for a while.
    """
    forebay = start(configuration(server, variant))
    stop = threading.Event()

    def storm() -> None:
        sent = 0
        while not stop.is_set():
            with forebay.target.dial() as wire:
                wire.send(cancel(sent % 1000, b"\0\0\0\0"))
            sent += 1

    stormer = threading.Thread(target=storm)
    stormer.start()
    try:
        with forebay.target.wire() as wire:
            began = time.monotonic()
            for i in range(300):
                assert wire.value(f"select {i}") == str(i)
            assert time.monotonic() - began < 10
    finally:
        stop.set()
        stormer.join()


def test_a_cancel_over_tls_is_a_cancel(
    start: Start, server: Postgres, variant: Variant, direct: Target, tls: tuple[Pair, ssl.SSLContext]
) -> None:
    """libpq 17 encrypts its CancelRequest."""
    pair, context = tls
    forebay = start(configuration(server, variant, listen={"tls.certificate": pair.certificate, "tls.key": pair.key}))
    with forebay.target.wire() as wire, forebay.target.dial() as canceller:
        wire.send(SLEEP)
        wait_until_asleep(direct)
        canceller.send(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")
        assert canceller.take(1) == b"S"
        canceller.start_tls(context)
        canceller.send(cancel(*wire.key))
        assert codes(wire.ready()) == ["57014"]


def test_a_drivers_cancel_works(shared: Forebay, direct: Target) -> None:
    """psycopg's own way."""
    with shared.target.connect(autocommit=True) as connection:
        raised: list[BaseException] = []

        def sleep() -> None:
            try:
                connection.execute("select pg_sleep(30)")
            except Exception as error:
                raised.append(error)

        sleeper = threading.Thread(target=sleep)
        sleeper.start()
        wait_until_asleep(direct)
        connection.cancel_safe(timeout=5)
        sleeper.join(10)
        assert [type(error).__name__ for error in raised] == ["QueryCanceled"]
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_connection_made_anew_has_another_process_id(start: Start, server: Postgres, variant: Variant) -> None:
    """Pools of drivers tell by it whether they got a new connection; and an old cancel must find nobody."""
    forebay = start(configuration(server, variant, databases={"app": {}}))
    before: set[int] = set()
    for _ in range(7):
        with forebay.target.wire() as wire:
            pid, _ = wire.key
            assert pid not in before
            assert 0 < pid < 1 << 31
            before.add(pid)
