"""Clients that share the suite's pool, so that its connections are handed from client to client all the time.

A suite often has one connection open at a time; alone in a pool it would keep the same server, and nothing would be
seen of what forebay does between transactions. Neighbours take the servers in between, with settings that would spoil
any suite if they leaked, and check in every transaction that they find their own again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from tests.harness.target import Target

# What each of them sets; {} is its number.
SETTINGS = {
    "TimeZone": "Etc/GMT+{}",
    "search_path": "neighbour_{}",
    "DateStyle": "German, DMY",
    "IntervalStyle": "iso_8601",
    "bytea_output": "escape",
    "extra_float_digits": "-{}",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "repeatable read",
    "statement_timeout": "5{}s",
    "application_name": "neighbour {}",
    "neighbour.number": "{}",
}
QUESTION = "select " + ", ".join(f"current_setting('{name}')" for name in SETTINGS)

# Between two transactions of one of them: the suite is to find its servers taken, and the machine not.
PAUSE_S = 0.01

# What is told of at most.
WRONGS_MAX = 10


@dataclass
class Neighbours:
    """transactions: how many they ran. wrongs: what they found that was not theirs."""

    transactions: int = 0
    reconnects: int = 0
    wrongs: list[str] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)

    async def live(self, target: Target, number: int) -> None:
        """One of them. A suite may end its server or take all of them: then it comes again."""
        while not self._end.is_set():
            try:
                async with await psycopg.AsyncConnection.connect(target.dsn(), autocommit=True) as connection:
                    await self._work(connection, number)
            except psycopg.Error:
                self.reconnects += 1
                await asyncio.sleep(0.05)

    async def _work(self, connection: psycopg.AsyncConnection[tuple[str, ...]], number: int) -> None:
        expected = tuple(value.format(number) for value in SETTINGS.values())
        for name, value in zip(SETTINGS, expected, strict=True):
            await connection.execute("select set_config(%s, %s, false)", (name, value))
        while not self._end.is_set():
            async with connection.transaction():
                cursor = await connection.execute(QUESTION, prepare=True)
                found = await cursor.fetchone()
            self.transactions += 1
            if found != expected and len(self.wrongs) < WRONGS_MAX:
                self.wrongs.append(f"neighbour {number} found {found}, not {expected}")
            await asyncio.sleep(PAUSE_S)

    def end(self) -> None:
        """They leave after the transaction they are in."""
        self._end.set()


@contextmanager
def living(target: Target, count: int) -> Iterator[Neighbours]:
    """They are there for as long as the block lasts, in a thread of their own."""
    neighbours = Neighbours()

    async def together() -> None:
        await asyncio.gather(*(neighbours.live(target, number + 1) for number in range(count)))

    thread = threading.Thread(target=lambda: asyncio.run(together()), name="neighbours")
    thread.start()
    try:
        yield neighbours
    finally:
        neighbours.end()
        thread.join()
