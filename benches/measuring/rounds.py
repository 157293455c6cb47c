"""Interleaved rounds: every pooler in turn, every workload, so that the machine's drift falls on all alike."""

from __future__ import annotations

from collections.abc import Callable

from measuring.pooler import NotOffered, Pooler
from measuring.tables import Row
from measuring.window import TAIL, Bench

# A window that others disturbed is measured again; so is one that failed, once.
TRIES_MAX = 3


def run(
    bench: Bench, *, poolers: list[str], workloads: list[str], rounds: int, seconds: float, quiet: float, rate: int = 0,
    marks: Row | None = None,
) -> None:  # fmt: skip
    """Measures and records all. A pooler that fails in the first round is left out of the workload's others.

    rate: transactions a second that are due; 0: as many as it can. marks: what each row is given besides.
    """
    for workload in workloads:
        left_out: set[str] = set()
        for number in range(rounds):
            for name in poolers:
                if name in left_out:
                    continue
                try:
                    row = _calm_row(bench, name, workload, number, seconds, quiet, rate, marks or {})
                except NotOffered as error:
                    left_out.add(name)
                    print(f"{workload:14} {error}", flush=True)
                    continue
                if row:
                    bench.record(round=number, **row)
                    print(line(row, number), flush=True)
                elif number == 0:
                    left_out.add(name)


def each(
    bench: Bench, *, poolers: list[str], rounds: int, workload: str, measure: Callable[[Pooler, int], None],
    start: Callable[[str], Pooler] | None = None,
) -> None:  # fmt: skip
    """Has `measure` take every pooler, fresh, and the number of the round. One that fails is told and recorded.

    start: brings a pooler about by its name, where it is not to be as its table says.
    """
    for number in range(rounds):
        for name in poolers:
            try:
                pooler = (start or bench.start)(name)
            except (RuntimeError, NotOffered) as error:
                print(f"{name:16} FAILED {error}", flush=True)
                continue
            try:
                measure(pooler, number)
            except (RuntimeError, OSError) as error:
                print(f"{name:16} FAILED {error} {pooler.log_tail()}", flush=True)
                bench.record(failed=str(error)[-TAIL:], pooler=name, workload=workload, round=number)
            finally:
                pooler.stop()


def _calm_row(
    bench: Bench, name: str, workload: str, number: int, seconds: float, quiet: float, rate: int, marks: Row
) -> Row | None:
    """A window in which others used at most `quiet` cores, or the last of those tried; None: it failed twice."""
    failures = 0
    for attempt in range(TRIES_MAX):
        try:
            row = bench.measure(name, workload, seconds, rate=rate) | marks
        except RuntimeError as error:
            print(f"{workload:14} {name:14} FAILED {str(error).strip()[-300:]}", flush=True)
            bench.record(failed=str(error)[-400:], pooler=name, workload=workload, round=number)
            failures += 1
            if failures == 2:
                return None
            continue
        if row["foreign"] <= quiet or attempt + 1 == TRIES_MAX:
            return row
        # Kept among the results: the report takes it where calmer ones are too few.
        bench.record(round=number, noisy=True, **row)
    return None


def line(row: Row, number: int) -> str:
    """A row for people who watch."""
    return (
        f"{row['workload']:14} {number} {row['pooler']:16} tps {row['tps']:9.0f}  cpu {row['cpu_us']:8.1f}"
        f"  pg {row['pg_us']:7.1f}  p50 {row['p50_us'] / 1000:7.2f} ms  p99 {row['p99_us'] / 1000:7.2f} ms"
        f"  p99.9 {row['p999_us'] / 1000:7.2f} ms"
        f"  pss {row['pss_kib'] / 1024:6.1f} MiB  foreign {row['foreign']:.2f}"
    )
