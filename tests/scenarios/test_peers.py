"""Poolers behind one address: a cancel request that reaches the wrong one is passed on to the right one."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres, free_port
from tests.harness.target import Target
from tests.harness.wire import PROTOCOL_3_2, Frame, Wire, cancel, query

VERSIONS = pytest.mark.parametrize("version", [3 << 16, PROTOCOL_3_2], ids=["3.0", "3.2"])
TWO_WORKERS = pytest.mark.variants("uring-2", "epoll-2")
# A short key of a client of the peer 2, with two hops left.
KEY_OF_2 = (0x11_02_00_22, b"abc\x42")


def codes(frames: list[Frame]) -> list[str]:
    """SQLSTATEs of errors."""
    return [frame.fields["C"] for frame in frames if frame.tag == "E"]


def log_in(target: Target, version: int) -> Wire:
    """A client of the database `app`."""
    wire = target.dial()
    wire.log_in(user="app", database="app", version=version)
    return wire


def sleep(wire: Wire, direct: Target, seconds: int = 30) -> None:
    """Has a client's server sleep; returned once it does."""
    wire.send(query(f"select pg_sleep({seconds})"))
    with direct.wire() as watcher:
        sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and usename = 'app'"
        until(lambda: watcher.value(sleeping) == "1", within_s=10, what="it sleeps")


def send(target: Target, key: tuple[int, bytes]) -> None:
    """A CancelRequest, which is closed without a word."""
    with target.dial() as wire:
        wire.send(cancel(*key))
        assert wire.ends()


@dataclass
class Recorder:
    """A pooler that takes cancel requests down, and keeps each open until it is told to let go."""

    listener: socket.socket
    came: list[bytes] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.listener.getsockname()[1])

    def serve(self) -> None:
        """Takes connections until it is closed."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._take, args=(connection,), daemon=True).start()

    def _take(self, connection: socket.socket) -> None:
        with connection:
            self.came.append(connection.recv(1024))
            self.let_go.wait(20)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Recorder(listener)
        thread = threading.Thread(target=made.serve, daemon=True)
        thread.start()
        yield made
        made.let_go.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def peered(server: Postgres, variant: Variant, own: int, other: int, port: int, **more: Any) -> dict[str, Any]:
    """A configuration that knows one peer."""
    listen = {"peer_id": own, **more.pop("listen", {})}
    peer = {"endpoint": f"127.0.0.1:{port}", **more.pop("peer", {})}
    sections = configuration(server, variant, listen=listen, **more)
    return {**sections, f"peers.{other}": peer}


@TWO_WORKERS
@VERSIONS
def test_a_cancel_that_reaches_a_sibling_is_passed_on(
    start: Start, server: Postgres, direct: Target, variant: Variant, version: int
) -> None:
    """Behind a load balancer, or so_reuseport, half of them do."""
    port = free_port()
    second = start(peered(server, variant, 2, 1, free_port(), listen={"port": port}))
    first = start(peered(server, variant, 1, 2, port))
    with log_in(second.target, version) as client, log_in(second.target, version) as other:
        assert client.key[0].to_bytes(4, "big")[1:3] == b"\x02\x00"
        assert client.key[0] != other.key[0]
        sleep(client, direct)
        send(first.target, (client.key[0], bytes(byte ^ 0xF0 for byte in client.key[1])))
        send(first.target, other.key)
        sleep_again = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and usename = 'app'"
        with direct.wire() as watcher:
            assert watcher.value(sleep_again) == "1", "neither a wrong key nor another's stops it"
        send(first.target, client.key)
        assert codes(client.ready()) == ["57014"]
        assert client.value("select 1") == "1"
        sleep(client, direct)
        send(second.target, client.key)
        assert codes(client.ready()) == ["57014"], "a key with a peer in it serves where it came from"
    assert "forebay_cancels_passed_total 3" in first.metrics()


@TWO_WORKERS
def test_what_is_passed_on_is_what_pgbouncer_sends(
    start: Start, server: Postgres, variant: Variant, recorder: Recorder
) -> None:
    """The key with a hop less; who sent it is closed once the peer has closed; SHOW tells of it meanwhile."""
    peer = {"pool_size": 1}
    first = start(peered(server, variant, 1, 2, recorder.port, peer=peer))
    assert first.console("show peers") == [
        {"peer_id": "2", "host": "127.0.0.1", "port": str(recorder.port), "pool_size": "1"}
    ]
    idle = {"peer_id": "2", "cl_active_cancel_req": "0", "cl_waiting_cancel_req": "0", "sv_active_cancel": "0"}
    assert first.console("show peer_pools") == [{**idle, "sv_login": "0"}]
    with first.target.dial() as one, first.target.dial() as two:
        one.send(cancel(*KEY_OF_2))
        until(lambda: recorder.came, within_s=10, what="it is passed on")
        assert recorder.came == [cancel(KEY_OF_2[0], b"abc\x41")]
        two.send(cancel(*KEY_OF_2))
        busy = {**idle, "cl_active_cancel_req": "1", "cl_waiting_cancel_req": "1", "sv_active_cancel": "1"}
        until(
            lambda: first.console("show peer_pools") == [{**busy, "sv_login": "0"}],
            within_s=10,
            what="one is on its way, and one waits",
        )
        shown = [row for row in first.console("show clients") if "cancel" in str(row["state"])]
        assert sorted(str(row["state"]) for row in shown) == ["active_cancel_req", "waiting_cancel_req"]
        assert {row["database"] for row in shown} == {"(nodb)"}
        recorder.let_go.set()
        assert one.ends()
        assert two.ends()
    assert len(recorder.came) == 2
    items = {row["list"]: row["items"] for row in first.console("show lists")}
    assert (items["peers"], items["peer_pools"]) == ("1", "1")


@TWO_WORKERS
def test_a_cancel_that_goes_nowhere_harms_nobody(
    start: Start, server: Postgres, variant: Variant, recorder: Recorder
) -> None:
    """Hops used up, a peer that is not known, one that can't be reached, one that is full: each is closed, and said."""
    peer = {"pool_size": 1}
    sections = peered(server, variant, 1, 2, recorder.port, peer=peer, limits={"cancel_wait_timeout": "300ms"})
    sections["peers.3"] = {"endpoint": f"127.0.0.1:{free_port()}"}
    first = start(sections)
    began = time.monotonic()
    send(first.target, (KEY_OF_2[0], b"abc\x40"))
    send(first.target, (0x11_03_00_22, b"abc\x43"))
    send(first.target, (0x11_09_00_22, b"abc\x43"))
    send(first.target, (0x11_01_00_22, b"abc\x43"))
    with first.target.dial() as holder:
        holder.send(cancel(*KEY_OF_2))
        until(lambda: recorder.came, within_s=10, what="it is passed on")
        send(first.target, KEY_OF_2)
    until(lambda: len(first.events("cancel_not_passed")) == 3, within_s=10, what="all three are told")
    assert time.monotonic() - began < 9, "the default is 10 s"
    told = [(line["peer"], line["reason"].partition(":")[0]) for line in first.events("cancel_not_passed")]
    assert [one for one in told if one[0] == 2] == [(2, "its TTL was exhausted"), (2, "cancel_wait_timeout")]
    assert [peer for peer, _ in told if peer != 2] == [3]
    assert len(recorder.came) == 1


