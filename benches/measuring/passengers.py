"""Clients that stay while the pooler under them is replaced: `passengers.py PORT CLIENTS RATE`.

Half of them are in one transaction all along, a quarter speak TLS (half of these in transactions), one in twenty is in
the middle of a COPY, one in fifty has a temporary table and with it a server of its own. All write a row with each
request, RATE requests a second in all, each client in its turn; how long a request took counts from when it was due.
Says `ready` when all are. At `tell` on its standard input it says what was seen since the last time as a line of JSON;
at `end` all end what they are in, what each wrote is counted, and it says what was lost or is there twice.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measuring.idle_clients import SSL_REQUEST
from measuring.line import message, query, refusal, startup
from measuring.processes import raise_nofile

PLAIN, TRANSACTION, COPY, PINNED = "plain", "transaction", "copy", "pinned"
TABLES = (
    "CREATE TABLE IF NOT EXISTS voyage (client int, turn int); "
    "CREATE TABLE IF NOT EXISTS freight (client int, turn int)"
)
BEGINS = {
    PLAIN: "SELECT 1",
    TRANSACTION: "BEGIN",
    COPY: "COPY freight FROM STDIN",
    PINNED: "CREATE TEMP TABLE mine (turn int)",
}
# How late this process itself is, looked at so often.
TICK_S = 0.002
LOGIN_TOGETHER = 20


@dataclass
class Seen:
    """What the clients saw since it was last told. Seconds."""

    took: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def last_row(value: str) -> bytes:
    """A row of this one value, and the completion behind it."""
    return len(value).to_bytes(4) + value.encode() + b"C"


class Passenger:
    """One client."""

    def __init__(self, number: int, clients: int) -> None:
        self.number, self.turn = number, 0
        self.is_encrypted = number % 4 < 2 and number < clients // 2
        self.kind = TRANSACTION if number % 2 else PLAIN
        if self.kind == PLAIN and number >= clients // 2:
            place = (number - clients // 2) // 2
            self.kind = COPY if place < clients // 20 else PINNED if place < clients // 20 + clients // 50 else PLAIN

    async def come(self, port: int, context: ssl.SSLContext) -> None:
        """Logs in, and begins what it stays in."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        if self.is_encrypted:
            self._writer.write(SSL_REQUEST)
            if await self._reader.readexactly(1) != b"S":
                raise RuntimeError("no TLS")
            await self._writer.start_tls(context, server_hostname="localhost")
        self._writer.write(startup({"application_name": f"passenger {self.number}"}))
        await self._until(b"Z")
        await self.ask(BEGINS[self.kind], until=b"G" if self.kind == COPY else b"Z")

    async def _until(self, kind: bytes) -> bytes:
        """Reads up to a message of that kind. Raises RuntimeError where an error comes first."""
        got = b""
        while True:
            head = await self._reader.readexactly(5)
            got += head + await self._reader.readexactly(int.from_bytes(head[1:]) - 4)
            if head[:1] == kind:
                return got
            if head[:1] == b"E":
                raise RuntimeError(refusal(got) or repr(got))

    async def ask(self, sql: str, until: bytes = b"Z") -> bytes:
        """One request and its answer."""
        self._writer.write(query(sql))
        return await self._until(until)

    async def work(self) -> None:
        """One row more."""
        self.turn += 1
        if self.kind == COPY:
            self._writer.write(message("d", f"{self.number}\t{self.turn}\n".encode()))
            await self._writer.drain()
            return
        first, rows = "", f"VALUES ({self.number}, {self.turn})"
        if self.kind == PINNED:
            first = f"WITH own AS (INSERT INTO mine VALUES ({self.turn}) RETURNING turn) "
            rows = f"SELECT {self.number}, turn FROM own"
        word = f"{self.number}:{self.turn}"
        answer = await self.ask(f"{first}INSERT INTO voyage {rows} RETURNING client || ':' || turn")
        if last_row(word) not in answer or answer[-1:] != (b"T" if self.kind == TRANSACTION else b"I"):
            raise RuntimeError(f"{word}: {answer!r}")

    async def leave(self) -> None:
        """Ends what it is in. Raises RuntimeError where a row of the temporary table is missing."""
        if self.kind == COPY:
            self._writer.write(message("c", b""))
            await self._until(b"Z")
        elif self.kind == TRANSACTION:
            await self.ask("COMMIT")
        elif self.kind == PINNED:
            answer = await self.ask("SELECT count(*) FROM mine")
            if last_row(str(self.turn)) not in answer:
                raise RuntimeError(f"rows of a temporary table are missing: {answer!r}")


