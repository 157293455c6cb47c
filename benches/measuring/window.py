"""One measurement: a pooler, a workload, and a window of seconds in which both are steady."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from measuring.pooler import CLIENTS_MAX, Pooler, load_specs
from measuring.postgres import CONNECTIONS_MAX, Postgres
from measuring.processes import give_to_server_account, machine_busy_us, process_cpu_us, raise_nofile
from measuring.tables import Row
from measuring.workloads import DB, PASSWORD, WORKLOADS, Workload

# Of PostgreSQL's connections, those that are not for clients without a pool: direct ones, and those of relays.
CONNECTIONS_BESIDE = 20
# pgbench runs this much longer than the window, for connecting and for the line of progress that opens it.
MARGIN_S = 2
# A pooler that hangs is a failed row.
PATIENCE_S = 25
TAIL = 400

# Runs inside the window: takes the pooler and the seconds, returns figures of its own and the part of the window that
# they belong to, as two times of the wall clock.
During = Callable[[Pooler, float], tuple[Any, tuple[float, float] | None]]


@dataclass(frozen=True, slots=True)
class Reading:
    """The wall clock in seconds, and CPU in microseconds of the pooler, PostgreSQL, pgbench and the machine."""

    at: float
    pooler: float
    postgres: float
    pgbench: float
    machine: float

    def since(self, earlier: Reading) -> Reading:
        """What passed between two readings."""
        return Reading(*(b - a for a, b in zip(astuple(earlier), astuple(self), strict=True)))


class Bench:
    """A PostgreSQL, the poolers known, and the file of results."""

    def __init__(
        self, *, peers: list[str], bin_folder: Path, scale: int, out: str | None, tmp: str | None,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:  # fmt: skip
        raise_nofile()
        self.work = Path(tempfile.mkdtemp(prefix="poolbench-", dir=tmp))
        give_to_server_account(self.work)
        self.work.chmod(0o755)
        self.bin_folder = bin_folder.resolve()
        self.specs = load_specs(peers)
        # That a pooler is configured for.
        self.clients_max = CLIENTS_MAX
        self.rows: list[Row] = []
        self.out = Path(out).open("a", buffering=1) if out else None  # noqa: SIM115 (it lives as long as the bench)
        self.pg = Postgres(self.work, scale, connections_max)

    def record(self, **row: Any) -> None:
        """Appends a row to the results."""
        self.rows.append(row)
        if self.out:
            self.out.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Ends PostgreSQL and removes the run's folder."""
        self.pg.stop()
        shutil.rmtree(self.work, ignore_errors=True)

    def start(
        self, name: str, auth: str = "trust", is_encrypted: bool = False, values: dict[str, object] | None = None
    ) -> Pooler:
        """A fresh pooler. values: of its configuration, others than its table's.

        Raises NotOffered, or RuntimeError with the end of its log.
        """
        spec = None if name == "direct" else self.specs[name]
        if spec and values:
            spec = {**spec, "vars": {**spec.get("vars", {}), **values}}
        return Pooler(name, spec, self.pg, self.bin_folder, auth, is_encrypted, self.clients_max)

    def measure(
        self, name: str, workload_name: str, seconds: float, during: During | None = None, rate: int = 0
    ) -> Row:
        """One row. Raises NotOffered; RuntimeError where a transaction or the pooler failed.

        rate: transactions a second that are due, waited for from when they were due; 0: as many as it can.
        """
        workload = WORKLOADS[workload_name]
        pooler = self.start(name, workload.auth, workload.is_encrypted)
        logs = Path(tempfile.mkdtemp(prefix="log-", dir=self.work))
        try:
            clients = workload.clients
            if name == "direct" or self.specs[name].get("relay"):
                clients = min(clients, self.pg.connections_max - CONNECTIONS_BESIDE)
            row = self._window(pooler, workload, clients, seconds, logs, during, rate)
            named = f"{workload_name}, {rate}/s" if rate else workload_name
            return {"pooler": name, "workload": named, "clients": clients, **row}
        except RuntimeError as error:
            raise RuntimeError(f"{error} {pooler.log_tail()}") from None
        finally:
            pooler.stop()
            shutil.rmtree(logs, ignore_errors=True)

    def load(
        self, pooler: Pooler, workload: Workload, clients: int, seconds: float, logs: Path, rate: int = 0
    ) -> subprocess.Popen[str]:
        """pgbench, which logs its transactions into a folder, for so many seconds and a margin."""
        script = []
        if workload.script:
            (logs / "script.sql").write_text(workload.script)
            script = ["-f", str(logs / "script.sql")]
        argv = [*self.pg.client("pgbench", pooler.user, pooler.port), "-n", "-c", str(clients),
                "-j", str(workload.threads), "-T", str(int(seconds) + MARGIN_S), "-P", "1", "-l",
                "--log-prefix", str(logs / "t"), *workload.arguments, *script, DB]  # fmt: skip
        if rate:
            argv[-1:-1] = ["-R", str(rate)]
        environment = {
            **self.pg.environment,
            "PGPASSWORD": PASSWORD,
            "PGSSLMODE": "require" if workload.is_encrypted else "disable",
        }
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def _window(
        self, pooler: Pooler, workload: Workload, clients: int, seconds: float, logs: Path, during: During | None,
        rate: int,
    ) -> Row:  # fmt: skip
        pgbench = self.load(pooler, workload, clients, seconds, logs, rate)
        watchdog = threading.Timer(seconds + PATIENCE_S, pgbench.kill)
        watchdog.start()

        def read() -> Reading:
            cpu = pooler.group.cpu_us() if pooler.group else 0.0
            return Reading(time.time(), cpu, self.pg.group.cpu_us(), process_cpu_us(pgbench.pid), machine_busy_us())

        try:
            head = lines_before_progress(pgbench)
            first = read()
            extra, span = (during or let_run)(pooler, seconds)
            memory = pooler.group.memory_kib() if pooler.group else (0, 0)
            last = read()
            out, err = pgbench.communicate()
            failed = re.search(r"number of failed transactions: ([1-9])", out)
            if pgbench.returncode or failed:
                raise RuntimeError(f"pgbench rc {pgbench.returncode}: {(head + err)[-TAIL:]}")
        finally:
            watchdog.cancel()
            pgbench.kill()
            pgbench.wait()
        ended, latencies = transactions(logs, first.at, last.at)
        row = figures(last.since(first), latencies)
        row |= {"pss_kib": memory[0], "rss_kib": memory[1]}
        if during:
            row |= {"extra": extra, "spanned": sum(span[0] < at <= span[1] for at in ended) if span else 0}
        return row


