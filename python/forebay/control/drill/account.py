"""What forebay itself says that a failover may have lost: SHOW FAILOVERS, of those since the drill's fault."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from forebay.control import console_link
from forebay.control.drill.report import Account
from forebay.failure import Failure

# Its figures are one line of many.
ANSWER_S: Final = 5.0


def ask(console: Mapping[str, Any], database: str, since_s: float) -> Account:
    """console: libpq's parameters. since_s: the fault began as long ago."""
    try:
        rows = console_link.ask(console, "SHOW FAILOVERS", within_s=ANSWER_S)
    except Failure as failure:
        return Account(None, None, failure.message)
    return account_of(row for row in rows if row["database"] == database and row["age_ms"] <= since_s * 1000)


def account_of(rows: Iterable[Mapping[str, Any]]) -> Account:
    """Of one after the other: bytes add up, and the longest time counts."""
    found = list(rows)
    if not found:
        return Account(None, None, "forebay has seen no change of the primary")
    counts, times = [row["missing_bytes"] for row in found], [row["missing_ms_max"] for row in found]
    return Account(
        None if None in counts else sum(counts),
        None if None in times else max(times) / 1000,
        "; then ".join(str(row["reason"]) for row in found),
    )
