"""LISTEN and NOTIFY through a pool: clients hear what they would hear directly, through one connection for all."""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.program import answers, programs, said
from tests.harness.target import Target
from tests.harness.wire import Wire, bind, close, describe, execute, function_call, parse, query, sync

QUIET_S = 0.05


PROGRAMS = programs(Path(__file__).parent / "sessions" / "listening.txt")


@pytest.mark.parametrize("name", PROGRAMS)
def test_listening_is_as_on_a_connection_of_ones_own(name: str, shared: Forebay, direct: Target) -> None:
    """An application that listens must not notice that its server is others' too: the pool has one."""
    pooled = shared.target.at(dbname="wide") if name.endswith("on two servers") else shared.target
    assert answers(pooled, PROGRAMS[name], admin=direct) == answers(direct, PROGRAMS[name], admin=direct)


def test_clients_that_listen_hold_no_server(shared: Forebay, direct: Target) -> None:
    """The point of it: a pool of one server serves any number of them, through one connection more."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(shared.target.wire()) for _ in range(20)]
        for i, client in enumerate(clients):
            client.ask(query(f"listen c{i % 3}"))
        until(lambda: shared.servers_active() == 0, within_s=5, what="no server is held")
        found = [row for row in shared.console("show servers") if row["state"] == "listening"]
        assert [row["channels"] for row in found if row["database"] == "app"] == ["3"]
        with direct.wire() as speaker:
            for i in range(3):
                speaker.ask(query(f"notify c{i}, 'to {i}'"))
        assert [said(client.read())[1:] for client in clients] == [(f"c{i % 3}", f"to {i % 3}") for i in range(20)]
        rows = [row for row in shared.console("show clients") if row["channels"] == "1"]
        assert len(rows) == 20
        assert not any(row["pin"] for row in rows)


def test_in_session_mode_a_sender_is_named_by_the_number_it_was_told(shared: Forebay) -> None:
    """Applications skip what they sent themselves by it; whichever workers the two are on."""
    target = shared.target.at(dbname="session")
    with contextlib.ExitStack() as stack:
        hearer, *speakers = [stack.enter_context(target.wire()) for _ in range(4)]
        hearer.ask(query("listen news"))
        for speaker in speakers:
            speaker.ask(query("notify news"))
            assert said(hearer.read())[0] == speaker.key[0]


def test_who_called_a_function_that_notifies_is_the_sender(shared: Forebay, direct: Target) -> None:
    """What a function does is not read: another client's NOTIFY before, through the same server, names nobody now."""
    with contextlib.ExitStack() as stack:
        hearer, speaker, caller = [stack.enter_context(shared.target.wire()) for _ in range(3)]
        admin = stack.enter_context(direct.wire())
        oid = int(admin.value("select 'pg_notify(text, text)'::regprocedure::oid") or 0)
        calls = [function_call(oid, b"news", b"called"), query("do $$ begin perform pg_notify('news', 'done'); end $$")]
        hearer.ask(query("listen news"))
        for call in calls:
            speaker.ask(query("notify news"))
            assert said(hearer.read())[0] == speaker.key[0]
            caller.ask(call)
            assert said(hearer.read())[0] == caller.key[0]


