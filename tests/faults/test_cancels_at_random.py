"""Eight hundred cancels at random moments over shared servers: whoever did not ask is never cancelled."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.conftest import Start
from tests.diff import planted
from tests.harness.pooler import Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.target import Target
from tests.harness.wire import Wire, bind, cancel, execute, parse, query, row, sync

# With more of them to a server most are cancelled while they wait for one, which reaches no server.
CLIENTS = 10
SERVERS = 4
# For clients that ask for them; beside them go about as many with keys of nobody.
CANCELS = 800
CANCELLERS = 8
SEED = 20_261_126
END_S = 50.0

Span = tuple[float, float]


@dataclass
class Client:
    """One that runs numbered statements, and what became of each. is_asker: cancels are sent for it."""

    number: int
    wire: Wire
    is_asker: bool
    luck: random.Random
    asked: list[Span] = field(default_factory=list)
    cancelled: list[Span] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    count: int = 0

    def run(self, stop: threading.Event) -> None:
        """Runs statements until it is told to stop."""
        try:
            while not stop.is_set():
                self.count += 1
                self.step(f"{self.number}.{self.count}")
        except Exception as error:
            self.faults.append(f"statement {self.count}: {error!r}")

    def step(self, name: str) -> None:
        sql = f"select '{name}', pg_sleep({self.luck.choice((0, 0.001, 0.003, 0.008))})"
        kind = self.luck.randrange(3)
        began = time.monotonic()
        if kind == 0:
            frames = self.wire.ask(query(sql))
        elif kind == 1:
            frames = self.wire.ask(parse("", sql), bind(), execute(), sync())
        else:
            frames = [frame for part in ("begin", sql, "commit") for frame in self.wire.ask(query(part))]
            # A cancel that meets the COMMIT before it is carried out leaves the block failed, as directly.
            while frames[-1].body != b"I":
                frames += self.wire.ask(query("rollback"))
        span = began, time.monotonic()
        rows = [row(frame)[0] for frame in frames if frame.tag == "D"]
        errors = [frame.fields["C"] for frame in frames if frame.tag == "E"]
        if "57014" in errors:
            self.cancelled.append(span)
        elif rows != [name]:
            self.faults.append(f"{name} was answered {rows} {errors}")
        self.outcomes.update(errors or ["answered"])


def ask_to_cancel(target: Target, client: Client, key: tuple[int, bytes]) -> None:
    """A CancelRequest up to the end of its connection: from then on it must hit nothing that begins."""
    began = time.monotonic()
    with target.dial() as wire:
        wire.send(cancel(*key))
        wire.rest()
    if key == client.wire.key:
        client.asked.append((began, time.monotonic()))


def cancel_at_random(target: Target, clients: list[Client], seed: int, stop: threading.Event) -> None:
    """A share of the cancels: for what runs, for what has just ended, twice at once; and some with keys of nobody."""
    luck = random.Random(seed)
    left = CANCELS // CANCELLERS
    while left > 0 and not stop.is_set():
        client = luck.choice(clients)
        pid, key = client.wire.key
        if not client.is_asker or luck.random() < 0.2:
            forged = luck.choice([(pid, bytes(len(key))), (pid, key[:-1] + bytes([key[-1] ^ 1])), (pid + 1, key)])
            ask_to_cancel(target, client, forged)
            continue
        if luck.random() < 0.3:
            # Late: what it was meant for has most likely ended, and its server serves somebody else.
            stop.wait(luck.random() * 0.02)
        twins = [threading.Thread(target=ask_to_cancel, args=(target, client, client.wire.key)) for _ in range(2)]
        left -= 1
        for twin in twins if luck.random() < 0.3 else twins[:1]:
            twin.start()
        for twin in twins:
            if twin.ident is not None:
                twin.join()


def crowd(target: Target) -> list[Client]:
    """Clients that run statements while some of these are cancelled; returned when all cancels have been sent."""
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(target.wire()) for _ in range(CLIENTS)]
        # Half of them never ask.
        clients = [Client(i, wire, i % 2 == 0, random.Random(SEED + i)) for i, wire in enumerate(wires)]
        stop = threading.Event()
        runners = [threading.Thread(target=client.run, args=(stop,)) for client in clients]
        senders = [
            threading.Thread(target=cancel_at_random, args=(target, clients, SEED * 2 + i, stop))
            for i in range(CANCELLERS)
        ]
        for thread in (*runners, *senders):
            thread.start()
        try:
            deadline = time.monotonic() + END_S
            for sender in senders:
                sender.join(max(0.0, deadline - time.monotonic()))
            assert not any(sender.is_alive() for sender in senders), "the cancels take too long"
        finally:
            stop.set()
            for thread in (*runners, *senders):
                thread.join()
    return clients


def assert_none_was_hit_that_did_not_ask(clients: list[Client]) -> None:
    """Every statement was answered, or was cancelled within a cancel of its own client."""
    assert [fault for client in clients for fault in client.faults] == []
    innocent = [client for client in clients if not client.is_asker]
    assert [client.number for client in innocent if client.cancelled] == [], "they did not ask"
    for client in clients:
        for began, ended in client.cancelled:
            assert any(sent <= ended and began <= done for sent, done in client.asked), "asked for another statement"


def assert_enough_was_hit(clients: list[Client]) -> None:
    """Enough was running to be hit, and enough was hit."""
    total = sum((client.outcomes for client in clients), Counter[str]())
    assert set(total) <= {"answered", "57014", "25P02"}
    assert total["57014"] >= CANCELS // 20, total
    assert all(client.count > 5 for client in clients), total


def sections(server: Postgres, variant: Variant) -> dict[str, Any]:
    """One pool, and no end to keys of nobody."""
    found = configuration(server, variant, databases={"app": {"pool_size": SERVERS}})
    return {**found, "limits": {**found.get("limits", {}), "cancel_misses_max": 0}}


@pytest.mark.variants("uring-2", "uring-1", "epoll-2")
def test_no_statement_is_cancelled_that_nobody_asked_for(start: Start, server: Postgres, variant: Variant) -> None:
    """A cancel that hits another client's statement is data lost for no reason that anyone could find."""
    clients = crowd(start(sections(server, variant)).target)
    assert_none_was_hit_that_did_not_ask(clients)
    assert_enough_was_hit(clients)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.variants("epoll-2")
def test_a_cancel_that_hits_who_has_the_server_next_is_found(start: Start, server: Postgres, variant: Variant) -> None:
    """Were it not, eight hundred cancels that hit nobody would say nothing."""
    site = planted.build().resolve()
    environment = {"PYTHONPATH": str(site), "FOREBAY_PLANT": "cancel-to-wrong-client"}
    forebay = start(sections(server, variant), environment=environment)
    clients = crowd(forebay.target)
    assert "planted cancel-to-wrong-client;" in forebay.log_path.read_text()
    # It does not have to end in order.
    forebay.kill()
    with pytest.raises(AssertionError, match=r"they did not ask|asked for another statement"):
        assert_none_was_hit_that_did_not_ask(clients)
