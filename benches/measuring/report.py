"""Tables in Markdown from the rows of a results file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from measuring.tables import (
    Row,
    beside_lines,
    bulk_lines,
    claim_lines,
    handshake_lines,
    idle_lines,
    latency_lines,
    median_min_max,
    paired,
    start_lines,
    storm_lines,
    worker_lines,
)

# Rows per pooler and workload that suffice; louder ones are left out beyond them.
ROWS_MIN = 3
WINDOW_HEAD = (
    "| pooler | n | CPU µs/txn, median (min–max) | ÷ {base}, paired (min–max) | TPS, median (min–max) | ÷ {base} "
    "| p50 ms | p99 ms | PG CPU µs/txn | PSS MiB | foreign |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def calm_windows(rows: Sequence[Row], quiet: float) -> dict[str, dict[str, list[Row]]]:
    """By workload and pooler: windows in which others used at most `quiet` cores, or the three quietest."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if "cpu_us" in row and "workload" in row and "claim" not in row:
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


def read(path: Path) -> list[Row]:
    """The rows of a results file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def report(rows: Sequence[Row], base: str, quiet: float) -> str:
    """Tables in Markdown: one a workload, those of the other orders, and what failed; n counts the rows used."""
    rows = [{**row, "at": at} for at, row in enumerate(rows)]
    lines: list[str] = []
    for workload, by_pooler in calm_windows(rows, quiet).items():
        if all(row.get("latency") for mine in by_pooler.values() for row in mine):
            lines += ["", f"### latency, {workload}", "", *latency_lines(by_pooler, base)]
            continue
        if all(row.get("workers") for mine in by_pooler.values() for row in mine):
            lines += ["", f"### one worker and two, {workload}", "", *worker_lines(by_pooler, base)]
            continue
        lines += ["", f"### {workload}", "", WINDOW_HEAD.format(base=base)]
        bases = by_pooler.get(base)
        lines += [window_line(pooler, mine, base, bases) for pooler, mine in by_pooler.items()]
    lines += idle_lines(rows) + storm_lines(rows) + beside_lines(rows) + bulk_lines(rows, base)
    lines += claim_lines(rows) + handshake_lines(rows, base) + start_lines(rows)
    failed = {f"failed: {row['pooler']} {row['workload']} {row['failed'][-160:]!r}" for row in rows if "failed" in row}
    lines += [line for failure in sorted(failed) for line in ("", failure)]
    return "\n".join(lines)
