"""SHOW WORKERS."""

from __future__ import annotations

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show
from forebay.observe.stats import WorkerCounters


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each worker, the first is 0."""
    return [row(number, worker) for number, worker in enumerate(backend.workers())]


def row(number: int, worker: WorkerCounters) -> tuple[Value, ...]:
    """Totals, then the last four of them for each transaction; NULL before the first one."""
    costs = (worker.loop_turns, worker.io_calls, worker.copied_bytes, worker.lent_servers)
    each = [f"{cost / worker.transactions:.3f}" if worker.transactions else None for cost in costs]
    return (number, worker.clients, worker.transactions, worker.requests, *costs, *each)


COMMAND = show("workers", rows, role=Role.VIEWER)