class Voyage:
    """All of them."""

    def __init__(self, port: int, clients: int, rate: float) -> None:
        self._port, self._period = port, clients / rate
        self._all = [Passenger(number, clients) for number in range(clients)]
        self._seen = Seen()
        self._is_over = False

    async def _sail(self, passenger: Passenger, start: float) -> None:
        due = start + self._period * passenger.number / len(self._all)
        while not self._is_over:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            try:
                await passenger.work()
            except (RuntimeError, OSError, EOFError) as error:
                self._seen.errors.append(f"{passenger.kind} {passenger.number}: {error!r}"[:200])
                return
            if passenger.kind != COPY:
                self._seen.took.append(time.monotonic() - due)
            due += self._period

    async def _watch_oneself(self) -> None:
        while not self._is_over:
            due = time.monotonic() + TICK_S
            await asyncio.sleep(TICK_S)
            self._seen.late.append(time.monotonic() - due)

    def _tell(self) -> None:
        seen, self._seen = self._seen, Seen()
        took, late = sorted(seen.took), sorted(seen.late)

        def part(values: list[float], of: float) -> float:
            return round(values[min(len(values) - 1, int(len(values) * of))] * 1e3, 2) if values else 0.0

        row = {"requests": len(took), "errors": seen.errors[:10], "failed": len(seen.errors)}
        row |= {f"{name}_ms": part(took, of) for name, of in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1))}
        print(json.dumps(row | {"late_p99_ms": part(late, 0.99), "late_max_ms": part(late, 1)}), flush=True)

    async def _all_come(self) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        at_once = asyncio.Semaphore(LOGIN_TOGETHER)

        async def one(passenger: Passenger) -> None:
            async with at_once:
                await passenger.come(self._port, context)

        await asyncio.gather(*map(one, self._all))

    async def _count(self, asked: Passenger) -> dict[str, int]:
        """Rows that are there, once each, of those acknowledged."""
        wanted = sum(p.turn for p in self._all if p.kind != COPY), sum(p.turn for p in self._all if p.kind == COPY)
        found = {}
        for table, number in zip(("voyage", "freight"), wanted, strict=True):
            text = f"SELECT 'rows=' || count(*) || ',' || count(DISTINCT (client, turn)) || ';' FROM {table}"
            rows, once = (await asked.ask(text)).split(b"rows=")[1].split(b";")[0].split(b",")
            found |= {f"{table}_wanted": number, f"{table}_rows": int(rows), f"{table}_once": int(once)}
        return found

    async def run(self) -> None:
        """From the first login to the count."""
        await self._all_come()
        print("ready", flush=True)
        start = time.monotonic()
        tasks = [asyncio.ensure_future(self._sail(passenger, start)) for passenger in self._all]
        watch = asyncio.ensure_future(self._watch_oneself())
        while (await asyncio.to_thread(sys.stdin.readline)).strip() == "tell":
            self._tell()
        self._is_over = True
        await asyncio.gather(*tasks, watch)
        left = await asyncio.gather(*(p.leave() for p in self._all), return_exceptions=True)
        failed = [repr(one) for one in left if one is not None]
        plain = next(p for p in self._all if p.kind == PLAIN)
        print(json.dumps({"leaving": failed[:10], **await self._count(plain)}), flush=True)


def main() -> None:
    """Runs them all."""
    raise_nofile()
    port, clients, rate = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    asyncio.run(Voyage(port, clients, rate).run())


if __name__ == "__main__":
    main()
