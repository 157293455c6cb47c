"""Good logins beside many bad ones: how long the good ones take alone, alone again, and beside; and how long a refusal
takes for a user that exists and for one that does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from measuring.pooler import Pooler
from measuring.processes import machine_busy_us
from measuring.rounds import each
from measuring.tables import AGAIN, ALONE, Row
from measuring.window import Bench
from measuring.workloads import USER

GUESSER = Path(__file__).with_name("guesser.py")
# Good logins a second: enough for a p99 of a few seconds.
GOOD_RATE = 100
UNKNOWN, BESIDE = "nobody_knows", "beside"
# Refusals are timed at a rate that leaves the machine idle.
PROBE_RATE, PROBE_S = 100, 2.0


class Logins:
    """A process that logs in, or tries to."""

    def __init__(self, kind: str, port: int, user: str, rate: float, seconds: float) -> None:
        argv = [sys.executable, str(GUESSER), kind, str(port), user, str(rate), str(seconds)]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        if self._process.stdout.readline() != "begun\n":
            raise RuntimeError("it never began")

    def done(self) -> Row:
        """What became of them."""
        said, _ = self._process.communicate(timeout=120)
        found: Row = json.loads(said)
        return found


def run(bench: Bench, *, poolers: list[str], rounds: int, seconds: float, rate: int) -> None:
    """Measures and records all poolers, in rounds."""

    def measure(pooler: Pooler, number: int) -> None:
        row: Row = {"logins": True, "round": number, "pooler": pooler.name, "user": pooler.user}
        for name in (ALONE, AGAIN, BESIDE):
            row[name] = window(pooler, seconds, rate if name == BESIDE else 0)
        for user in (pooler.user, UNKNOWN):
            row[f"refusal of {'a user' if user == pooler.user else 'nobody'}"] = Logins(
                "probe", pooler.port, user, PROBE_RATE, PROBE_S
            ).done()
        bench.record(**row)
        print(line(row), flush=True)

    each(
        bench, poolers=poolers, rounds=rounds, workload="logins", measure=measure,
        start=lambda name: bench.start(name, "scram"),
    )  # fmt: skip


def window(pooler: Pooler, seconds: float, rate: int) -> Row:
    """Good logins for so long, beside `rate` bad ones a second: half of them for a user that exists."""
    bad = [Logins("guess", pooler.port, user, rate / 2, seconds + 1) for user in (USER, UNKNOWN) if rate]
    busy = machine_busy_us()
    cpu = pooler.group.cpu_us() if pooler.group else 0
    good = Logins("prove", pooler.port, pooler.user, GOOD_RATE, seconds).done()
    used = (pooler.group.cpu_us() - cpu if pooler.group else 0) / seconds / 1e6
    cores = (machine_busy_us() - busy) / seconds / 1e6
    return {**good, "pooler_cores": used, "busy_cores": cores, "bad": [one.done() for one in bad]}


def line(row: Row) -> str:
    """A row for people who watch."""
    parts = [f"{row['pooler']:16} {row['round']}"]
    for name in (ALONE, AGAIN, BESIDE):
        of = row[name]
        bad = sum(one["a_second"] for one in of["bad"])
        parts.append(
            f"{name}: p50 {of['p50_ms']:.1f} p99 {of['p99_ms']:.1f} ms, {dict(of['ends'])}, "
            f"cores {of['busy_cores']:.2f}" + (f" (pooler {of['pooler_cores']:.2f}), bad {bad:.0f}/s" if bad else "")
        )
    known, unknown = (row[f"refusal of {whom}"]["p50_ms"] for whom in ("a user", "nobody"))
    return "; ".join([*parts, f"refused: known {known:.2f}, unknown {unknown:.2f} ms"])
