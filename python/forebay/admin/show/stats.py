"""SHOW STATS, SHOW STATS_TOTALS and SHOW STATS_AVERAGES."""

from __future__ import annotations

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show
from forebay.observe.stats import Totals


async def stats(backend: Backend) -> list[tuple[Value, ...]]:
    """Totals and averages of each database."""
    averages = backend.averages()
    return [
        (database, *totals.values(), *averages.get(database, Totals()).values())
        for database, totals in backend.totals().items()
    ]


async def stats_totals(backend: Backend) -> list[tuple[Value, ...]]:
    """Totals of each database."""
    return [(database, *totals.values()) for database, totals in backend.totals().items()]


async def stats_averages(backend: Backend) -> list[tuple[Value, ...]]:
    """Averages of each database."""
    return [(database, *averages.values()) for database, averages in backend.averages().items()]


STATS = show("stats", stats, role=Role.VIEWER)
STATS_TOTALS = show("stats_totals", stats_totals, role=Role.VIEWER)
STATS_AVERAGES = show("stats_averages", stats_averages, role=Role.VIEWER)
