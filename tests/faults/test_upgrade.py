"""Online restart when something goes wrong, and under load."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.harness.certificates import Pair
from tests.harness.deadline import until
from tests.harness.pooler import SECRETS, Forebay, Variant, configuration
from tests.harness.postgres import Postgres, free_port
from tests.harness.processes import Orphan
from tests.harness.wire import SSL_REQUEST, Gone, Wire, query

# Between two requests of one client.
PAUSE_S = 0.05
# Half of them are in a transaction.
CLIENTS = 24


@pytest.fixture
def forebay(server: Postgres, variant: Variant, start: Start, tls: tuple[Pair, ssl.SSLContext]) -> Forebay:
    """One that can be upgraded: its port is known beforehand. Servers of `secret` are reached by TLS."""
    pair, _ = tls
    listen = {
        "port": free_port(),
        "address": ["127.0.0.1"],
        "tls": {"certificate": pair.certificate, "key": pair.key, "mode": "prefer"},
    }
    databases = {"app": {"pool_size": CLIENTS}, "secret": {"pool_size": CLIENTS, "tls.mode": "require"}}
    return start(configuration(server, variant, databases=databases, listen=listen))


def begin_upgrade(forebay: Forebay) -> subprocess.Popen[str]:
    """`forebay upgrade`, under way."""
    return subprocess.Popen(
        [sys.executable, "-m", "forebay", "upgrade", str(forebay.path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=forebay.folder,
        env={**os.environ, **SECRETS, **forebay.environment},
    )  # fmt: skip


def child_of(pid: int) -> int | None:
    """The process that another has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found[0]) if found else None


def successor(forebay: Forebay) -> int:
    """The new process, as soon as there is one."""
    pid = until(lambda: child_of(forebay.pid), within_s=20, what="the new process is started")
    assert pid is not None
    return pid


def serves(forebay: Forebay) -> bool:
    """Whether a new client gets an answer."""
    with contextlib.suppress(OSError, Gone), forebay.target.wire() as wire:
        return wire.value("select 1") == "1"
    return False


def survivors(wires: list[Wire], expected: list[str]) -> int:
    """How many still have their session: with what it had. The others have been cut, and hear no wrong answer."""
    count = 0
    for wire, value in zip(wires, expected, strict=True):
        with contextlib.suppress(OSError, Gone):
            assert wire.value("show work_mem") == value
            count += 1
    return count


@contextlib.contextmanager
def occupied(forebay: Forebay) -> Iterator[tuple[list[Wire], list[str]]]:
    """Clients with a setting of their own each, every other one in a transaction; gone when the block ends."""
    wires, expected = [], []
    with contextlib.ExitStack() as stack:
        for at in range(CLIENTS):
            wire = forebay.target.wire()
            stack.callback(wire.close)
            value = f"{64 + at}kB"
            if at % 2:
                wire.ask(query("begin"))
            wire.ask(query(f"set {'local ' if at % 2 else ''}work_mem to '{value}'"))
            wires.append(wire)
            expected.append(value)
        yield wires, expected


@pytest.mark.variants("uring-2", "epoll-1")
@pytest.mark.parametrize("when", ["as it starts", "when it serves"])
def test_a_new_process_that_is_killed_costs_only_what_it_has_taken_over(when: str, forebay: Forebay) -> None:
    """Before it serves nobody notices; behind that, who has not moved goes on, and the old process serves again."""
    with occupied(forebay) as (wires, expected):
        upgrade = begin_upgrade(forebay)
        pid = successor(forebay)
        if when == "when it serves":
            until(lambda: len(forebay.events("start")) == 2, within_s=20, what="the new process serves")
        os.kill(pid, signal.SIGKILL)
        said, errors = upgrade.communicate(timeout=60)
        if upgrade.returncode == 0:
            # It had everything by then: with it all is gone, as with any process.
            assert "clients moved" in said
            forebay.process.wait(timeout=20)
            forebay.process = None
            return
        assert "goes on" in errors, errors
        until(lambda: serves(forebay), within_s=10, what="the old process serves")
        count = survivors(wires, expected)
        assert count == CLIENTS or when == "when it serves", f"{count} of {CLIENTS}"


@pytest.mark.variants("uring-2", "epoll-1")
def test_an_old_process_that_is_killed_leaves_a_new_one_that_serves(forebay: Forebay) -> None:
    """Clients that have moved go on with what they had; the others are cut, and can connect again."""
    with occupied(forebay) as (wires, expected):
        upgrade = begin_upgrade(forebay)
        pid = successor(forebay)
        until(lambda: len(forebay.events("start")) == 2, within_s=20, what="the new process serves")
        forebay.kill()
        forebay.process = Orphan(pid)
        upgrade.communicate(timeout=60)
        until(lambda: serves(forebay), within_s=10, what="the new process serves")
        survivors(wires, expected)


