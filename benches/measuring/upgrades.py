"""Online restarts in a row under a thousand clients at work: what they notice, what is lost, what is left open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measuring import programs
from measuring.passengers import TABLES
from measuring.pooler import Pooler
from measuring.processes import machine_busy_us
from measuring.rounds import each
from measuring.tables import Row
from measuring.window import Bench
from measuring.workloads import DB, PASSWORD, USER

PASSENGERS = Path(__file__).with_name("passengers.py")
CONNECTIONS_MAX = 900
SETTLE_S = 2.0
PATIENCE_S = 120.0


class Passengers:
    """Their process."""

    def __init__(self, port: int, clients: int, rate: int) -> None:
        argv = [sys.executable, str(PASSENGERS), str(port), str(clients), str(rate)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the clients never were ready")

    def said(self, order: str) -> Row:
        """What they answer to an order."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        found: Row = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        """Ends the process, whatever it does."""
        self._process.kill()
        self._process.wait()


def run(bench: Bench, *, poolers: list[str], rounds: int, times: int, clients: int, rate: int) -> None:
    """Measures and records all poolers, in rounds."""
    bench.pg.sql(f"{TABLES}; GRANT ALL ON voyage, freight TO {USER}", DB)

    def measure(pooler: Pooler, number: int) -> None:
        bench.pg.sql("TRUNCATE voyage, freight", DB)
        row = {"upgrades": times, "round": number, "pooler": pooler.name, "clients": clients, "rate": rate}
        row |= _voyage(bench, pooler, times, clients, rate)
        bench.record(**row)
        print(line(row), flush=True)

    def start(name: str) -> Pooler:
        return bench.start(name, is_encrypted=True, values={"pool": clients * 7 // 10})

    each(bench, poolers=poolers, rounds=rounds, workload="upgrades", measure=measure, start=start)


def _voyage(bench: Bench, pooler: Pooler, times: int, clients: int, rate: int) -> Row:
    """The same time without upgrades, and with them."""
    assert pooler.group
    passengers = Passengers(pooler.port, clients, rate)
    try:
        time.sleep(SETTLE_S)
        passengers.said("tell")
        open_before, own_before = _state(bench, pooler)
        busy, begin = machine_busy_us(), time.monotonic()
        lasted = [_upgrade(pooler) for _ in range(times)]
        spent = time.monotonic() - begin
        cores = (machine_busy_us() - busy) / spent / 1e6
        beside = passengers.said("tell")
        time.sleep(SETTLE_S)
        passengers.said("tell")
        open_after, own_after = _state(bench, pooler)
        time.sleep(spent)
        alone = passengers.said("tell")
        return {
            "beside": beside, "alone": alone, "end": passengers.said("end"), "lasted_s": lasted, "cores": cores,
            "fds": [open_before, open_after], "own_kib": [own_before, own_after],
        }  # fmt: skip
    finally:
        passengers.close()


def _state(bench: Bench, pooler: Pooler) -> tuple[int, int]:
    """Open files but those of servers, which come and go with what clients need; KiB of its own memory."""
    assert pooler.group
    files = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pooler.group.pids())
    counted = bench.pg.sql(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}'")
    return files - int(counted.stdout), pooler.group.own_kib()


def _upgrade(pooler: Pooler) -> float:
    """Seconds until the old process has gone. Raises RuntimeError where it is refused, or never ends."""
    assert pooler.group
    assert pooler.dir
    before, begin = set(pooler.group.pids()), time.monotonic()
    done = subprocess.run(
        [programs.forebay(), "upgrade", str(pooler.dir / "forebay.toml")],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        env={**os.environ, "BENCH_PASSWORD": PASSWORD},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"upgrade: {done.stderr.strip()}")
    while before & set(pooler.group.pids()):
        for process in pooler.group.procs:
            process.poll()
        if time.monotonic() > begin + PATIENCE_S:
            raise RuntimeError("the old process never ended")
        time.sleep(0.02)
    return time.monotonic() - begin


def line(row: Row) -> str:
    """A row for people who watch."""

    def waits(seen: dict[str, Any]) -> str:
        parts = " ".join(
            f"{name} {seen[name + '_ms']}" for name in ("p50", "p99", "p999", "max", "late_p99", "late_max")
        )
        return f"{seen['requests']} requests, {seen['failed']} failed, ms: {parts}"

    end = row["end"]
    lost = [end[f"{table}_wanted"] - end[f"{table}_once"] for table in ("voyage", "freight")]
    twice = [end[f"{table}_rows"] - end[f"{table}_once"] for table in ("voyage", "freight")]
    return (
        f"{row['pooler']:16} {row['upgrades']} upgrades of {sum(row['lasted_s']) / len(row['lasted_s']):.2f} s, "
        f"{row['cores']:.2f} cores in use\n  beside: {waits(row['beside'])} {row['beside']['errors']}\n"
        f"  alone:  {waits(row['alone'])}\n  lost {lost}, twice {twice}, at the end {end['leaving']}; "
        f"open files {row['fds']}, own KiB {row['own_kib']}"
    )
