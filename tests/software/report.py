"""What a run says: on the terminal, and as the table of a page. The last row of each piece of software is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.software.compare import Comparison
from tests.software.shape import Software
from tests.software.world import Traffic

# Differences shown on the terminal; all of them can be had from the results that are kept.
SHOWN_MAX = 60

BEGIN, END = "<!-- software -->", "<!-- /software -->"


@dataclass(frozen=True, slots=True)
class Row:
    """One piece of software in the table. seconds: both ways. explained: how many tests differ, by reason."""

    name: str
    version: str
    suite: str
    tests: int
    passed_direct: int
    passed_through: int
    explained: dict[str, int]
    unexplained: int
    clients: int
    servers: int
    transactions: int
    seconds: int

    def keep(self, folder: Path) -> None:
        """Writes it for a later table."""
        (folder / "row.json").write_text(json.dumps(asdict(self)))


def kept(folder: Path) -> Row | None:
    """The row that was written last, if there is one."""
    path = folder / "row.json"
    return Row(**json.loads(path.read_text())) if path.exists() else None


def row(software: Software, found: Comparison, traffic: Traffic, seconds: float) -> Row:
    """Of a run that has just ended."""
    return Row(
        software.name, software.version, software.suite, found.tests, found.passed_direct, found.passed_through,
        found.explained, len(found.unexplained), traffic.clients_max, software.pool_size,
        traffic.totals.get("transactions_total", 0), round(seconds),
    )  # fmt: skip


def shown(row: Row, found: Comparison, traffic: Traffic) -> str:
    """For the terminal."""
    totals = traffic.totals
    out = [
        f"{row.name} {row.version}: {row.tests} tests, {row.passed_direct} pass direct, {row.passed_through} through;"
        f" {row.clients} clients, pool of {row.servers}, {row.transactions} transactions,"
        f" {totals.get('resets_total', 0)} resets, {totals.get('pins_total', 0)} pins; {row.seconds} s"
    ]
    out += [f"  {count} differ: {reason}" for reason, count in found.explained.items()]
    out += [f"  NOT KNOWN {difference}" for difference in found.unexplained[:SHOWN_MAX]]
    if len(found.unexplained) > SHOWN_MAX:
        out.append(f"  … and {len(found.unexplained) - SHOWN_MAX} more")
    out += [f"  NO LONGER DIFFERS {test}" for test in found.stale]
    out += [f"  LEAKED {wrong}" for wrong in traffic.neighbours.wrongs]
    return "\n".join(out)


def table(rows: Sequence[Row]) -> str:
    """For a page."""
    lines = [
        "| software | what is run | tests | pass direct | pass through | clients at most, servers | what differs |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        why = [f"{count}: {reason}" for reason, count in row.explained.items()]
        why += [f"{row.unexplained}: not on the list"] if row.unexplained else []
        lines.append(
            f"| {row.name} {row.version} | {row.suite} | {row.tests:,} | {row.passed_direct:,} |"
            f" {row.passed_through:,} | {row.clients}, {row.servers} | {'; '.join(why) or 'nothing'} |"
        )
    return "\n".join(lines)


def document(page: str, rows: Sequence[Row]) -> str:
    """The page with a new table."""
    fresh = f"{BEGIN}\n{table(rows)}\n{END}"
    return re.sub(f"{BEGIN}.*?{END}", lambda _: fresh, page, flags=re.DOTALL)
