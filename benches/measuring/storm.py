"""Clients that all come at once, then a steady stream of new ones beside a steady load."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

from measuring import steady
from measuring.idle import SETTLE_S, warm
from measuring.pooler import Pooler
from measuring.processes import process_cpu_us
from measuring.rounds import each
from measuring.tables import Row
from measuring.window import Bench

CROWD = Path(__file__).with_name("crowd.py")
# By then all are served, or never.
PATIENCE_S = 40.0
# What a pooler gives back later than this it keeps.
LEAVE_S = 4.0


def run(bench: Bench, *, poolers: list[str], clients: int, rounds: int, seconds: float, rate: int) -> None:
    """Measures and records all poolers, in rounds."""

    def measure(pooler: Pooler, number: int) -> None:
        row = _storm(bench, pooler, min(clients, bench.specs[pooler.name].get("idle_clients", clients)))
        row |= {"storm": True, "round": number, "pooler": pooler.name}
        bench.record(**row)
        print(line(row), flush=True)
        steady.measure(bench, pooler, kinds=[steady.CHURN], seconds=seconds, rate=rate, number=number)

    each(bench, poolers=poolers, rounds=rounds, workload="storm", measure=measure)


def _storm(bench: Bench, pooler: Pooler, clients: int) -> Row:
    """A row of what became of them, and what they cost."""
    assert pooler.group
    warm(bench, pooler)
    time.sleep(SETTLE_S)
    start, start_pss = pooler.group.own_kib(), pooler.group.memory_kib()[0]
    pooler.group.start_peak()
    cpu = pooler.group.cpu_us()
    argv = [sys.executable, str(CROWD), "storm", str(pooler.port), str(clients), str(PATIENCE_S)]
    crowd = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    watchdog = threading.Timer(PATIENCE_S * 2, crowd.kill)
    watchdog.start()
    try:
        assert crowd.stdout
        said = crowd.stdout.readline()
        if not said:
            raise RuntimeError("the crowd ended")
        row: Row = json.loads(said)
        used = pooler.group.cpu_us() - cpu
        row |= {"clients": clients, "start_kib": start, "peak_kib": pooler.group.peak_kib(),
                "cpu_us": used / clients, "crowd_us": process_cpu_us(crowd.pid) / clients}  # fmt: skip
        time.sleep(SETTLE_S)
        row["held_kib"] = pooler.group.own_kib()
        crowd.communicate("\n")
    finally:
        watchdog.cancel()
        crowd.kill()
        crowd.wait()
    time.sleep(LEAVE_S)
    after = {"after_kib": pooler.group.own_kib(), "start_pss_kib": start_pss}
    return row | after | {"after_pss_kib": pooler.group.memory_kib()[0]}


def line(row: Row) -> str:
    """A row for people who watch."""
    return (
        f"{row['pooler']:16} {row['round']} {row['clients']} at once: {row['served']} served in {row['seconds']:.2f} s"
        f", {row['refused']} refused {row['why'] or ''}, {row['unserved']} unserved; p50 {row['p50_ms']:.0f} ms  p99 "
        f"{row['p99_ms']:.0f} ms  max {row['max_ms']:.0f} ms; CPU {row['cpu_us']:.0f} us each; MiB at the start "
        f"{row['start_kib'] / 1024:.1f}, peak {row['peak_kib'] / 1024:.1f}, held {row['held_kib'] / 1024:.1f}, "
        f"all gone {row['after_kib'] / 1024:.1f}"
    )
