"""How soon: rows of the fault matrix whose bound is a time or a number, measured."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.ledger import Clients
from tests.harness.pooler import Forebay, Variant, asked, configuration
from tests.harness.postgres import PASSWORD, Postgres
from tests.harness.target import Target
from tests.harness.wire import Gone, Wire, copy_data, copy_done, message, query, startup

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

# What a machine that others use as well may add to a bound of the matrix.
NOISE_S = 0.7

RUNNING = "select pid from pg_stat_activity where query like 'select 202,%'"


def errors(wire: Wire) -> list[str]:
    """SQLSTATEs up to the next ReadyForQuery."""
    return [frame.fields["C"] for frame in wire.ready() if frame.tag == "E"]


def test_a_killed_server_is_told_at_once_and_to_its_client_alone(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """Row 2: within 50 ms of the end of the back end; the others meet no error."""
    forebay = start(configuration(server, variant))
    with (
        Clients(forebay.target, 4) as clients,
        forebay.target.wire() as busy,
        server.target.at(user="postgres").wire() as admin,
    ):
        for _ in range(3):
            busy.send(query("select 202, pg_sleep(20)"))
            ((pid,),) = until(lambda: admin.rows(RUNNING), within_s=5, what="it runs")
            began = time.monotonic()
            admin.rows(f"select pg_terminate_backend({pid})")
            assert errors(busy) == ["57P01"]
            assert time.monotonic() - began < 0.05 + NOISE_S
        until(lambda: clients.ledger.served > 100, within_s=20, what="the others are served")
    clients.check(server.target.at(dbname="app"))
    assert clients.ledger.codes == {}


def test_service_resumes_as_soon_as_the_server_does(start: Start, mortal: Postgres, variant: Variant) -> None:
    """Row 6, with the defaults: at most a pool of errors, and served 0.3 s after the server takes logins."""
    size = 4
    forebay = start(configuration(mortal, variant, databases={"app": {"pool_size": size}}))
    with Clients(forebay.target, 12) as clients, forebay.target.wire() as idle:
        assert idle.value("select 1") == "1"
        until(lambda: clients.ledger.served > 50, within_s=20, what="load runs")
        mortal.stop(signal.SIGQUIT)
        # Away for two seconds, in which tries are made and fail.
        time.sleep(2)
        starting = threading.Thread(target=mortal.start)
        starting.start()
        until(lambda: takes_logins(mortal), within_s=20, what="it takes logins")
        began = time.monotonic()
        assert idle.value("select 'resumed'") == "resumed"
        assert time.monotonic() - began < 0.3 + NOISE_S
        starting.join()
    clients.check(mortal.target.at(dbname="app"))
    assert sum(clients.ledger.codes.values()) <= size, clients.ledger.codes


def takes_logins(server: Postgres) -> bool:
    with contextlib.suppress(OSError, Gone, AssertionError), server.target.wire():
        return True
    return False


def test_a_smart_shutdown_takes_nobodys_server(start: Start, mortal: Postgres, variant: Variant) -> None:
    """Row 7: what is connected serves on, in turn; nobody is told 57P03."""
    forebay = start(configuration(mortal, variant, databases={"app": {"pool_size": 2}}))
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(forebay.target.wire()) for _ in range(6)]
        assert [wire.value("select 'before'") for wire in wires] == ["before"] * 6
        stopping = threading.Thread(target=mortal.stop, args=(signal.SIGTERM,))
        stopping.start()
        until(lambda: not takes_logins(mortal), within_s=10, what="it takes no more logins")
        for _ in range(5):
            assert [wire.value("select 'during'") for wire in wires] == ["during"] * 6
        forebay.console("RECONNECT")
        stopping.join(20)
        assert not stopping.is_alive()
        wires[0].send(query("select 'after'"))
        mortal.start()
        assert errors(wires[0]) == []


@pytest.mark.parametrize("how", [Wire.close, Wire.reset], ids=["fin", "rst"])
def test_a_client_that_is_cut_off_leaves_its_server_at_once(how: object, shared: Forebay) -> None:
    """Row 10: free within 100 ms, with what it ran cancelled and its transaction rolled back."""
    assert callable(how)
    with shared.target.wire() as other:
        leaver = shared.target.wire()
        leaver.ask(query("begin"))
        leaver.ask(query("insert into scratch values (1010, 'lost')"))
        leaver.send(query("select pg_sleep(30)"))
        until(lambda: shared.servers_active() == 1, within_s=5, what="it runs")
        began = time.monotonic()
        how(leaver)
        assert other.value("select count(*) from scratch where a = 1010") == "0"
        assert time.monotonic() - began < 0.1 + NOISE_S


def test_who_connects_and_says_nothing_keeps_nobody_out(start: Start, server: Postgres, variant: Variant) -> None:
    """Row 12: thousands of silent connections, and some in the middle of a login, beside a limit of thirty clients."""
    limits = {"max_client_conn": 30, "client_login_timeout": "60s"}
    auth = {"type": "scram-sha-256"}
    forebay = start(configuration(server, variant, limits=limits, auth=auth, tcp={"defer_accept": False}))
    good = forebay.target.at(user="scram_user", password=PASSWORD.format("scram_user"))
    half = startup(user="scram_user", database="app")
    calm = slowest(good)
    silent: list[socket.socket] = []
    try:
        for number in range(2500):
            silent.append(socket.create_connection(("127.0.0.1", forebay.port), timeout=10))
            if number % 5 == 0:
                silent[-1].sendall(half if number % 10 else half[:9])
        busy = slowest(good)
        assert busy < calm * 3 + NOISE_S
        assert forebay.rss_kb() < 200_000
    finally:
        for one in silent:
            one.close()


def slowest(target: Target) -> float:
    """The longest that one of some logins takes, in seconds."""
    longest = 0.0
    for _ in range(10):
        began = time.monotonic()
        with target.connect() as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        longest = max(longest, time.monotonic() - began)
    return longest


def test_a_full_disk_is_the_statements_matter(shared: Forebay) -> None:
    """Row 15: 53100 as the server says it; the pool is not taken for sick, nor the server for lost."""
    with shared.target.at(user="postgres").wire() as client:
        pid = client.value("select pg_backend_pid()")
        client.send(query("copy (select repeat('x', 100000)) to '/dev/full'"))
        assert errors(client) == ["53100"]
        assert client.value("select pg_backend_pid()") == pid
    assert [pool["sick"] for pool in shared.console("show pools") if pool["sick"]] == []


def test_the_console_answers_while_everything_is_asked_of_the_pool(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """Row 39: a full pool, a long queue, clients at their limit and garbage: an operator sees it within 200 ms."""
    databases = {"app": {"pool_size": 1}}
    forebay = start(configuration(server, variant, databases=databases, limits={"max_client_conn": 60}))
    stop = threading.Event()

    def garbage() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError, Gone), forebay.target.dial() as wire:
                wire.send(b"\0" * 64)
                wire.rest()

    with contextlib.ExitStack() as stack:
        holder, *others = [stack.enter_context(forebay.target.wire()) for _ in range(59)]
        holder.ask(query("begin"))
        for wire in others:
            wire.send(query("select 1"))
        noisy = [threading.Thread(target=garbage) for _ in range(2)]
        for thread in noisy:
            thread.start()
        stack.callback(lambda: [thread.join() for thread in noisy])
        stack.callback(stop.set)
        console = stack.enter_context(
            forebay.target.at(user="ops", dbname="forebay", password=PASSWORD.format("ops")).wire()
        )
        times = []
        for _ in range(20):
            began = time.monotonic()
            (pool,) = [row for row in asked(console, "show pools") if row["database"] == "app"]
            times.append(time.monotonic() - began)
            assert pool["cl_waiting"] == "58"
        assert sorted(times)[-2] < 0.2 + NOISE_S, times


def test_a_copy_that_is_cut_in_the_middle_leaves_nothing(start: Start, server: Postgres, variant: Variant) -> None:
    """Row 5, in a transaction of several statements: no row of it is there, and the session goes on."""
    forebay = start(configuration(server, variant))
    with forebay.target.wire() as client, server.target.at(user="postgres").wire() as admin:
        client.ask(query("begin"))
        client.ask(query("insert into scratch values (505, 'before')"))
        pid = client.value("select pg_backend_pid()")
        client.send(query("copy scratch from stdin"), copy_data(b"505\tlost\n" * 100))
        client.read_until("G")
        admin.rows(f"select pg_terminate_backend({pid})")
        client.send(copy_data(b"505\tlost\n"), copy_done())
        assert errors(client)[-1] == "57P01"
        assert client.status == "I"
        assert client.value("select count(*) from scratch where a = 505") == "0"


def test_messages_that_a_driver_repeats_do_not_reach_another(shared: Forebay) -> None:
    """Row 33: what a client sends behind its Terminate is nobody's."""
    with shared.target.wire() as client, shared.target.wire() as other:
        client.send(message("X"), query("insert into scratch values (3333, 'late')"))
        assert client.ends()
        assert other.value("select count(*) from scratch where a = 3333") == "0"
