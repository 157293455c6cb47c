"""Some clients hold their servers, and the others live on what is left; a pin ends with its cause."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.target import Target
from tests.harness.wire import Wire, query

SERVERS = 20
OTHERS = 100
# For how long the pins are held: HOLD_S=3600 makes it an hour, of statements that take longer.
HOLD_S = float(os.environ.get("HOLD_S", "3"))
SAMPLE_S = max(0.1, HOLD_S / 3600)
SAMPLES = int(HOLD_S / SAMPLE_S)
STATEMENT_S = 0.01 if HOLD_S < 60 else 0.2
UNPIN_S = 1.0

# What pins, and what ends it.
CAUSES = {
    "temporary object": ("create temp table mine (a int)", "drop table mine"),
    "advisory lock": ("select pg_advisory_lock(7)", "select pg_advisory_unlock(7)"),
    "cursor with hold": ("declare c cursor with hold for select 1", "close c"),
    "prepared statement": ("select 1; prepare p as select 1", "deallocate p"),
    "listen": ("listen news", "unlisten news"),
}


@dataclass
class Crowd:
    """Clients that run one short statement after another, each on whatever server it gets."""

    target: Target
    stop: threading.Event = field(default_factory=threading.Event)
    counts: list[int] = field(default_factory=lambda: [0] * OTHERS)
    pids: list[str] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)
    longest_s: float = 0.0

    def run(self, number: int) -> None:
        try:
            with self.target.wire() as wire:
                while not self.stop.is_set():
                    began = time.monotonic()
                    self.pids.append(str(wire.value(f"select pg_backend_pid() from pg_sleep({STATEMENT_S})")))
                    self.longest_s = max(self.longest_s, time.monotonic() - began)
                    self.counts[number] += 1
        except BaseException as fault:
            self.faults.append(fault)

    def used(self) -> set[str]:
        """The servers that served them from here on, until every one of them has been served again."""
        del self.pids[:]
        before = list(self.counts)
        until(lambda: all(n >= b + 3 for n, b in zip(self.counts, before, strict=True)), within_s=20, what="all go on")
        return set(self.pids)


@contextlib.contextmanager
def crowd(target: Target) -> Iterator[Crowd]:
    """For as long as the block lasts; nobody of it may have met an error."""
    them = Crowd(target)
    threads = [threading.Thread(target=them.run, args=(number,)) for number in range(OTHERS)]
    for thread in threads:
        thread.start()
    try:
        yield them
    finally:
        them.stop.set()
        for thread in threads:
            thread.join()
    assert them.faults == []


def pins(forebay: Forebay) -> list[str]:
    """The reasons of all pins."""
    return sorted(str(row["reasons"]) for row in forebay.console("show pins"))


@pytest.mark.variants("uring-2", "epoll-1")
def test_five_pins_leave_fifteen_servers_to_the_others(start: Start, server: Postgres, variant: Variant) -> None:
    """The others use all of the rest, all the time; nobody starves; each pin ends with its cause."""
    # Whoever listens keeps its server.
    limits = {"client_channels_max": 0}
    forebay = start(configuration(server, variant, limits=limits, databases={"app": {"pool_size": SERVERS}}))
    with contextlib.ExitStack() as stack:
        holders = {reason: stack.enter_context(forebay.target.wire()) for reason in CAUSES}
        own = {}
        for reason, (pinning, _) in CAUSES.items():
            holders[reason].rows(pinning)
            own[reason] = holders[reason].value("select pg_backend_pid()")
        assert pins(forebay) == sorted(CAUSES)
        with crowd(forebay.target) as others:
            others.used()
            in_use = []
            for _ in range(SAMPLES):
                (pool,) = [row for row in forebay.console("show pools") if row["database"] == "app"]
                in_use.append(int(pool["sv_active"] or 0) + int(pool["sv_tested"] or 0))
                others.stop.wait(SAMPLE_S)
            assert not set(others.pids) & set(own.values()), "a pinned server served somebody else"
            assert pins(forebay) == sorted(CAUSES)
            # One or two are on their way from one client, or one worker, to the next.
            assert sum(in_use) / SAMPLES > SERVERS * 0.9, "servers stand idle while others wait"
            served = others.used()
            assert len(served) == SERVERS - len(CAUSES)
            assert not served & set(own.values()), "a pinned server served somebody else"
            for reason, (_, ending) in CAUSES.items():
                still = pins(forebay)
                began = time.monotonic()
                holders[reason].rows(ending)
                until(lambda: reason not in pins(forebay), within_s=UNPIN_S, what=f"the pin by {reason} ends")  # noqa: B023
                assert time.monotonic() - began < UNPIN_S
                assert pins(forebay) == sorted(set(still) - {reason})
            until(lambda: len(others.used()) == SERVERS, within_s=20, what="the others have all servers")
            longest = others.longest_s
        assert longest < 5.0, "somebody waited as if it were forgotten"


def ended(wire: Wire) -> list[tuple[str, str]]:
    return [(frame.fields["S"], frame.fields["C"]) for frame in wire.rest() if frame.tag == "E"]


@pytest.mark.variants("uring-2", "epoll-1")
def test_a_pin_whose_server_is_terminated_ends_at_once(
    start: Start, server: Postgres, variant: Variant, direct: Target
) -> None:
    """The one cause of an end that is no statement of the client's: it hears of it, and its place is free."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 1}}))
    with forebay.target.wire() as holder, forebay.target.wire() as waiting, direct.at(user="postgres").wire() as admin:
        holder.ask(query("create temp table mine (a int)"))
        pid = holder.value("select pg_backend_pid()")
        waiting.send(query("select 'served'"))
        began = time.monotonic()
        admin.value(f"select pg_terminate_backend({pid})")
        assert ended(holder) == [("FATAL", "57P01")]
        assert [frame.tag for frame in waiting.ready()] == ["T", "D", "C", "Z"]
        assert time.monotonic() - began < UNPIN_S
        assert pins(forebay) == []