@TWO_WORKERS
def test_peers_come_and_go_with_a_reload(
    start: Start, server: Postgres, direct: Target, variant: Variant, recorder: Recorder
) -> None:
    """Keys that were given out before go on working."""
    sections = configuration(server, variant)
    first = start(sections)
    with first.target.wire() as early:
        first.reload(peered(server, variant, 1, 2, recorder.port))
        with first.target.wire() as late:
            for client in (early, late):
                sleep(client, direct)
                send(first.target, client.key)
                assert codes(client.ready()) == ["57014"]
        recorder.let_go.set()
        send(first.target, KEY_OF_2)
        assert recorder.came
        first.reload(sections)
        assert first.console("show peers") == []
        send(first.target, KEY_OF_2)
        assert len(recorder.came) == 1


@TWO_WORKERS
def test_a_cancel_on_its_way_to_a_server_is_shown(start: Start, server: Postgres, variant: Variant) -> None:
    """From the request's arrival until the server has closed the connection that it was sent over."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        forebay = start(configuration(server, variant, databases=relayed(listener)))
        relay = Relay(listener, server.port)
        try:
            with forebay.target.wire() as client, forebay.target.dial() as canceller:
                client.send(query("select pg_sleep(3)"))
                until(lambda: pool(forebay)["sv_active"] == "1", within_s=10, what="it runs")
                relay.is_holding = True
                canceller.send(cancel(*client.key))
                until(lambda: pool(forebay)["sv_active_cancel"] == "1", within_s=10, what="it is sent")
                shown = pool(forebay)
                assert (shown["cl_active_cancel_req"], shown["cl_waiting_cancel_req"]) == ("1", "0")
                states = [(row["database"], row["state"]) for row in forebay.console("show clients")]
                assert ("app", "active_cancel_req") in states
                relay.is_holding = False
                assert codes(client.ready()) == ["57014"]
                assert canceller.ends()
                done = pool(forebay)
                assert [done[name] for name in ("cl_active_cancel_req", "sv_active_cancel", "sv_being_canceled")] == [
                    "0", "0", "0",
                ]  # fmt: skip
        finally:
            relay.close()


def relayed(listener: socket.socket) -> dict[str, Any]:
    """A database behind a relay."""
    return {"app": {"endpoints": [f"127.0.0.1:{listener.getsockname()[1]}"], "pool_size": 1}}


def pool(forebay: Forebay) -> dict[str, str | None]:
    """The row of the pool of `app`."""
    return next((row for row in forebay.console("show pools") if row["database"] == "app"), {"sv_active": ""})


class Relay:
    """Passes connections to a server; while it is holding, it opens those that come later only when it is not."""

    def __init__(self, listener: socket.socket, port: int) -> None:
        self.is_holding = False
        self._listener = listener
        self._port = port
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        until(lambda: not self.is_holding, within_s=20, what="it is let through")
        with socket.create_connection(("127.0.0.1", self._port)) as upstream, client:
            back = threading.Thread(target=self._copy, args=(upstream, client), daemon=True)
            back.start()
            self._copy(client, upstream)
            back.join(20)

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Takes no more."""
        self.is_holding = False
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