@pytest.mark.parametrize("level", ["safe", "fast"])
def test_ones_own_notification_by_a_function_call_comes_before_ready(
    server: Postgres, variant: Variant, start: Any, level: str
) -> None:
    """PostgreSQL tells a session of what it has notified before it says that it is ready, at every level."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 1, "level": level}}))
    with forebay.target.wire() as wire:
        oid = int(wire.value("select 'pg_notify(text, text)'::regprocedure::oid") or 0)
        wire.ask(query("listen news"))
        for _ in range(20):
            assert [frame.tag for frame in wire.ask(function_call(oid, b"news", b"x"))] == ["V", "A", "Z"]


def test_statement_mode_listens_too(shared: Forebay) -> None:
    """Nothing of it needs a transaction block."""
    target = shared.target.at(dbname="statement")
    with target.wire() as one, target.wire() as other:
        one.ask(query("listen news"))
        other.ask(query("notify news, 'x'"))
        assert said(one.read())[1:] == ("news", "x")


def test_the_extended_protocol_listens_too(shared: Forebay, direct: Target) -> None:
    """Drivers send LISTEN and UNLISTEN as they send everything."""

    def heard(target: Target) -> list[list[str]]:
        with target.wire() as wire:
            run = [bind(), execute(), sync()]
            steps = [
                wire.ask(parse("", "listen a"), *run),
                wire.ask(parse("", "listen b"), *run),
                wire.ask(parse("", "notify a, 'x'"), *run),
                wire.ask(parse("", "select * from pg_listening_channels() order by 1"), *run),
                wire.ask(parse("u", "unlisten a"), sync()),
                wire.ask(bind(statement="u"), execute(), sync()),
                wire.ask(parse("", "begin"), bind(), execute(), parse("", "notify b"), bind(), execute(), sync()),
                wire.ask(parse("", "notify a"), *run, parse("", "commit"), *run, query("select 1")),
                wire.ask(parse("", "select count(*) from pg_listening_channels()"), *run),
            ]
            steps[7] += wire.ready(2)
            return [[frame.tag for frame in step] for step in steps]

    assert heard(shared.target) == heard(direct)


def test_what_a_pipeline_can_not_be_given_is_refused(shared: Forebay) -> None:
    """FB305 rather than an answer that is not true: nothing can be set in the middle of a pipeline."""
    with shared.target.wire() as wire:
        wire.ask(query("listen a"))
        first = [parse("", "select 1"), bind(), execute()]
        answer = wire.ask(*first, parse("", "unlisten a"), bind(), execute(), sync())
        assert [frame.fields["C"] for frame in answer if frame.tag == "E"] == ["0A000"]
        assert "FB305" in next(frame for frame in answer if frame.tag == "E").fields["H"]
        assert "A" in [frame.tag for frame in wire.ask(query("notify a"))]
        wire.ask(query("unlisten a"))
        assert "A" not in [frame.tag for frame in wire.ask(query("notify a"))]


def test_no_message_before_a_parse_keeps_it_waiting(shared: Forebay, direct: Target) -> None:
    """Drivers close one statement and parse the next in one batch; the answer to the first comes with the Sync only."""

    def tags(target: Target) -> list[list[str]]:
        do = [parse("", "do 'begin end'"), bind(), execute(), sync()]
        with target.wire() as wire:
            wire.ask(query("listen a"))
            wire.ask(parse("s", "select 1"), sync())
            described, closed = [describe("S", "s")], [close("S", "s")]
            batches = [described, closed, [close("P", "p")], [*closed, describe("S", "")], []]
            return [[frame.tag for frame in wire.ask(*before, *do)] for before in batches]

    assert tags(shared.target) == tags(direct)


def test_a_portal_is_read_on_after_what_may_have_notified(shared: Forebay, direct: Target) -> None:
    """What an Execute earns comes with its Sync: nothing between the two may wait for it."""

    def tags(target: Target) -> list[list[str]]:
        with target.wire() as wire:
            steps = [
                wire.ask(query("listen a")),
                wire.ask(query("begin")),
                wire.ask(query("do 'begin end'")),
                wire.ask(parse("", "select generate_series(1, 5)"), bind("c"), execute("c", 2), sync()),
                wire.ask(execute("c", 2), describe("P", "c"), sync()),
                wire.ask(execute("c", 2), close("P", "c"), sync()),
                wire.ask(query("commit")),
            ]
            return [[frame.tag for frame in step] for step in steps]

    assert tags(shared.target) == tags(direct)


def test_a_pipeline_that_may_notify_is_answered_in_its_order(shared: Forebay, direct: Target) -> None:
    """A ReadyForQuery that waits behind the next request's replies ends the wrong request."""

    def tags(target: Target) -> list[str]:
        notify = [parse("", "notify a"), bind(), execute(), sync()]
        with target.wire() as wire:
            wire.ask(query("listen a"))
            frames = wire.ask(query("select 1"), *notify, query("select 2"), query("notify a"), query("select 3"))
            return [frame.tag for frame in [*frames, *wire.ready(4)]]

    assert tags(shared.target) == tags(direct)


def test_what_a_pipeline_notifies_comes_behind_the_answers_before_it(shared: Forebay, direct: Target) -> None:
    """The listener may tell of a NOTIFY before answers that a slow reader has kept waiting on the way to it."""

    def tags(target: Target, size: int) -> list[str]:
        with target.wire() as wire:
            wire.ask(query("listen a"))
            wire.send(query(f"select repeat('x', {size})"), query("select 2"), query("notify a"))
            time.sleep(QUIET_S)
            return [frame.tag for frame in wire.ready(3)]

    for size in range(0, 12_000_000, 1_000_000):
        assert tags(shared.target, size) == tags(direct, size), size


