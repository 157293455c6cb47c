"""Tables in Markdown from the rows of a results file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]

# Rows per pooler and workload that suffice; louder ones are left out beyond them.
ROWS_MIN = 3
WINDOW_HEAD = (
    "| pooler | n | CPU µs/txn, median (min–max) | ÷ {base}, paired (min–max) | TPS, median (min–max) | ÷ {base} "
    "| p50 ms | p99 ms | PG CPU µs/txn | PSS MiB | foreign |\n|---|---|---|---|---|---|---|---|---|---|---|"
)
IDLE_HEAD = (
    "| pooler | n | clients | base MiB | bytes/client open | bytes/client after one query "
    "| MiB left after all went | idle CPU µs/s |\n|---|---|---|---|---|---|---|---|"
)


def median_min_max(values: Iterable[float], digits: int = 1) -> str:
    """As in `12.1 (11.9–12.6)`."""
    xs = list(values)
    return f"{statistics.median(xs):.{digits}f} ({min(xs):.{digits}f}–{max(xs):.{digits}f})"


def paired(rows: list[Row], bases: list[Row]) -> list[float]:
    """Each row's CPU over that of the base pooler's nearest window: the machine's own drift cancels."""
    nearest = [min(bases, key=lambda base: abs(base["at"] - row["at"])) for row in rows]
    return [row["cpu_us"] / base["cpu_us"] for row, base in zip(rows, nearest, strict=True)]


def calm_windows(rows: list[Row], quiet: float) -> dict[str, dict[str, list[Row]]]:
    """By workload and pooler: windows in which others used at most `quiet` cores, or the three quietest."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if "cpu_us" in row:
            found.setdefault(row["workload"], {}).setdefault(row["pooler"], []).append(row)
    for by_pooler in found.values():
        for pooler, mine in by_pooler.items():
            calm = [row for row in mine if row["foreign"] <= quiet]
            enough = len(calm) >= ROWS_MIN
            by_pooler[pooler] = calm if enough else sorted(mine, key=lambda row: row["foreign"])[:ROWS_MIN]
    return found


def window_line(pooler: str, rows: list[Row], base: str, bases: list[Row] | None) -> str:
    """A pooler's line in a workload's table."""
    median = {
        name: statistics.median(row[name] for row in rows)
        for name in ("tps", "p50_us", "p99_us", "pg_us", "pss_kib", "foreign")
    }
    cpu, cpu_ratio, tps_ratio = median_min_max(row["cpu_us"] for row in rows), "–", "–"
    if pooler == "direct":
        cpu = "–"
    if bases:
        tps_ratio = f"{median['tps'] / statistics.median(row['tps'] for row in bases):.2f}"
        if pooler not in ("direct", base):
            cpu_ratio = median_min_max(paired(rows, bases), 2)
    return (
        f"| {pooler} | {len(rows)} | {cpu} | {cpu_ratio} | {median_min_max((row['tps'] for row in rows), 0)} "
        f"| {tps_ratio} | {median['p50_us'] / 1000:.2f} | {median['p99_us'] / 1000:.2f} | {median['pg_us']:.1f} "
        f"| {median['pss_kib'] / 1024:.1f} | {median['foreign']:.2f} |"
    )


def idle_lines(rows: list[Row]) -> list[str]:
    """The table of idle clients, if there are such rows."""
    idle: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("idle"):
            idle.setdefault(row["pooler"], []).append(row)
    lines = ["", "### idle clients", "", IDLE_HEAD] if idle else []
    for pooler, mine in idle.items():
        median = {
            name: statistics.median(row[name] for row in mine)
            for name in ("base_kib", "after_kib", "idle_cpu_us_per_s")
        }
        lines.append(
            f"| {pooler} | {len(mine)} | {mine[0]['clients']} | {median['base_kib'] / 1024:.1f} "
            f"| {median_min_max((row['per_open'] for row in mine), 0)} "
            f"| {median_min_max((row['per_used'] for row in mine), 0)} "
            f"| {median['after_kib'] / 1024:.1f} | {median['idle_cpu_us_per_s']:.0f} |"
        )
    return lines


def report(path: Path, base: str, quiet: float) -> str:
    """Tables in Markdown: one a workload, one of idle clients, and what failed; n counts the rows used."""
    rows: list[Row] = [json.loads(line) for line in path.read_text().splitlines()]
    for at, row in enumerate(rows):
        row["at"] = at
    lines: list[str] = []
    for workload, by_pooler in calm_windows(rows, quiet).items():
        lines += ["", f"### {workload}", "", WINDOW_HEAD.format(base=base)]
        bases = by_pooler.get(base)
        lines += [window_line(pooler, mine, base, bases) for pooler, mine in by_pooler.items()]
    lines += idle_lines(rows)
    failed = {f"failed: {row['pooler']} {row['workload']} {row['failed'][-160:]!r}" for row in rows if "failed" in row}
    lines += [line for failure in sorted(failed) for line in ("", failure)]
    return "\n".join(lines)
