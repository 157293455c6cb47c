"""SHOW FLEET and SHOW BUDGETS."""

from __future__ import annotations

from datetime import UTC, datetime

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show
from forebay.admin.show.moment import ago


async def fleet(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each node, by its name."""
    return [(row.node, row.state, row.address, row.version, _moment(row.started), row.holds) for row in backend.fleet()]


async def budgets(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each part of each budget."""
    return [(row.database, row.budget, row.node, row.lent, row.kept, row.wanted, row.open) for row in backend.budgets()]


def _moment(at: float | None) -> str | None:
    return None if at is None else ago(datetime.fromtimestamp(at, UTC), 0)


FLEET = show("fleet", fleet, role=Role.VIEWER)
BUDGETS = show("budgets", budgets, role=Role.VIEWER)
