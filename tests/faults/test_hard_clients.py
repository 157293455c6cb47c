"""Clients that are slow, many, or in the wrong. Rows of the fault matrix."""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import socket
import struct
import time

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres, free_port
from tests.harness.wire import Gone, Wire, bind, cancel, copy_data, copy_done, execute, parse, query, startup, sync

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

# A machine that others use as well may be so many times slower than the matrix says.
BUSY = 4

# Bytes of a large transfer: 200 MB, or what LARGE_BYTES says (1 GB by hand before a release).
LARGE = int(os.environ.get("LARGE_BYTES", "200000000"))

# Growth of memory that a large transfer may cost, beyond the buffers that were there.
GROWTH_KB = 4096

# Messages of the fuzzer over all variants: 20,000, or what FUZZ_MESSAGES says (make soak: 100,000 a minute of it).
MESSAGES = int(os.environ.get("FUZZ_MESSAGES", "20000")) // 2


def drain(wire: Wire, forebay: Forebay) -> tuple[int, int]:
    """Reads to ReadyForQuery without keeping anything; returns bytes read and the most memory forebay held."""
    count, most, tail = 0, 0, b""
    buffer = bytearray(1 << 20)
    while not tail.endswith(b"Z\0\0\0\x05I"):
        got = wire.socket.recv_into(buffer)
        assert got, "the connection ended"
        if count >> 24 != (count + got) >> 24:
            most = max(most, forebay.rss_kb())
        count += got
        tail = (tail + buffer[max(0, got - 6) : got])[-6:]
    return count, max(most, forebay.rss_kb())


def settled(forebay: Forebay) -> int:
    """Memory once the buffers of every worker have been used: transfers that no longer make it grow."""
    held, calm = 0, 0
    for _ in range(40):
        with forebay.target.wire() as wire:
            wire.send(query("select repeat('x', 1000) from generate_series(1, 60000)"))
            drain(wire, forebay)
        calm = calm + 1 if forebay.rss_kb() <= held + 256 else 0
        held = max(held, forebay.rss_kb())
        if calm == 5:
            break
    return held


@pytest.fixture
def bare(start: Start, server: Postgres, variant: Variant) -> Forebay:
    """A forebay with nothing else to do, and so few buffers that they are all touched before memory is compared."""
    return start(configuration(server, variant, engine={"buffers": 128}))


def test_a_large_result_passes_in_bounded_memory(bare: Forebay) -> None:
    """Rows of 1 MB, as many as make up the whole."""
    before = settled(bare)
    with bare.target.wire() as wire:
        wire.send(query(f"select repeat('x', 1000000) from generate_series(1, {LARGE // 1_000_000})"))
        count, most = drain(wire, bare)
    assert count > LARGE
    assert most - before <= GROWTH_KB


def test_a_large_value_passes_in_bounded_memory(bare: Forebay) -> None:
    """Row 14: one DataRow of all the bytes; a body is streamed, never gathered."""
    before = settled(bare)
    with bare.target.wire() as wire:
        wire.send(query(f"select repeat('x', {LARGE})"))
        count, most = drain(wire, bare)
    assert count > LARGE
    assert most - before <= GROWTH_KB