def test_a_client_that_keeps_nothing_keeps_hearing_in_its_transactions_order(shared: Forebay, direct: Target) -> None:
    """Within a transaction PostgreSQL tells nothing; what came meanwhile comes before its ReadyForQuery."""
    with shared.target.wire() as client, direct.wire() as speaker:
        client.ask(query("listen news"))
        client.ask(query("begin"))
        for i in range(50):
            speaker.ask(query(f"notify news, '{i}'"))
        # A question of its own that it waits for makes sure that all of them have come as far as forebay.
        assert [frame.tag for frame in client.ask(query("select 1"))] == ["T", "D", "C", "Z"]
        with shared.target.at(dbname="wide").wire() as other:
            other.ask(query("listen news"))
            other.ask(query("notify news, 'last'"))
        heard = [
            said(frame)[2] for frame in client.ask(query("notify news, 'own'"), query("commit")) if frame.tag == "A"
        ]
        heard += [said(frame)[2] for frame in client.ready() if frame.tag == "A"]
        assert heard[:50] == [str(i) for i in range(50)]
        assert sorted(heard[50:]) == ["last", "own"]


@pytest.mark.variants("uring-2", "epoll-1")
def test_a_client_that_does_not_read_is_ended(server: Postgres, variant: Variant, start: Any) -> None:
    """FB210: what waits for one client must not grow without end, and none may be left out."""
    limits = {"notification_bytes_max": "64KB"}
    forebay = start(configuration(server, variant, limits=limits, databases={"app": {"pool_size": 1}}))
    with forebay.target.wire() as client, forebay.target.wire() as other, server.target.at(dbname="app").wire() as far:
        client.ask(query("listen news"))
        other.ask(query("listen news"))
        client.ask(query("begin"))
        for i in range(20):
            far.ask(query(f"notify news, '{i}{'x' * 7000}'"))
        ended = [frame for frame in client.rest() if frame.tag == "E"]
        assert [frame.fields["C"] for frame in ended] == ["53400"]
        assert "FB210" in ended[0].fields["H"]
        assert [said(other.read())[2].rstrip("x") for _ in range(20)] == [str(i) for i in range(20)]


@pytest.mark.variants("uring-2", "epoll-1")
def test_one_with_too_many_channels_keeps_its_server(server: Postgres, variant: Variant, start: Any) -> None:
    """Beyond client_channels_max a client listens as it always could: on a server of its own."""
    limits = {"client_channels_max": 2}
    forebay = start(configuration(server, variant, limits=limits, databases={"app": {"pool_size": 2}}))
    with forebay.target.wire() as client, forebay.target.wire() as speaker:
        for channel in "abc":
            client.ask(query(f"listen {channel}"))
        until(lambda: forebay.console("show pins"), within_s=5, what="it is pinned")
        assert forebay.console("show pins")[0]["reasons"] == "listen"
        for channel in "abc":
            speaker.ask(query(f"notify {channel}, 'x'"))
            assert said(client.read())[1:] == (channel, "x")
        client.ask(query("unlisten c"))
        until(lambda: not forebay.console("show pins"), within_s=5, what="the pin is gone")
        speaker.ask(query("notify b, 'y'"))
        assert said(client.read())[1:] == ("b", "y")


@pytest.mark.variants("uring-2", "epoll-1")
def test_a_lost_listener_ends_those_who_listened(server: Postgres, variant: Variant, start: Any) -> None:
    """FB408: what was missed nobody can know, so a client is told as if its own server had been lost. Others stay."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 1}}))
    with forebay.target.wire() as client, forebay.target.wire() as other, direct_admin(server) as admin:
        client.ask(query("listen news"))
        assert other.value("select 1") == "1"
        (listener,) = listeners(forebay)
        admin.value(f"select pg_terminate_backend({listener})")
        ended = [frame for frame in client.rest() if frame.tag == "E"]
        assert [frame.fields["C"] for frame in ended] == ["57P01"]
        assert "FB408" in ended[0].fields["H"]
        assert other.value("select 1") == "1"
        with forebay.target.wire() as again:
            again.ask(query("listen news"))
            other.ask(query("notify news, 'x'"))
            assert said(again.read())[1:] == ("news", "x")


def listeners(forebay: Forebay) -> list[str | None]:
    """Process ids of the connections that listen for a forebay's clients."""
    return [row["remote_pid"] for row in forebay.console("show servers") if row["state"] == "listening"]


def direct_admin(server: Postgres) -> Wire:
    """A superuser's connection past forebay."""
    return server.target.at(user="postgres", dbname="app").wire()


