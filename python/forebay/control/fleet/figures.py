"""What a node tells of its fleet on /metrics, and what it counts for that. Pure.

The engine serves the figures, so that they are there while Python is busy, and sees itself whether the
lease still holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from forebay.control.fleet.allocation import Budget
from forebay.control.fleet.session import Session
from forebay.control.fleet.store import Seen

if TYPE_CHECKING:
    from forebay._engine import BudgetFigures, FleetFigures


@dataclass(slots=True)
class Counts:
    """Since the process began. changes: of budgets, by database."""

    registrations: int = 0
    failures: int = 0
    written: int = 0
    refused: int = 0
    changes: Counter[str] = field(default_factory=Counter)


def figures(
    counts: Counts,
    node: str,
    session: Session | None,
    seen: Seen | None,
    looked_at: float | None,
    systems: Mapping[str, int],
    open_of: Callable[[str], int],
) -> FleetFigures:
    """looked_at: when `seen` was read, by the monotonic clock. systems: by database. open_of: servers of one."""
    until = session.until if session is not None and not session.is_over else 0.0
    there: Collection[str] = seen.nodes if seen else ()
    records = seen.records if seen else {}
    budgets = {database: budget for database, (budget, _) in seen.budgets.items()} if seen else {}
    found: FleetFigures = {
        "until_us": _us(until), "looked_us": _us(looked_at or 0.0), "here": len(there),
        "absent": len({name for budget in budgets.values() for name in budget.parts}.difference(there, {node})),
        "registrations": counts.registrations, "failures": counts.failures, "written": counts.written,
        "refused": counts.refused,
        "primaries": [
            (database, records[system][0].endpoint, records[system][0].timeline)
            for database, system in sorted(systems.items())
            if system in records
        ],
        "budgets": [
            _budget(database, budget, node, there, open_of(database), counts.changes[database])
            for database, budget in sorted(budgets.items())
        ],
    }  # fmt: skip
    return found


def _budget(
    database: str, budget: Budget, node: str, there: Collection[str], open_: int, changes: int
) -> BudgetFigures:
    others = {name: part.lent for name, part in budget.parts.items() if name != node}
    own = budget.part(node)
    here = sum(lent for name, lent in others.items() if name in there)
    return {"database": database, "total": budget.total, "lent": (own.lent, here, sum(others.values()) - here),
            "kept": own.kept, "wanted": own.wanted, "open": open_, "changes": changes}  # fmt: skip


def _us(moment: float) -> int:
    return int(moment * 1_000_000)
