"""Counters of the engine, and averages over the last period, as PgBouncer computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import msgspec

PERIOD_S: Final = 60.0


class PoolCounters(msgspec.Struct, frozen=True):
    """Totals of a pool since the start, summed over workers; times in microseconds.

    refusals: errors of forebay's own, by code. server_errors: by the class of their SQLSTATE.
    """

    database: str
    user: str
    assignments: int
    transactions: int
    requests: int
    received_bytes: int
    sent_bytes: int
    transaction_us: int
    request_us: int
    wait_us: int
    client_parses: int
    server_parses: int
    binds: int
    logins: int
    waiting: int = 0
    servers_active: int = 0
    refusals: dict[str, int] = {}
    server_errors: dict[str, int] = {}


class WorkerCounters(msgspec.Struct, frozen=True):
    """Totals of a worker since the start; clients: those open now.

    io_calls are system calls for connections, copied_bytes what went from one buffer of ours to another, lent_servers
    those that other workers were given.
    """

    clients: int
    transactions: int
    requests: int
    loop_turns: int
    io_calls: int
    copied_bytes: int
    lent_servers: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the pools of one database, or over all; PgBouncer's names."""

    server_assignment_count: int = 0
    xact_count: int = 0
    query_count: int = 0
    received: int = 0
    sent: int = 0
    xact_time: int = 0
    query_time: int = 0
    wait_time: int = 0
    client_parse_count: int = 0
    server_parse_count: int = 0
    bind_count: int = 0
    client_login_count: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(*(a + b for a, b in zip(self.values(), other.values(), strict=True)))

    def values(self) -> tuple[int, ...]:
        """The figures in the order of PgBouncer's columns."""
        return tuple(getattr(self, field.name) for field in fields(self))


# Stands for the pools that were forgotten.
REST: Final = "*"
NAMES: Final = tuple(field.name for field in fields(Totals))


def decode(text: bytes | str) -> list[PoolCounters]:
    """The engine's counters."""
    return msgspec.json.decode(text, type=list[PoolCounters])


def decode_workers(text: bytes | str) -> list[WorkerCounters]:
    """The engine's counters of its workers."""
    return msgspec.json.decode(text, type=list[WorkerCounters])


def by_database(pools: Sequence[PoolCounters]) -> dict[str, Totals]:
    """Sums over each database's pools, in the order of the names."""
    sums: dict[str, Totals] = {}
    for pool in sorted(pools, key=lambda pool: pool.database):
        part = Totals(
            server_assignment_count=pool.assignments,
            xact_count=pool.transactions,
            query_count=pool.requests,
            received=pool.received_bytes,
            sent=pool.sent_bytes,
            xact_time=pool.transaction_us,
            query_time=pool.request_us,
            wait_time=pool.wait_us,
            client_parse_count=pool.client_parses,
            server_parse_count=pool.server_parses,
            bind_count=pool.binds,
            client_login_count=pool.logins,
        )
        sums[pool.database] = sums.get(pool.database, Totals()) + part
    return sums


def average(now: Totals, before: Totals, seconds: float) -> Totals:
    """What happened between two samples, a second; times of transactions and queries are per transaction and query.

    Source: PgBouncer's SHOW STATS, where avg_wait_time is per second and avg_xact_time per transaction.
    """
    if seconds <= 0:
        return Totals()
    # Of pools that were forgotten meanwhile there is less than before.
    differences = (max(0, a - b) for a, b in zip(now.values(), before.values(), strict=True))
    gone = dict(zip(NAMES, differences, strict=True))
    rates = {name: int(count / seconds) for name, count in gone.items()}
    rates["xact_time"] = gone["xact_time"] // gone["xact_count"] if gone["xact_count"] else 0
    rates["query_time"] = gone["query_time"] // gone["query_count"] if gone["query_count"] else 0
    return Totals(**rates)


class Averages:
    """Averages over the last whole period; until one has passed, since the start.

    The owner calls `sample` once a period.
    """

    def __init__(self, *, started_s: float) -> None:
        self._samples: list[tuple[float, dict[str, Totals]]] = [(started_s, {})]

    def sample(self, totals: dict[str, Totals], *, now_s: float) -> None:
        """Ends a period."""
        self._samples = [self._samples[-1], (now_s, totals)]

    def of(self, totals: dict[str, Totals], *, now_s: float) -> dict[str, Totals]:
        """Averages for each database of `totals`."""
        latest = self._samples[-1] if len(self._samples) == 2 else (now_s, totals)
        since, before = self._samples[0]
        seconds = latest[0] - since
        # What a database that was forgotten had counted is in the rest.
        moved = sum((before[name] for name in before if name not in latest[1]), Totals())
        before = {**before, REST: before.get(REST, Totals()) + moved}
        return {name: average(latest[1].get(name, Totals()), before.get(name, Totals()), seconds) for name in totals}
