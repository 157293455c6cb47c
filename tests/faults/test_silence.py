"""Networks that swallow everything, and a process that stands still: nobody says goodbye. Rows 8, 9, 11, 13, 29.

The first ones need root, for a network namespace of their own.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tests.conftest import Start
from tests.harness import island
from tests.harness.deadline import until
from tests.harness.island import Island
from tests.harness.pooler import Variant, configuration
from tests.harness.postgres import PASSWORD, Postgres
from tests.harness.target import Target
from tests.harness.toxi import Toxi
from tests.harness.wire import query, row

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

DEAD_AFTER_S = 2
# What a look each second and a busy machine add.
LATE_S = 3.0

needs_a_namespace = pytest.mark.skipif(not island.is_possible(), reason="needs root and iproute2")


@pytest.fixture
def apart() -> Iterator[Island]:
    """A network of its own."""
    with island.island() as made:
        yield made


@needs_a_namespace
def test_a_server_that_the_network_swallows_is_given_up(
    start: Start, server: Postgres, variant: Variant, apart: Island
) -> None:
    """Rows 8 and 9: with a query under way, and with one sent into the void. A failover would wait for it."""
    with Toxi(server.port, listener=apart.listener()) as lost, Toxi(server.port) as alive:
        databases = {
            "app": {"endpoints": [f"{apart.inside}:{lost.port}"], "pool_size": 3},
            "beside": {"endpoints": [f"127.0.0.1:{alive.port}"]},
        }
        forebay = start(
            configuration(server, variant, databases=databases, tcp={"server_dead_after": f"{DEAD_AFTER_S}s"})
        )
        with (
            forebay.target.wire() as busy,
            forebay.target.wire() as in_block,
            forebay.target.at(dbname="beside").wire() as other,
        ):
            in_block.ask(query("begin"))
            busy.send(query("select pg_sleep(60)"))
            until(lambda: forebay.servers_active() == 2, within_s=5, what="both have a server")
            apart.cut()
            began = time.monotonic()
            in_block.send(query("select 1"))
            for wire in (busy, in_block):
                assert next(frame.fields["C"] for frame in wire.ready() if frame.tag == "E") in ("57P01", "08007")
                assert time.monotonic() - began < DEAD_AFTER_S + LATE_S
                assert wire.status == "I"
            assert other.value("select 'beside'") == "beside"
            left = [one["state"] for one in forebay.console("show servers") if one["database"] == "app"]
            assert set(left) <= {"new"}


@needs_a_namespace
def test_an_idle_server_that_the_network_swallows_is_gone_before_it_is_needed(
    start: Start, server: Postgres, variant: Variant, apart: Island
) -> None:
    """Row 8: nobody has asked it anything, so nobody is told; the next request would have been sent into the void."""
    with Toxi(server.port, listener=apart.listener()) as lost:
        databases = {"app": {"endpoints": [f"{apart.inside}:{lost.port}"], "server_backoff_max": "500ms"}}
        forebay = start(
            configuration(server, variant, databases=databases, tcp={"server_dead_after": f"{DEAD_AFTER_S}s"})
        )
        with forebay.target.wire() as idle:
            assert idle.value("select 1") == "1"

            def servers() -> set[str | None]:
                return {one["state"] for one in forebay.console("show servers") if one["database"] == "app"}

            until(lambda: servers() == {"idle"}, within_s=10, what="it is idle, and nothing else is there")
            apart.cut()
            began = time.monotonic()
            until(lambda: not servers() & {"idle", "used"}, within_s=30, what="it is given up")
            assert time.monotonic() - began < DEAD_AFTER_S + LATE_S
            apart.mend()
            assert idle.value("select 2") == "2", "and its client's session lives on"


@needs_a_namespace
def test_a_client_that_the_network_swallows_gives_its_server_back(
    start: Start, server: Postgres, variant: Variant, apart: Island
) -> None:
    """Row 11: one that is silent in a transaction, and one to which an answer is on its way."""
    keepalive = {"keepalive_idle": "1s", "keepalive_interval": "1s", "keepalive_count": 1}
    listen = {"address": ["127.0.0.1", apart.shore]}
    # Whoever reaches an address that is not this host's needs a proof.
    forebay = start(configuration(server, variant, tcp=keepalive, listen=listen, auth={"type": "password"}))
    port = next(int(one.rpartition(":")[2]) for one in forebay.started["listen"].split(",") if apart.shore in one)
    far = Target("far", apart.shore, port, password=PASSWORD.format("app"))
    silent, busy = apart.within(far.wire), apart.within(far.wire)
    with silent, busy, far.at(host="127.0.0.1").wire() as near:
        silent.ask(query("begin"))
        silent.ask(query("insert into scratch values (811, 'lost')"))
        busy.ask(query("begin"))
        busy.send(query("select pg_sleep(0.5), repeat('x', 1000000)"))
        until(lambda: forebay.servers_active() == 2, within_s=5, what="both have a server")
        apart.cut()
        began = time.monotonic()
        until(lambda: forebay.servers_active() == 0, within_s=15, what="both servers are free")
        assert time.monotonic() - began < 2 + LATE_S
        assert near.value("select count(*) from scratch where a = 811") == "0"


def test_a_slow_reader_is_ended_only_when_it_takes_nothing_at_all(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """Row 13: its server is free for others; who reads on, however slowly, is left alone."""
    forebay = start(configuration(server, variant, limits={"client_write_timeout": "2s"}))
    # More than the system's buffers take.
    large = query("select repeat('x', 1000000) from generate_series(1, 60)")
    with forebay.target.dial() as slow, forebay.target.dial() as deaf:
        for wire in (slow, deaf):
            wire.log_in(user="app", database="app")
            wire.send(large)
            wire.read_until("T")
        until(lambda: forebay.servers_active() == 2, within_s=5, what="both have a server")
        began = time.monotonic()
        while forebay.servers_active() == 2:
            assert time.monotonic() - began < 2 + 2 + LATE_S
            slow.take(10_000)
            time.sleep(0.05)  # its pace: in the deaf one's time it takes less than what wakes a writer
        assert 'forebay_refusals_total{code="FB706"} 1\n' in forebay.metrics()
        assert forebay.servers_active() == 1
        tail = b""
        while not tail.endswith(b"Z\0\0\0\x05I"):
            more = slow.socket.recv(1 << 20)
            assert more, "its answer was cut off"
            tail = (tail + more)[-6:]


def test_a_process_that_stood_still_blames_nobody(start: Start, server: Postgres, variant: Variant) -> None:
    """Row 29: stopped for longer than a query of its own may take, it hears first what has come meanwhile."""
    with Toxi(server.port) as toxi:
        databases = {"app": {"pool_size": 1, "server_check_delay": "10ms", "server_check_query": "select 'check'"}}
        forebay = start(configuration(toxi.port, variant, databases=databases))
        with forebay.target.wire() as client, forebay.target.wire() as other:
            pid = client.value("select pg_backend_pid()")
            time.sleep(0.02)  # the check's own delay, which has no event to wait for
            toxi.holds_replies.set()
            client.send(query("select pg_backend_pid()"))
            until(
                lambda: not forebay.console("show servers")[0]["link"], within_s=5, what="the server is being checked"
            )
            forebay.send_signal(signal.SIGSTOP)
            toxi.holds_replies.clear()
            resumes = threading.Timer(6, os.kill, (forebay.pid, signal.SIGCONT))
            resumes.start()
            assert [row(frame)[0] for frame in client.ready() if frame.tag == "D"] == [pid]
            assert other.value("select pg_backend_pid()") == pid
            resumes.join()
        assert forebay.events("server_lost") == []
