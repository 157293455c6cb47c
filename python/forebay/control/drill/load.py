"""Clients that write and read at a steady rate, on a thread of their own."""

from __future__ import annotations

import heapq
import random
import selectors
import threading
import time
from collections.abc import Sequence
from typing import Final

from forebay.control.drill.client import Client, Outcome, State
from forebay.failure import Exit, Failure

# How long the loop sleeps where nothing is due and nothing comes.
LOOK_S: Final = 0.02
# Until all have logged in, and until the last answers have come.
LOGIN_S: Final = 30.0


class Load(threading.Thread):
    """conninfo: libpq's. rate: statements a second of all clients together; reads: the share of them that read."""

    def __init__(self, conninfo: bytes, *, clients: int, rate: float, reads: float) -> None:
        super().__init__(name="load", daemon=True)
        self.outcomes: list[Outcome] = []
        self.failure: BaseException | None = None
        # Of clients that had asked for nothing.
        self.sessions_lost = 0
        self._clients = [Client(conninfo, key) for key in range(clients)]
        self._period_s = clients / rate
        self._reads = reads
        # The same drill has the same statements.
        self._luck = random.Random(1)  # noqa: S311
        self._selector = selectors.DefaultSelector()
        self._due: list[tuple[float, int]] = []
        self._are_in = threading.Event()
        self._ends_at: float | None = None

    def begin(self) -> None:
        """Returns when all clients are in and at work. Raises Failure."""
        self.start()
        if not self._are_in.wait(LOGIN_S) or self.failure:
            self.end(wait_s=0)
            hint = "Check that the pooler lets in as many: max_client_conn, and files (ulimit -n)."
            raise Failure(f"{len(self._clients)} clients could not log in", hint=hint, exit=Exit.CANNOT_REACH)

    def end(self, *, wait_s: float) -> Sequence[Outcome]:
        """Sends nothing more, and waits as long for answers. Returns what came of all statements."""
        self._ends_at = time.monotonic() + wait_s
        self.join(wait_s + LOGIN_S)
        return self.outcomes

    @property
    def logins_failed(self) -> int:
        """While servers were away."""
        return sum(client.logins_failed for client in self._clients)

    def run(self) -> None:
        """Until `end`."""
        try:
            for client in self._clients:
                self._connect(client)
            while not self._is_over():
                self._turn()
        except BaseException as error:
            self.failure = error
            self._are_in.set()
        for client in self._clients:
            if outcome := client.unasked():
                self.outcomes.append(outcome)
            client.close()
        self._selector.close()

    def _is_over(self) -> bool:
        if self._ends_at is None:
            return False
        is_asking = any(client.state is State.ASKING for client in self._clients)
        return not is_asking or time.monotonic() > self._ends_at

    def _turn(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            self._take_turn(self._clients[heapq.heappop(self._due)[1]], now)
        until_due = self._due[0][0] - time.monotonic() if self._due else LOOK_S
        for key, _ in self._selector.select(max(0.0, min(LOOK_S, until_due))):
            self._ready(key.data)

    def _take_turn(self, client: Client, now: float) -> None:
        if client.state is State.CLOSED:
            self._connect(client)
        elif client.state is State.IDLE and self._ends_at is None:
            before = client.fileno()
            if outcome := client.ask(self._luck.random() >= self._reads, now):
                self._note(client, outcome, before)

    def _ready(self, client: Client) -> None:
        if client.state is State.CONNECTING:
            self._goes_on(client)
        elif client.state is State.ASKING:
            before = client.fileno()
            if outcome := client.hear():
                self._note(client, outcome, before)
        elif client.state is State.IDLE:
            before = client.fileno()
            if not client.is_there():
                self._forget(before)
                self.sessions_lost += 1
                if not self._are_in.is_set():
                    self._wait(client, time.monotonic())

    def _note(self, client: Client, outcome: Outcome, before: int) -> None:
        self.outcomes.append(outcome)
        if client.state is State.CLOSED:
            self._forget(before)
            self._wait(client, time.monotonic())
        else:
            self._wait(client, outcome.sent + self._period_s)

    def _wait(self, client: Client, due: float) -> None:
        heapq.heappush(self._due, (max(due, client.due), client.key))

    def _connect(self, client: Client) -> None:
        client.connect()
        self._selector.register(client.fileno(), selectors.EVENT_WRITE, client)

    def _goes_on(self, client: Client) -> None:
        before = client.fileno()
        is_writing = client.goes_on_connecting()
        if client.state is State.CLOSED:
            self._forget(before)
            self._wait(client, client.due)
            return
        # It may be another socket, and have the number of the one before.
        self._forget(before)
        self._selector.register(client.fileno(), selectors.EVENT_WRITE if is_writing else selectors.EVENT_READ, client)
        if client.state is not State.IDLE:
            return
        if self._are_in.is_set():
            self._begins(client)
        elif all(each.state is State.IDLE for each in self._clients):
            # Nobody begins before: a statement would wait while this thread computes the others' logins.
            for each in self._clients:
                self._begins(each)
            self._are_in.set()

    def _begins(self, client: Client) -> None:
        self._wait(client, time.monotonic() + self._luck.random() * self._period_s)

    def _forget(self, descriptor: int) -> None:
        if descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)
