"""SHOW TOTALS."""

from __future__ import annotations

from typing import Final

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show
from forebay.observe.stats import NAMES, Totals

# Where PgBouncer's name of a row differs from that of the counter.
_RENAMED: Final = {"received": "client_bytes", "sent": "server_bytes"}


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each figure, summed over all databases."""
    whole = sum(backend.totals().values(), Totals())
    mean = sum(backend.averages().values(), Totals())
    table: list[tuple[Value, ...]] = []
    for prefix, figures in (("total", whole), ("avg", mean)):
        for name, value in zip(NAMES, figures.values(), strict=True):
            table.append((f"{prefix}_{_RENAMED.get(name, name)}", value))
    return table


COMMAND = show("totals", rows, role=Role.VIEWER)