def let_run(_pooler: Pooler, seconds: float) -> tuple[None, None]:
    """Nothing but the workload runs."""
    time.sleep(seconds)
    return None, None


def lines_before_progress(pgbench: subprocess.Popen[str]) -> str:
    """What pgbench says until all clients are connected and run. Raises RuntimeError if it ends before."""
    assert pgbench.stderr
    head: list[str] = []
    for line in pgbench.stderr:
        if line.startswith("progress:"):
            return "".join(head)
        head.append(line)
    raise RuntimeError(f"pgbench: {''.join(head)[-TAIL:]}")


def transactions(logs: Path, after: float, until: float) -> tuple[list[float], list[int]]:
    """When each transaction in the window ended, and how many microseconds each took."""
    ended, latencies = [], []
    for path in logs.glob("t.*"):
        with path.open() as lines:
            for line in lines:
                if not line.endswith("\n"):
                    break  # pgbench was ended while it wrote
                fields = line.split()
                at = int(fields[4]) + int(fields[5]) / 1e6
                if after < at <= until:
                    ended.append(at)
                    latencies.append(int(fields[2]))
    return ended, latencies


def percentiles(latencies: list[int]) -> Row:
    """Of microseconds: how many, and what half of them, 99 % and 99.9 % stay under. Raises RuntimeError if none is."""
    n = len(latencies)
    if not n:
        raise RuntimeError("no transaction in the window")
    latencies.sort()
    return {
        "n": n,
        "p50_us": latencies[n // 2],
        "p99_us": latencies[min(n - 1, n * 99 // 100)],
        "p999_us": latencies[min(n - 1, n * 999 // 1000)],
    }


def figures(passed: Reading, latencies: list[int]) -> Row:
    """Costs per transaction and rates of a window."""
    waited = percentiles(latencies)
    n = waited["n"]
    foreign = passed.machine - passed.pooler - passed.postgres - passed.pgbench
    return {
        "tps": n / passed.at,
        "mean_us": sum(latencies) / n,
        **waited,
        "cpu_us": passed.pooler / n,
        "pg_us": passed.postgres / n,
        "pgbench_us": passed.pgbench / n,
        "foreign": foreign / passed.at / 1e6,
    }
