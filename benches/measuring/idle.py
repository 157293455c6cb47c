"""What clients cost that are logged in and do nothing: memory, and CPU of the pooler."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from measuring.pooler import NotOffered, Pooler
from measuring.processes import Group
from measuring.window import Bench
from measuring.workloads import DB, USER

CLIENTS = Path(__file__).with_name("idle_clients.py")
WARM_CLIENTS = 30
# Memory is read when it has settled.
SETTLE_S = 2.0
IDLE_S = 3.0


class Clients:
    """A process with idle clients. It does a step when told, and says when it is done."""

    def __init__(self, port: int, clients: int) -> None:
        argv = [sys.executable, str(CLIENTS), str(port), str(clients)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait_for(self, word: str) -> list[str]:
        """What it says besides. Raises RuntimeError if it fails instead."""
        assert self.process.stdout
        said = self.process.stdout.readline().split()
        if said[:1] != [word]:
            raise RuntimeError(f"the clients never said {word!r}: {' '.join(said) or 'they ended'}")
        return said[1:]

    def go_on(self) -> None:
        """Tells it to do the next step: a query of each client, then the end."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """All clients leave."""
        self.go_on()
        self.process.wait()


def run(bench: Bench, *, poolers: list[str], clients: int, rounds: int) -> None:
    """Measures and records all poolers, in rounds."""
    for number in range(rounds):
        for name in poolers:
            count = min(clients, bench.specs[name].get("idle_clients", clients))
            try:
                pooler = bench.start(name)
            except (RuntimeError, NotOffered) as error:
                print(f"{name:16} FAILED {error}", flush=True)
                continue
            try:
                _measure(bench, pooler, count, number)
            except (RuntimeError, OSError) as error:
                print(f"{name:16} FAILED {error} {pooler.log_tail()}", flush=True)
                bench.record(failed=str(error)[-400:], pooler=name, workload="idle", round=number)
            finally:
                pooler.stop()


def warm(bench: Bench, pooler: Pooler) -> None:
    """Brings all server connections and the first clients about, so that they stand in the first reading."""
    few = Clients(pooler.port, WARM_CLIENTS)
    few.wait_for("open")
    few.go_on()
    few.wait_for("used")
    few.end()
    argv = [*bench.pg.client("pgbench", USER, pooler.port), "-n", "-S", "-c", "32", "-T", "1", DB]
    subprocess.run(argv, capture_output=True, check=True, env={**bench.pg.environment, "PGSSLMODE": "disable"})


def _measure(bench: Bench, pooler: Pooler, clients: int, number: int) -> None:
    assert pooler.group
    warm(bench, pooler)
    time.sleep(SETTLE_S)
    base = pooler.group.memory_kib()[0]
    many = Clients(pooler.port, clients)
    try:
        connect_s = float(many.wait_for("open")[0])
        time.sleep(SETTLE_S)
        opened = pooler.group.memory_kib()[0]
        idle_cpu = cpu_us_per_s(pooler.group, IDLE_S)
        many.go_on()
        many.wait_for("used")
        time.sleep(SETTLE_S)
        used = pooler.group.memory_kib()[0]
        many.end()
    finally:
        many.process.kill()
        many.process.wait()
    time.sleep(SETTLE_S)
    after = pooler.group.memory_kib()[0]
    per_open, per_used = (opened - base) * 1024 / clients, (used - base) * 1024 / clients
    bench.record(
        idle=True, round=number, pooler=pooler.name, clients=clients, base_kib=base, open_kib=opened, used_kib=used,
        after_kib=after, per_open=per_open, per_used=per_used, connect_s=connect_s, idle_cpu_us_per_s=idle_cpu,
    )  # fmt: skip
    print(
        f"{pooler.name:16} {number} clients {clients}  base {base / 1024:.1f} MiB  per client {per_open:.0f} B, "
        f"after a query {per_used:.0f} B; all gone {after / 1024:.1f} MiB  idle CPU {idle_cpu:.0f} us/s  opened in "
        f"{connect_s} s",
        flush=True,
    )


def cpu_us_per_s(group: Group, seconds: float) -> float:
    """CPU of a group over the next seconds."""
    cpu, at = group.cpu_us(), time.time()
    time.sleep(seconds)
    return (group.cpu_us() - cpu) / (time.time() - at)