@pytest.fixture
def with_file(server: Postgres, variant: Variant, start: Start, tmp_path: Path) -> Forebay:
    """One with a Unix socket; it lets go of what can't move after as long as two upgrades take on a busy machine."""
    listen = {"port": free_port(), "address": ["127.0.0.1"], "unix": str(tmp_path)}
    return start(configuration(server, variant, listen=listen, limits={"drain_timeout": "15s"}))


@contextlib.contextmanager
def one_that_stays(forebay: Forebay) -> Iterator[Wire]:
    """A client in a transaction that can't move, as it hears through the pool's listener."""
    with forebay.target.wire() as wire:
        wire.ask(query("listen news"))
        wire.ask(query("begin"))
        yield wire


@pytest.mark.variants("uring-2", "epoll-1")
def test_an_old_process_ends_in_bounded_time_and_takes_nothing_of_the_new_one_along(
    with_file: Forebay, tmp_path: Path
) -> None:
    """Who does not end its transaction is cut after limits.drain_timeout. Neither that, nor a stop of the old process,
    takes the socket's file from the new one, which can be upgraded in its turn meanwhile.
    """
    forebay, beside = with_file, with_file.target.at(host=str(tmp_path))
    first = forebay.process
    assert first is not None
    with one_that_stays(forebay) as wire, beside.wire() as local:
        assert "1 can't move" in forebay.upgrade(ends=False)
        second = forebay.process
        assert second is not None
        with one_that_stays(forebay):
            assert "1 can't move" in forebay.upgrade(ends=False), "while the first one is still there"
            assert first.poll() is None
            second.send_signal(signal.SIGINT)
            assert second.wait(timeout=40) == 0
        assert [frame.fields["C"] for frame in wire.rest() if frame.tag == "E"] == ["57P01"]
        assert first.wait(timeout=40) == 0
        assert local.value("select 'moved twice'") == "moved twice"
        with beside.wire() as new:
            assert new.value("select 'in by the file'") == "in by the file"


class Worked:
    """What the clients of a load have seen."""

    def __init__(self) -> None:
        self.requests = 0
        self.longest_s = 0.0
        self.errors: list[str] = []


async def work(port: int, number: int, seen: Worked, end: asyncio.Event, tls: ssl.SSLContext | None = None) -> None:
    """A client that asks again and again; half of them in one transaction. `tls`: for half of each, on both sides."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    database = b"app"
    if tls is not None and number % 4 < 2:
        database = b"secret"
        writer.write(SSL_REQUEST)
        assert await reader.readexactly(1) == b"S"
        await writer.start_tls(tls, server_hostname="localhost")
    startup = b"\x00\x03\x00\x00user\x00app\x00database\x00" + database + b"\x00\x00"
    writer.write((len(startup) + 4).to_bytes(4, "big") + startup)
    await until_ready(reader)
    if number % 2:
        writer.write(query("begin"))
        await until_ready(reader)
    turn = 0
    while not end.is_set():
        turn += 1
        began = time.monotonic()
        word = f"c{number}t{turn}"
        writer.write(query(f"select '{word}'"))
        got = await until_ready(reader)
        seen.longest_s = max(seen.longest_s, time.monotonic() - began)
        seen.requests += 1
        if word.encode() not in got or got[-6:-1] != b"Z\x00\x00\x00\x05" or got[-1:] != (b"T" if number % 2 else b"I"):
            seen.errors.append(f"client {number}, request {turn}: {got!r}")
            break
        await asyncio.sleep(PAUSE_S)
    writer.close()
    with contextlib.suppress(TimeoutError, OSError):
        await asyncio.wait_for(writer.wait_closed(), 5)
    writer.transport.abort()
    await asyncio.sleep(0)


async def until_ready(reader: asyncio.StreamReader) -> bytes:
    """All up to the next ReadyForQuery."""
    got = b""
    while True:
        head = await reader.readexactly(5)
        body = await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
        got += head + body
        if head[:1] == b"Z":
            return got


async def upgrade_under_load(forebay: Forebay, clients: int, times: int, tls: ssl.SSLContext | None = None) -> Worked:
    """Upgrades so many times, one right after the other, while clients ask."""
    seen, end = Worked(), asyncio.Event()
    tasks = [asyncio.ensure_future(work(forebay.port, number, seen, end, tls)) for number in range(clients)]
    try:
        for _ in range(times):
            await asyncio.to_thread(forebay.upgrade)
    finally:
        end.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    seen.errors.extend(repr(result) for result in results if result is not None)
    return seen


@pytest.mark.variants("uring-2", "epoll-1")
def test_clients_at_work_see_no_error_over_several_upgrades(forebay: Forebay, tls: tuple[Pair, ssl.SSLContext]) -> None:
    """Half of them in one transaction all along, half with TLS. The longest answer is bounded for a busy machine."""
    seen = asyncio.run(upgrade_under_load(forebay, CLIENTS, 3, tls[1]))
    assert not seen.errors, seen.errors[:5]
    assert seen.requests > CLIENTS
    assert seen.longest_s < 10, seen.longest_s
