"""A program of our own that loads a pooler and says how it goes, and the window in which it does."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measuring.pooler import Pooler
from measuring.processes import machine_busy_us, process_cpu_us
from measuring.tables import Row
from measuring.window import TAIL, Bench, Reading

HERE = Path(__file__).parent
# A load that says nothing for so long is a failed row.
PATIENCE_S = 90.0


class Load:
    """A process that loads a pooler, and says how it goes line by line."""

    def __init__(self, program: str, *arguments: object) -> None:
        argv = [sys.executable, str(HERE / program), *map(str, arguments)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self._watchdog = threading.Timer(PATIENCE_S, self.process.kill)
        self._watchdog.start()

    def line(self) -> str:
        """What it says next. Raises RuntimeError if it ends instead."""
        assert self.process.stdout
        said = self.process.stdout.readline().strip()
        if not said:
            raise RuntimeError(f"the load ended: {self.process.communicate()[1][-TAIL:]}")
        return said

    def go_on(self) -> None:
        """Tells it to do what comes next."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Whatever it does."""
        self._watchdog.cancel()
        self.process.kill()
        self.process.communicate()


@contextmanager
def loading(program: str, *arguments: object) -> Iterator[Load]:
    """A load that is ended whatever happens."""
    load = Load(program, *arguments)
    try:
        yield load
    finally:
        load.end()


def window(bench: Bench, pooler: Pooler, load: Load) -> Row:
    """From `begun` to what the load says at its end: how long those waited that were served, and what they cost."""

    def read() -> Reading:
        cpu = pooler.group.cpu_us() if pooler.group else 0.0
        return Reading(time.time(), cpu, bench.pg.group.cpu_us(), process_cpu_us(load.process.pid), machine_busy_us())

    if (said := load.line()) != "begun":
        raise RuntimeError(f"it never began: {said}")
    first = read()
    told: Row = json.loads(load.line())
    passed = read().since(first)
    n = int(told.get("n", told.get("served", 0)))
    if not n:
        raise RuntimeError(f"nothing was served: {told}")
    foreign = passed.machine - passed.pooler - passed.postgres - passed.pgbench
    kept = {key: told[key] for key in ("least", "most", "query_ms", "resumed", "why", "refused") if key in told}
    return {
        "refused": 0, **kept, "n": n, "tps": n / told.get("seconds", passed.at), "unserved": told.get("unserved", 0),
        **{f"{key}_us": told[f"{key}_ms"] * 1000 for key in ("mean", "p50", "p99")},
        "cpu_us": passed.pooler / n, "pg_us": passed.postgres / n, "load_us": passed.pgbench / n,
        "foreign": foreign / passed.at / 1e6,
    }  # fmt: skip
