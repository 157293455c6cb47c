"""Databases with several hosts: servers are spread over them, and one that is down holds nobody up."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres, free_port
from tests.harness.toxi import Toxi
from tests.harness.wire import Wire, message, query, row, startup

# Connections that are none of the pool's servers, or not yet.
APART = ("login", "reading", "listening")

pytestmark = pytest.mark.variants("uring-2", "epoll-1")


def hosts(server: Postgres, variant: Variant, *ports: int, **settings: Any) -> dict[str, Any]:
    """A configuration whose database is behind these ports of this host."""
    database = {"endpoints": [f"127.0.0.1:{port}" for port in ports], "server_backoff_max": "500ms", **settings}
    return configuration(server, variant, databases={"app": database})


def used(forebay: Forebay) -> Counter[int]:
    """How many servers are at which port."""
    return Counter(int(one["port"] or 0) for one in forebay.console("show servers") if one["state"] not in APART)


def at(forebay: Forebay, port: int) -> set[str | None]:
    """Back ends of the pool's servers at a port."""
    servers = [one for one in forebay.console("show servers") if one["state"] not in APART]
    return {one["remote_pid"] for one in servers if one["port"] == str(port)}


@contextlib.contextmanager
def held(forebay: Forebay, count: int) -> Iterator[list[Wire]]:
    """Clients in transactions, each with a server."""
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(forebay.target.wire()) for _ in range(count)]
        for wire in wires:
            wire.ask(query("begin"))
        yield wires


@contextlib.contextmanager
def refusing(sqlstate: str) -> Iterator[tuple[int, list[float]]]:
    """A server that lets nobody in; its port, and when it was asked."""
    asked: list[float] = []
    fields = b"".join(kind + text.encode() + b"\0" for kind, text in ((b"S", "FATAL"), (b"C", sqlstate), (b"M", "no")))
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        if connection.recv(4096):
                            asked.append(time.monotonic())
                            connection.sendall(message("E", fields + b"\0"))

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield listener.getsockname()[1], asked
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@contextlib.contextmanager
def black_hole(address: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A port that does not answer a connect: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        # Of a connection that has ended the port is kept for a minute.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.parametrize("balance", ["round-robin", "disable"])
def test_servers_are_spread_over_hosts_or_stay_at_one(
    balance: str, start: Start, server: Postgres, variant: Variant
) -> None:
    """And the console tells how, and where each of them is."""
    with Toxi(server.port) as a, Toxi(server.port) as b:
        forebay = start(hosts(server, variant, a.port, b.port, pool_size=4, load_balance_hosts=balance))
        with held(forebay, 4):
            assert used(forebay) == ({a.port: 2, b.port: 2} if balance == "round-robin" else {a.port: 4})
        (pool,) = [one for one in forebay.console("show pools") if one["database"] == "app"]
        (database,) = [one for one in forebay.console("show databases") if one["name"] == "app"]
        assert (pool["load_balance_hosts"], database["load_balance_hosts"]) == (balance, balance)
        assert (database["host"], database["port"]) == ("127.0.0.1,127.0.0.1", str(a.port))


@pytest.mark.parametrize("how", ["refuses", "silent", "black hole", "lets nobody in", "no such database"])
def test_a_host_that_is_down_holds_nobody_up(how: str, start: Start, server: Postgres, variant: Variant) -> None:
    """PgBouncer's pool waits for server_login_retry whenever it comes to the host that is down."""
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(Toxi(server.port))
        match how:
            case "refuses":
                port, patience_s = free_port(), 0.5
            case "silent":
                port, patience_s = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1], 3.5
            case "black hole":
                port, patience_s = stack.enter_context(black_hole()), 2.5
            case "lets nobody in":
                port, patience_s = stack.enter_context(refusing("57P03"))[0], 0.5
            case _:
                port, patience_s = stack.enter_context(refusing("3D000"))[0], 0.5
        forebay = start(hosts(server, variant, port, other.port, pool_size=6))
        began = time.monotonic()
        with forebay.target.wire() as client:
            assert client.value("select 'served'") == "served"
        assert time.monotonic() - began < patience_s + 1
        # It is known by now, whichever worker asks.
        began = time.monotonic()
        with held(forebay, 6):
            assert used(forebay) == {other.port: 6}
        assert time.monotonic() - began < 2
        (pool,) = [one for one in forebay.console("show pools") if one["database"] == "app"]
        assert not pool["sick"], "one of two is well"


def test_a_host_that_comes_back_is_used_again(start: Start, server: Postgres, variant: Variant) -> None:
    """It is found out beside the pool, without a client that waits for it."""
    with Toxi(server.port) as other:
        port = free_port()
        forebay = start(hosts(server, variant, port, other.port, pool_size=6))
        with held(forebay, 2):
            assert port not in used(forebay)
            until(lambda: forebay.events("server_open_failed"), within_s=5, what="the first is known to be down")
            with Toxi(server.port, port):
                until(lambda: forebay.events("endpoint_well"), within_s=10, what="it is found to be well")
                with held(forebay, 4):
                    assert used(forebay)[port] >= 1


def test_a_server_that_is_full_is_asked_twice_a_second(start: Start, server: Postgres, variant: Variant) -> None:
    """Row 16: over all workers, however many clients wait."""
    with refusing("53300") as (port, asked), contextlib.ExitStack() as stack:
        forebay = start(hosts(server, variant, port, pool_size=20, query_wait_timeout="3500ms"))
        for _ in range(30):
            stack.enter_context(forebay.target.dial()).send(startup(user="app", database="app"))
        until(lambda: bool(asked), within_s=5, what="it is asked")
        until(lambda: time.monotonic() > asked[0] + 3.2, within_s=5, what="three seconds have passed")
        later = [at for at in asked if asked[0] + 0.3 < at < asked[0] + 3.2]
        assert 2 <= len(later) <= 6, [at - asked[0] for at in asked]
        assert not forebay.events("server_open_failed")


def test_replication_goes_to_a_host_that_answers(start: Start, server: Postgres, variant: Variant) -> None:
    """The client hears nothing of the one that is down."""
    forebay = start(hosts(server, variant, free_port(), server.port))
    for _ in range(3):
        with forebay.target.at(user="postgres").wire(replication="database") as client:
            (found,) = [row(frame) for frame in client.ask(query("IDENTIFY_SYSTEM")) if frame.tag == "D"]
            assert found[3] == "app"


def test_a_reload_closes_servers_of_the_host_that_is_gone_alone(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """A pool of a hundred servers need not log in anew because a host was added or taken away."""
    with Toxi(server.port) as a, Toxi(server.port) as b, Toxi(server.port) as c:
        forebay = start(hosts(server, variant, a.port, b.port, pool_size=4))
        with held(forebay, 4) as wires:
            pids = [wire.value("select pg_backend_pid()") for wire in wires]
            assert used(forebay) == {a.port: 2, b.port: 2}
            kept = at(forebay, b.port)
            assert forebay.reload(hosts(server, variant, b.port, c.port, pool_size=4))["event"] == "reload"
            assert [wire.value("select pg_backend_pid()") for wire in wires] == pids, "transactions go on"
        until(lambda: a.port not in used(forebay), within_s=5, what="the servers that were removed are closed")
        with held(forebay, 4):
            assert used(forebay)[c.port] >= 1
            assert kept <= at(forebay, b.port)
