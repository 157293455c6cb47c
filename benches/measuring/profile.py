"""Where a pooler's CPU goes under a workload: perf's samples as a flame graph, and the functions that take most."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from measuring.pooler import NotOffered, Pooler
from measuring.programs import CACHE
from measuring.window import Bench

SAMPLES_HZ = 997
# Of each sample's stack, to be unwound by what the debug information says.
STACK_BYTES = 8192
SHOWN = 20
# Folds the stacks and draws the graph. Its licence is CDDL-1.0: a program of its own, no part of what is shipped.
INFERNO = "0.12.8"

Recorded = tuple[None, tuple[float, float]]


def run(bench: Bench, *, poolers: list[str], workload: str, seconds: float, folder: Path) -> None:
    """Records each pooler once: NAME-WORKLOAD.svg and .folded in the folder, a summary on the terminal."""
    if not shutil.which("perf"):
        raise SystemExit("a profile needs perf (apt-get install linux-perf) and the right to use it")
    tools = inferno()
    folder.mkdir(parents=True, exist_ok=True)
    for name in poolers:
        data = folder / f"{name}-{workload}.perf"
        try:
            row = bench.measure(name, workload, seconds, recorder(data))
        except (RuntimeError, NotOffered) as error:
            data.unlink(missing_ok=True)
            print(f"{name:16} FAILED {error}", flush=True)
            continue
        folded = fold(data, tools)
        data.unlink()
        data.with_suffix(".folded").write_text(folded)
        title = f"{name}, {workload}: {row['cpu_us']:.1f} µs of CPU a transaction"
        graph = subprocess.run([tools / "inferno-flamegraph", "--title", title, "--hash"], input=folded, check=True,
                               capture_output=True, text=True).stdout  # fmt: skip
        data.with_suffix(".svg").write_text(graph)
        print(summary(title, folded))
        print(f"flame graph: {data.with_suffix('.svg')}", flush=True)


def inferno() -> Path:
    """The folder of inferno's programs, built on first use."""
    tools = CACHE / "inferno"
    if not (tools / "bin" / "inferno-flamegraph").exists():
        print("building inferno", flush=True)
        subprocess.run(
            ["cargo", "install", "--quiet", "--locked", "--root", tools, "--version", INFERNO, "inferno"], check=True
        )
    return tools / "bin"


def recorder(data: Path) -> Callable[[Pooler, float], Recorded]:
    """What records a pooler for so many seconds into a file of perf's."""

    def record(pooler: Pooler, seconds: float) -> Recorded:
        if not pooler.group:
            raise NotOffered("PostgreSQL alone is no pooler")
        pids = ",".join(map(str, pooler.group.pids()))
        argv = ["perf", "record", "-q", "-F", str(SAMPLES_HZ), "--call-graph", f"dwarf,{STACK_BYTES}", "-p", pids,
                "-o", str(data), "--", "sleep", str(seconds)]  # fmt: skip
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
        end = time.time()
        if done.returncode or not data.exists():
            raise SystemExit(f"perf record failed: {done.stderr.strip()[-500:]}")
        return None, (end - seconds, end)

    return record


def fold(data: Path, tools: Path) -> str:
    """Stacks with what was sampled in them, a line each; frames of the kernel end in _[k]."""
    script = subprocess.run(
        ["perf", "script", "--no-inline", "-i", data], check=True, capture_output=True, text=True, errors="replace"
    ).stdout
    return subprocess.run(
        [tools / "inferno-collapse-perf", "--kernel"], input=script, check=True, capture_output=True, text=True
    ).stdout


def summary(title: str, folded: str) -> str:
    """The kernel's share, and the functions of the pooler that take most themselves, as parts of all."""
    leaves: Counter[str] = Counter()
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        leaves[stack.rpartition(";")[2]] += int(count)
    total = max(sum(leaves.values()), 1)
    kernel = sum(count for leaf, count in leaves.items() if leaf.endswith("_[k]"))
    lines = [f"{title}, {kernel / total:.0%} of it in the kernel"]
    own = [(leaf, count) for leaf, count in leaves.most_common() if not leaf.endswith("_[k]")]
    lines += [f"{count / total:6.1%}  {leaf}" for leaf, count in own[:SHOWN]]
    return "\n".join(lines)