def test_a_large_copy_passes_in_bounded_memory(bare: Forebay) -> None:
    """In and out."""
    before = settled(bare)
    line = b"7\t" + b"c" * 997 + b"\n"
    piece = copy_data(line * 1000)
    most = 0
    with bare.target.wire() as wire:
        wire.ask(query("begin"))
        wire.ask(query("create temp table large (a int, b text) on commit drop"))
        wire.send(query("copy large from stdin"))
        wire.read_until("G")
        for turn in range(LARGE // len(line * 1000)):
            wire.send(piece)
            if turn % 16 == 0:
                most = max(most, bare.rss_kb())
        wire.send(copy_done())
        wire.ready()
        assert most - before <= GROWTH_KB
        wire.send(query("copy large to stdout; rollback"))
        count, most = drain(wire, bare)
        assert count > LARGE * 0.99
    assert most - before <= GROWTH_KB


def test_a_large_parameter_passes_in_bounded_memory(bare: Forebay) -> None:
    """A Bind as long as a client likes, with its statement's name rewritten in front."""
    before = settled(bare)
    with bare.target.wire() as wire:
        wire.ask(parse("length", "select length($1)"), sync())
        size = min(LARGE, 500_000_000)
        body = b"\0length\0\0\0" + struct.pack("!Hi", 1, size)
        wire.socket.sendall(b"B" + struct.pack("!I", 4 + len(body) + size + 2) + body)
        piece = b"p" * 1_000_000
        most = 0
        for turn in range(size // len(piece)):
            wire.socket.sendall(piece)
            if turn % 16 == 0:
                most = max(most, bare.rss_kb())
        wire.socket.sendall(b"\0\0")
        wire.ask(execute(), sync())
        assert str(size) in wire.seen[-3]
    assert most - before <= GROWTH_KB


def test_a_slow_reader_holds_up_nobody_but_itself(bare: Forebay) -> None:
    """Row 13: its server waits with it; memory does not grow, others are served as before."""
    before = settled(bare)
    with bare.target.dial() as slow:
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.log_in(user="app", database="app")
        slow.send(query(f"select repeat('x', 100000) from generate_series(1, {LARGE // 100_000})"))
        slow.read_until("T")
        with bare.target.wire() as other:
            began = time.monotonic()
            for i in range(200):
                assert other.value(f"select {i}") == str(i)
            assert time.monotonic() - began < 5
        assert bare.rss_kb() - before <= GROWTH_KB
        assert slow.take(1000)


def test_a_flood_of_syncs_is_held_back(bare: Forebay) -> None:
    """Row 37: a client that never reads what it asked for meets back-pressure, and costs no memory."""
    before = settled(bare)
    with bare.target.wire() as flood, bare.target.wire() as other:
        flood.socket.settimeout(0.5)
        sent = 0
        piece = sync() * 10_000
        with contextlib.suppress(TimeoutError):
            while sent < 1_000_000:
                flood.socket.sendall(piece)
                sent += 10_000
        assert other.value("select 1") == "1"
        assert bare.rss_kb() - before <= GROWTH_KB


@pytest.mark.timeout(240)
def test_a_thundering_herd_is_served(start: Start, server: Postgres, variant: Variant) -> None:
    """Row 36: 10,000 connects at once; no more servers than the pool has are ever opened."""
    count, size = 10_000, 4
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard > count + 200, f"hard limit of open files: {hard}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": size}}, listen={"backlog": 4096}))
    target = forebay.target.at(user="gone")
    wires: list[Wire] = []
    try:
        began = time.monotonic()
        for _ in range(count):
            wires.append(target.dial())
            wires[-1].send(startup(user="gone", database="app"), query("select pg_backend_pid()"))
        pids = [frame.body for wire in wires for frame in wire.ready(2) if frame.tag == "D"]
        took = time.monotonic() - began
        opened = opened_servers(forebay, "gone")
    finally:
        for wire in wires:
            wire.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(f"{variant}: {count} clients served in {took:.2f} s by {opened} servers")
    assert len(pids) == count
    # One that came when all were served has served nobody; none came and went unseen.
    assert len(set(pids)) <= opened <= size
    assert took < 5 * BUSY
    (refused,) = re.findall(r"^forebay_logins_turned_away_total (\d+)$", forebay.metrics(), re.MULTILINE)
    assert refused == "0"


def opened_servers(forebay: Forebay, user: str) -> int:
    """Servers that its pool has opened, over all workers and up to now."""
    pattern = rf'^forebay_servers_opened_total{{database="app",user="{user}"}} (\d+)$'
    return sum(int(count) for count in re.findall(pattern, forebay.metrics(), re.MULTILINE))


def test_without_descriptors_new_clients_are_refused_and_others_served(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """Row 27: EMFILE must not spin, and must pass. Before it comes, logins are refused with 53300."""
    limits = {"address_logins_max": 0}
    sections = configuration(server, variant, limits=limits, tcp={"defer_accept": False})
    forebay = start(sections, files_max=256)
    held: list[Wire] = []
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [wire.close() for wire in held])
        first = stack.enter_context(forebay.target.wire())
        assert first.value("select 1") == "1"
        refusal = ""
        for _ in range(256):
            held.append(forebay.target.dial())
            said = held[-1].first(startup(user="app", database="app"))
            if errors := [frame.fields for frame in said if frame.tag == "E"]:
                refusal = f"{errors[0]['C']} {errors[0]['H'].rpartition(' ')[2]}"
                break
        assert refusal == "53300 (FB205)"
        # Those that say nothing take the descriptors that are kept for that, and many more wait to be accepted.
        held.extend(forebay.target.dial() for _ in range(200))
        until(lambda: forebay.events("accept_backoff"), within_s=30, what="no descriptor is left")
        used = most_cpu(forebay, first)
        print(f"{variant}: {used * 100:.1f} % of a core without descriptors")
        assert used < 0.05
        assert forebay.files() <= 256
        # Once a worker in ten seconds.
        assert len(forebay.events("accept_backoff")) <= 2 * variant.workers * 2
        while held:
            held.pop().close()

        def served() -> bool:
            with contextlib.suppress(Gone, OSError, AssertionError), forebay.target.wire() as again:
                return again.value("select 3") == "3"
            return False

        until(served, within_s=30, what="clients are let in again")


def most_cpu(forebay: Forebay, client: Wire) -> float:
    """The part of a core that forebay uses over six seconds, beside a client that is served now and then."""
    before, began = forebay.cpu_s(), time.monotonic()
    for second in range(1, 7):
        until(lambda s=second: time.monotonic() - began > s, within_s=30, what="another second")
        assert client.value(f"select {second}") == str(second)
    return (forebay.cpu_s() - before) / (time.monotonic() - began)


