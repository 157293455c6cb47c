"""Plots of published results, as SVG files that are the same for the same results."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

from measuring.report import Row, calm_windows
from measuring.tables import paired

# Goals of forebay for its CPU over the base pooler's; drawn as a mark.
GOALS = {
    "select": 0.70, "extended": 0.72, "prepared": 0.62, "tpcb": 0.75, "many": 0.60, "wide": 0.25, "huge": 0.22,
    "connect": 0.75, "connect-scram": 0.70, "connect-tls": 0.65,
}  # fmt: skip
COLOURS = {
    "forebay": "#0b6e4f", "forebay-epoll": "#6bbf9c", "pgbouncer": "#555555", "odyssey": "#c7752b",
    "pg_doorman": "#7a5ea8",
}  # fmt: skip
OTHER = "#9aa5b1"


def draw(results: Path, folder: Path, *, base: str, quiet: float) -> None:
    """Writes every plot that there are results for."""
    mpl.use("svg")
    # Without these a file differs each time it is written.
    mpl.rcParams.update({"svg.hashsalt": "forebay", "svg.fonttype": "none", "font.size": 9})
    folder.mkdir(parents=True, exist_ok=True)
    transactions = results / "transactions.jsonl"
    if transactions.exists():
        rows = [json.loads(line) for line in transactions.read_text(encoding="utf-8").splitlines()]
        _ratios(rows, folder / "cpu.svg", base, quiet)
    idle = results / "idle.jsonl"
    if idle.exists():
        rows = [json.loads(line) for line in idle.read_text(encoding="utf-8").splitlines()]
        _idle([row for row in rows if row.get("idle")], folder / "idle.svg")


def _ratios(rows: list[Row], path: Path, base: str, quiet: float) -> None:
    """A pooler's CPU a transaction over the base's, by workload: medians, with least and most as whiskers."""
    for at, row in enumerate(rows):
        row["at"] = at
    found = calm_windows(rows, quiet)
    workloads = [name for name in found if base in found[name]]
    poolers = [name for name in COLOURS if any(name in found[workload] for workload in workloads)]
    figure, axes = plt.subplots(figsize=(9.5, 4.2))
    width = 0.8 / len(poolers)
    for number, pooler in enumerate(poolers):
        for place, workload in enumerate(workloads):
            mine = found[workload].get(pooler)
            if not mine:
                continue
            ratios = [1.0] if pooler == base else paired(mine, found[workload][base])
            middle = statistics.median(ratios)
            x = place - 0.4 + width * (number + 0.5)
            label = pooler if workload == workloads[0] else None
            axes.bar(x, middle, width * 0.92, color=COLOURS[pooler], label=label)
            spread = [[middle - min(ratios)], [max(ratios) - middle]]
            axes.errorbar(x, middle, yerr=spread, color="black", linewidth=0.7, capsize=1.5)
    for place, workload in enumerate(workloads):
        if workload in GOALS:
            label = "goal" if place == 0 else None
            axes.hlines(GOALS[workload], place - 0.42, place + 0.42, color="#b00020", linewidth=1.2, label=label)
    axes.set_xticks(range(len(workloads)), [name.replace("-", "-\n") for name in workloads])
    axes.set_ylabel(f"CPU a transaction ÷ {base}")
    axes.set_ylim(0, 2.75)
    axes.legend(ncols=len(poolers) + 1, loc="upper center", frameon=False)
    _save(figure, path)


def _idle(rows: list[Row], path: Path) -> None:
    """Bytes that an idle client adds, by pooler."""
    poolers = list(dict.fromkeys(row["pooler"] for row in rows))
    middles = [statistics.median(row["per_open"] for row in rows if row["pooler"] == pooler) for pooler in poolers]
    figure, axes = plt.subplots(figsize=(6, 0.5 + 0.35 * len(poolers)))
    axes.barh(poolers, middles, color=[COLOURS.get(pooler, OTHER) for pooler in poolers])
    for place, middle in enumerate(middles):
        axes.text(middle, place, f" {middle:,.0f}", va="center")
    axes.set_xscale("log")
    axes.set_xlabel("bytes that an idle client adds (logarithmic)")
    axes.invert_yaxis()
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
