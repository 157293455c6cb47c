"""Clients that write down what they were told, so that afterwards it can be compared with what is in the database."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from dataclasses import dataclass, field

from tests.harness.target import Target
from tests.harness.wire import Gone, Wire, bind, execute, parse, query, row, sync


@dataclass
class Ledger:
    """What clients know of their keys."""

    committed: set[int] = field(default_factory=set)
    # With the statement that failed, and how.
    failed: dict[int, str] = field(default_factory=dict)
    unknown: set[int] = field(default_factory=set)
    # SQLSTATEs seen, and connections lost.
    codes: dict[str, int] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)
    served: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, code: str) -> None:
        """Counts an outcome."""
        with self.lock:
            self.codes[code] = self.codes.get(code, 0) + 1


class Clients:
    """Threads that insert unique keys in transactions of one to three statements, and check that answers are theirs.

    first: the number of the first one; those of others that write to the same table must have others.
    """

    def __init__(self, target: Target, count: int, *, seed: int = 1, first: int = 0) -> None:
        self.ledger = Ledger()
        self._stop = threading.Event()
        self._target = target
        self._threads = [
            threading.Thread(target=self._run, args=(number, random.Random(seed * 1000 + number)))
            for number in range(first, first + count)
        ]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a client never came back"

    def _run(self, number: int, luck: random.Random) -> None:
        turn = 0
        while not self._stop.is_set():
            try:
                with self._target.wire() as wire:
                    while not self._stop.is_set():
                        turn += 1
                        self._transaction(wire, number, number * 1_000_000 + turn, luck)
            except (Gone, OSError):
                self.ledger.note("closed")
                time.sleep(0.01)
            except AssertionError as refused:
                self.ledger.note("refused" if "FATAL" in str(refused) else "failed login")
                time.sleep(0.02)

    def _transaction(self, wire: Wire, number: int, key: int, luck: random.Random) -> None:
        """One key. Its fate is unknown from the moment at which what may commit it is sent."""
        insert = f"insert into ledger values ({key}, {number}) returning client || ':' || key"
        is_one = luck.random() < 0.5
        try:
            if not is_one:
                if self._errors(wire, query("begin"), None):
                    return self._end(wire)
                if told := self._errors(wire, query(insert), f"{number}:{key}"):
                    with self.ledger.lock:
                        self.ledger.failed[key] = f"insert in a transaction: {told}"
                    return self._end(wire)
            with self.ledger.lock:
                self.ledger.unknown.add(key)
            if is_one:
                codes = self._errors(wire, b"".join((parse("", insert), bind(), execute(), sync())), f"{number}:{key}")
            else:
                codes = self._errors(wire, query("commit"), None)
        except (Gone, OSError):
            raise
        if codes and codes[0] == "08007":
            return self._end(wire)
        with self.ledger.lock:
            self.ledger.unknown.discard(key)
            if codes:
                self.ledger.failed[key] = f"{'insert by itself' if is_one else 'commit'}: {codes}"
            else:
                self.ledger.committed.add(key)
            self.ledger.served += not codes
        if codes:
            self._end(wire)
        return None

    def _errors(self, wire: Wire, messages: bytes, expected: str | None) -> list[str]:
        wire.send(messages)
        frames = wire.ready()
        for frame in frames:
            if frame.tag == "D" and row(frame) != [expected]:
                with self.ledger.lock:
                    self.ledger.foreign.append(f"{row(frame)} for {expected}")
        codes = [frame.fields["C"] for frame in frames if frame.tag == "E"]
        for code in codes:
            self.ledger.note(code)
        return codes

    def _end(self, wire: Wire) -> None:
        if wire.status != "I":
            with contextlib.suppress(AssertionError):
                wire.ask(query("rollback"))

    def check(self, database: Target) -> None:
        """Compares what clients were told with what is there. Call after the clients have ended."""
        ledger = self.ledger
        assert ledger.foreign == [], ledger.foreign[:5]
        with database.wire() as wire:
            there = {int(one[0] or "") for one in wire.rows("select key from ledger")}
            wire.ask(query("truncate ledger"))
        lost = ledger.committed - there
        risen = {key: how for key, how in ledger.failed.items() if key in there}
        assert not lost, f"{len(lost)} committed keys are lost: {sorted(lost)[:5]}"
        assert not risen, f"{len(risen)} failed keys are there: {sorted(risen.items())[:5]}"
        assert there <= ledger.committed | ledger.unknown
