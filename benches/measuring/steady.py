"""A steady load on a pooler, and how long its clients wait: alone, alone once more, and beside what may disturb them.

The load is open: so many transactions a second are due whatever became of those before them, and each is waited for
from when it was due (pgbench -R). It leaves most of both cores idle. So every window holds as many transactions as the
others, a stall counts with all that were due in it, and how long they wait is no matter of how many cores the clients,
the pooler and PostgreSQL fight for, as it is where every client asks again at once. The spread of the two windows alone
is what the machine does by itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from measuring import disturber
from measuring.pooler import Pooler
from measuring.processes import machine_busy_us, process_cpu_us
from measuring.tables import AGAIN, ALONE, Row
from measuring.window import TAIL, Bench, Reading, lines_before_progress, percentiles, transactions
from measuring.workloads import WORKLOADS

CLIENTS = 100
# Between windows; what pgbench has not yet written of its log is of this time.
GAP_S = 1.0
# A disturber that gets no answer for so long is a finding of its own.
BEGIN_S = 20.0
HERE = Path(__file__).parent
CHURN, CHURN_RATE = "churn", 500
KINDS = (*disturber.KINDS, CHURN)


class Beside:
    """A process beside the load, which runs for a window and a little longer."""

    def __init__(self, kind: str, port: int, seconds: float) -> None:
        program = ["disturber.py", kind, str(port)]
        if kind == CHURN:
            program = ["crowd.py", kind, str(port), str(CHURN_RATE)]
        argv = [sys.executable, str(HERE / program[0]), *program[1:], str(seconds + GAP_S / 2)]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._watchdog = threading.Timer(BEGIN_S + seconds, self.process.kill)
        self._watchdog.start()

    def wait_begun(self) -> None:
        """Raises RuntimeError if it ends before."""
        assert self.process.stdout
        if self.process.stdout.readline() != "begun\n":
            raise RuntimeError(f"it never began: {self.process.communicate()[1][-TAIL:]}")

    def done(self) -> Row:
        """What it did. Raises RuntimeError if it failed."""
        said, error = self.process.communicate()
        if self.process.returncode:
            raise RuntimeError(f"it failed: {error[-TAIL:]}")
        done: Row = json.loads(said)
        return done

    def end(self) -> None:
        """Whatever it does."""
        self._watchdog.cancel()
        self.process.kill()
        self.process.wait()


def run(bench: Bench, *, poolers: list[str], kinds: list[str], rounds: int, seconds: float, rate: int) -> None:
    """Measures and records all poolers, in rounds."""
    for number in range(rounds):
        for name in poolers:
            try:
                pooler = bench.start(name)
            except RuntimeError as error:
                print(f"{name:16} FAILED {error}", flush=True)
                continue
            try:
                measure(bench, pooler, kinds=kinds, seconds=seconds, rate=rate, number=number)
            finally:
                pooler.stop()


def measure(bench: Bench, pooler: Pooler, *, kinds: list[str], seconds: float, rate: int, number: int) -> None:
    """Records a row for each window: the load alone, twice, then beside each kind."""
    logs = Path(tempfile.mkdtemp(prefix="log-", dir=bench.work))
    names = [ALONE, AGAIN, *kinds]
    # It is ended when the last window has been: it only has to run so long.
    longest_s = len(names) * (seconds + GAP_S + BEGIN_S)
    pgbench = bench.load(pooler, WORKLOADS["select"], CLIENTS, longest_s, logs, rate)
    windows: list[tuple[Row, float, float]] = []
    try:
        lines_before_progress(pgbench)
        for kind in names:
            mark = {"steady": rate, "pooler": pooler.name, "round": number, "beside": kind, "clients": CLIENTS}
            try:
                windows.append(_window(bench, pooler, pgbench.pid, kind, seconds, mark))
            except RuntimeError as error:
                bench.record(failed=f"{error} {pooler.log_tail()}", workload=f"beside {kind}", **mark)
                print(f"{pooler.name:16} FAILED beside {kind}: {error}", flush=True)
            time.sleep(GAP_S)
        ended = pgbench.poll()
        pgbench.kill()
        complaint = pgbench.communicate()[1]
        if ended is not None or "abort" in complaint:
            bench.record(failed=complaint[-TAIL:], pooler=pooler.name, workload="steady load", round=number)
            print(f"{pooler.name:16} FAILED the steady load: {complaint[-TAIL:]}", flush=True)
        for figures, after, until in windows:
            row = figures | percentiles(transactions(logs, after, until)[1])
            bench.record(**row)
            print(line(row), flush=True)
    finally:
        pgbench.kill()
        pgbench.wait()
        shutil.rmtree(logs, ignore_errors=True)


def _window(
    bench: Bench, pooler: Pooler, pgbench_pid: int, kind: str, seconds: float, mark: Row
) -> tuple[Row, float, float]:
    """A row without the latencies, and the times between which they count."""
    start = pooler.group.own_kib() if pooler.group else 0
    if pooler.group:
        pooler.group.start_peak()

    def read() -> Reading:
        cpu = pooler.group.cpu_us() if pooler.group else 0.0
        return Reading(time.time(), cpu, bench.pg.group.cpu_us(), process_cpu_us(pgbench_pid), machine_busy_us())

    beside = Beside(kind, pooler.port, seconds) if kind in KINDS else None
    try:
        if beside:
            beside.wait_begun()
        own = process_cpu_us(beside.process.pid) if beside else 0.0
        first = read()
        time.sleep(seconds)
        last = read()
        own = process_cpu_us(beside.process.pid) - own if beside else 0.0
        did = beside.done() if beside else {}
    finally:
        if beside:
            beside.end()
    passed = last.since(first)
    cores = 1e6 * passed.at
    foreign = passed.machine - passed.pooler - passed.postgres - passed.pgbench - own
    row = {
        **mark, "did": did, "start_kib": start, "peak_kib": pooler.group.peak_kib() if pooler.group else 0,
        "pooler_cores": passed.pooler / cores, "pg_cores": passed.postgres / cores,
        "pgbench_cores": passed.pgbench / cores, "beside_cores": own / cores, "foreign": foreign / cores,
    }  # fmt: skip
    return row, first.at, last.at


def line(row: Row) -> str:
    """A row for people who watch."""
    did = ", ".join(f"{name} {value:.0f}" for name, value in row["did"].items() if isinstance(value, int | float))
    return (
        f"{row['pooler']:16} {row['round']} {row['beside']:12} n {row['n']:6}  p50 {row['p50_us'] / 1000:7.2f} ms"
        f"  p99 {row['p99_us'] / 1000:7.2f} ms  p99.9 {row['p999_us'] / 1000:7.2f} ms  cores: pooler "
        f"{row['pooler_cores']:.2f}, pg {row['pg_cores']:.2f}, beside {row['beside_cores']:.2f}, foreign "
        f"{row['foreign']:.2f}  peak {row['peak_kib'] / 1024:.1f} MiB  {did}"
    )