class Crowd:
    """Clients that listen and read all the time, without a thread for each."""

    def __init__(self, target: Target, channels: dict[int, list[str]]) -> None:
        """channels: of each client, by its number."""
        self.heard: dict[int, list[tuple[str, str]]] = {number: [] for number in channels}
        self.ended: list[int] = []
        self._rest: dict[int, bytes] = dict.fromkeys(channels, b"")
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        for number, names in channels.items():
            wire = target.wire()
            wire.ask(query("; ".join(f"listen {name}" for name in names)))
            self._sockets.append(wire.socket)
            self._selector.register(wire.socket, selectors.EVENT_READ, number)

    def read(self, timeout_s: float) -> bool:
        """Reads what has come. False: nothing came."""
        ready = self._selector.select(timeout_s)
        for key, _ in ready:
            sock, number = key.fileobj, int(key.data)
            assert isinstance(sock, socket.socket)
            data = sock.recv(65536)
            if not data:
                self.ended.append(number)
                self._selector.unregister(sock)
            self._take(number, self._rest[number] + data)
        return bool(ready)

    def _take(self, number: int, data: bytes) -> None:
        at = 0
        while len(data) - at >= 5:
            tag, length = data[at : at + 1], struct.unpack(">I", data[at + 1 : at + 5])[0]
            if len(data) - at <= length:
                break
            if tag == b"A":
                channel, payload = data[at + 9 : at + length].split(b"\0")
                self.heard[number].append((channel.decode(), payload.decode()))
            at += 1 + length
        self._rest[number] = data[at:]

    def close(self) -> None:
        """Ends all sessions."""
        for sock in self._sockets:
            sock.close()


def difference(heard: list[tuple[str, str]], expected: list[tuple[str, str]]) -> str:
    """What is wrong with what a client has heard; empty: nothing."""
    if heard == expected:
        return ""
    at = next((i for i, pair in enumerate(zip(heard, expected, strict=False)) if pair[0] != pair[1]), len(heard))
    return f"{len(heard)} of {len(expected)}, from {at} on {heard[at - 1 : at + 4]} for {expected[at - 1 : at + 4]}"


@contextlib.contextmanager
def crowd(target: Target, channels: dict[int, list[str]]) -> Iterator[Crowd]:
    """A crowd, ended at the end."""
    clients = Crowd(target, channels)
    try:
        yield clients
    finally:
        clients.close()


@pytest.mark.variants("uring-1", "uring-2", "epoll-2")
def test_a_thousand_clients_on_fifty_channels_miss_nothing(server: Postgres, variant: Variant, start: Any) -> None:
    """10,000 notifications in commit order, none lost or doubled, while the listener is relieved again and again."""
    count, rounds = 1000, 10_000
    channels = {number: [f"ch{number % 50}"] for number in range(count)}
    limits = {"max_client_conn": count + 50}
    forebay = start(configuration(server, variant, limits=limits, databases={"app": {"pool_size": 2}}))
    begun = time.monotonic()
    with crowd(forebay.target, channels) as clients, forebay.target.wire() as speaker:
        until(lambda: forebay.servers_active() == 0, within_s=5, what="no server is held")
        assert len(listeners(forebay)) == 1
        pids = set()
        for base in range(0, rounds, 500):
            texts = [query(f"notify ch{i % 50}, '{i}'") for i in range(base, base + 500)]
            speaker.send(*texts)
            if base % 1000 == 0:
                forebay.console("reconnect")
            speaker.ready(500)
            pids |= set(listeners(forebay))
            # A listener that is to go is relieved within a second: with notifications before, meanwhile and behind.
            pause_end = time.monotonic() + 0.25
            while clients.read(max(0.0, pause_end - time.monotonic())):
                pass
        deadline = time.monotonic() + 20
        wanted = rounds // 50
        while min(map(len, clients.heard.values())) < wanted and time.monotonic() < deadline:
            clients.read(0.2)
        while clients.read(QUIET_S):
            pass
        expected = {c: [(f"ch{c}", str(i)) for i in range(c, rounds, 50)] for c in range(50)}
        wrong = {number: difference(clients.heard[number], expected[number % 50]) for number in channels}
        found = {number: words for number, words in wrong.items() if words}
        assert not found, "\n".join(f"{number}: {words}" for number, words in found.items())
        assert not clients.ended
        until(lambda: len(listeners(forebay)) == 1, within_s=10, what="one listener is left")
        assert len(pids) >= 2, "the listener was never relieved"
    assert time.monotonic() - begun < 60
    counted = re.search(r"^forebay_notifications_total\{[^}]*\} (\d+)$", forebay.metrics(), re.MULTILINE)
    assert counted is not None
    assert int(counted[1]) >= count * wanted