def test_kill_of_forebay_rolls_back_and_a_new_one_serves(start: Start, server: Postgres, variant: Variant) -> None:
    """Row 30: sockets close, PostgreSQL rolls back, the next start takes the port at once.

    It serves 150 ms after the engine is begun and 1 s after the process is, or BUSY times as late; the best of three
    counts.
    """
    running = start(configuration(server, variant))
    port = running.port
    starts: list[tuple[int, int]] = []
    for turn in range(3):
        with running.target.wire() as client:
            client.ask(query("begin"))
            client.ask(query(f"insert into scratch values (30, 'gone {turn}')"))
            running.kill()
            assert client.ends()
        running = start(configuration(server, variant, listen={"port": port}))
        with running.target.wire() as client:
            assert client.value("select count(*) from scratch where a = 30") == "0"
        starts.append((running.started["engine_ms"], running.started["process_ms"]))
    engine_ms, process_ms = (min(times) for times in zip(*starts, strict=True))
    print(f"{variant}: serves {engine_ms} ms after the engine is begun, {process_ms} ms after the process: {starts}")
    assert engine_ms <= 150 * BUSY
    assert process_ms <= 1000 * BUSY


def test_a_sibling_serves_when_one_is_killed(start: Start, server: Postgres, variant: Variant) -> None:
    """Row 30: two share the port; whoever connects from then on comes to the one that is there, and none is lost.

    From when the kernel has closed the other's listeners: with io_uring that may be a moment after the process has
    ended, as what is under way holds them.
    """
    listen = {"port": free_port(), "reuse_port": True}
    first, second = (start(configuration(server, variant, listen=listen)) for _ in range(2))
    first.kill()
    began, lost_at, lost = time.monotonic(), 0.0, 0
    for number in range(600):
        try:
            with second.target.wire() as client:
                assert client.value(f"select {number}") == str(number)
        except (OSError, Gone):
            lost, lost_at = lost + 1, time.monotonic() - began
    print(f"{variant}: {lost} of 600 connects lost, the last {lost_at * 1000:.0f} ms after the other had ended")
    if variant.io == "epoll":
        assert lost == 0
    assert lost_at < 0.25 * BUSY
    with second.target.wire() as client:
        assert client.value("select 'there'") == "there"


def mutated(luck: random.Random) -> bytes:
    """Messages as a broken or hostile client sends them."""
    right = [
        query("select 1"), parse("s", "select $1::int"), bind(statement="s", values=[b"1"]), execute(), sync(),
        query("begin"), query("rollback"), query("copy scratch from stdin"), copy_data(b"1\ta\n"), copy_done(),
        startup(user="app", database="app"), cancel(luck.randrange(1 << 32), luck.randbytes(4)),
    ]  # fmt: skip
    data = bytearray(b"".join(luck.choices(right, k=luck.randint(1, 6))))
    match luck.randrange(6):
        case 0:
            return luck.randbytes(luck.randint(1, 300))
        case 1:
            for _ in range(luck.randint(1, 5)):
                data[luck.randrange(len(data))] = luck.randrange(256)
        case 2:
            del data[luck.randrange(len(data)) :]
        case 3:
            at = luck.randrange(len(data))
            data[at:at] = luck.randbytes(luck.randint(1, 20))
        case 4:
            at = 1 if len(data) < 6 else luck.randrange(len(data) - 4)
            data[at : at + 4] = struct.pack("!I", luck.choice([0, 1, 3, 4, 5, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
        case _:
            return bytes([luck.choice(b"QPBDECSHFXdcfp"), *struct.pack("!I", luck.randint(4, 60))]) + luck.randbytes(56)
    return bytes(data)


@pytest.mark.timeout(600 + MESSAGES // 100)
def test_messages_of_a_fuzzer_harm_nobody(start: Start, server: Postgres, variant: Variant) -> None:
    """Row 33: garbage, truncated and oversized messages through a live socket: no crash, no leak, and between them a
    client that behaves is served."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 3}}))
    seed = int(os.environ.get("SEED", "1"))
    luck = random.Random(seed)
    sent, marks = 0, []
    with forebay.target.wire() as good:
        while sent < MESSAGES:
            with contextlib.suppress(Gone, OSError, AssertionError, ValueError), forebay.target.dial() as bad:
                bad.socket.settimeout(1)
                if luck.random() < 0.8:
                    bad.send(startup(user="app", database="app"))
                for _ in range(luck.randint(1, 40)):
                    bad.send(mutated(luck))
                    sent += 1
                if luck.random() < 0.1:
                    bad.reset()
            if luck.random() < 0.02:
                assert good.value(f"select '{sent}'") == str(sent), f"seed {seed}"
                marks.append((forebay.rss_kb(), forebay.files()))
        until(lambda: len(forebay.console("show clients")) <= 2, within_s=20, what="all of them are gone")
        assert good.value("select 'alive'") == "alive"
    assert forebay.rss_kb() - marks[len(marks) // 4][0] < GROWTH_KB
    assert forebay.files() <= max(files for _, files in marks)
    forebay.assert_log_is_clean()
