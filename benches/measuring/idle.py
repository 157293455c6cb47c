"""What clients cost that are logged in and do nothing: memory, and CPU of the pooler."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

from measuring.pooler import NotOffered, Pooler
from measuring.processes import Group, kernel_kib
from measuring.tables import Row
from measuring.window import Bench
from measuring.workloads import DB, USER

CLIENTS = Path(__file__).with_name("idle_clients.py")
WARM_CLIENTS = 30
# Memory is read when it has settled.
SETTLE_S = 1.0
IDLE_S = 2.0
# Of a process's open files, those that are no clients of it.
FILES_BESIDE = 1_000
# From one address to one port there are as many clients as ip_local_port_range has ports.
PORTS_MOST = 25_000


class Clients:
    """A process with idle clients. It does a step when told, and says when it is done."""

    def __init__(self, port: int, clients: int, is_encrypted: bool = False, *, is_each: bool = False) -> None:
        ways = [*(["tls"] if is_encrypted else []), *(["each"] if is_each else [])]
        argv = [sys.executable, str(CLIENTS), str(port), str(clients), *ways]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait_for(self, word: str) -> list[str]:
        """What it says besides. Raises RuntimeError if it fails instead."""
        assert self.process.stdout
        said = self.process.stdout.readline().split()
        if said[:1] != [word]:
            raise RuntimeError(f"the clients never said {word!r}: {' '.join(said) or 'they ended'}")
        return said[1:]

    def go_on(self) -> None:
        """Tells it to do the next step: a query of each client, five statements of each, then the end."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """All clients leave, at whichever step."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def clients_most() -> int:
    """As many as one process may have, and a pooler beside its servers; as many as there are ports on a host."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return PORTS_MOST if files == resource.RLIM_INFINITY else min(files - FILES_BESIDE, PORTS_MOST)


def run(bench: Bench, *, poolers: list[str], counts: list[int], tls_counts: list[int], rounds: int) -> None:
    """Measures and records all poolers with each number of clients, plain and encrypted, in rounds.

    A fresh pooler for each: memory that it kept from others would be found again.
    """
    bench.clients_max = max([bench.clients_max, *(count + FILES_BESIDE // 2 for count in counts + tls_counts)])
    cases = [(count, False) for count in counts] + [(count, True) for count in tls_counts]
    for number in range(rounds):
        for count, is_encrypted in cases:
            for name in poolers:
                most = min(count, bench.specs[name].get("idle_clients", count))
                try:
                    pooler = bench.start(name, is_encrypted=is_encrypted)
                except (RuntimeError, NotOffered) as error:
                    print(f"{name:16} FAILED {error}", flush=True)
                    continue
                try:
                    _measure(bench, pooler, most, is_encrypted, number)
                except (RuntimeError, OSError) as error:
                    print(f"{name:16} FAILED {error} {pooler.log_tail()}", flush=True)
                    bench.record(failed=str(error)[-400:], pooler=name, workload=f"idle, {most}", round=number)
                finally:
                    pooler.stop()


def warm(bench: Bench, pooler: Pooler) -> None:
    """Brings all server connections and the first clients about, so that they stand in the first reading."""
    few = Clients(pooler.port, WARM_CLIENTS)
    few.wait_for("open")
    for step in ("used", "named"):
        few.go_on()
        few.wait_for(step)
    few.end()
    argv = [*bench.pg.client("pgbench", USER, pooler.port), "-n", "-S", "-c", "32", "-T", "1", DB]
    subprocess.run(argv, capture_output=True, check=True, env={**bench.pg.environment, "PGSSLMODE": "disable"})


def _measure(bench: Bench, pooler: Pooler, clients: int, is_encrypted: bool, number: int) -> None:
    group = pooler.group
    assert group
    warm(bench, pooler)
    time.sleep(SETTLE_S)
    base, base_pss, kernel = group.own_kib(), group.memory_kib()[0], kernel_kib()
    many = Clients(pooler.port, clients, is_encrypted)
    steps: dict[str, int] = {}
    try:
        connect_s = float(many.wait_for("open")[0])
        time.sleep(SETTLE_S)
        steps["open"], kernel_open = group.own_kib(), kernel_kib()
        idle_cpu = cpu_us_per_s(group, IDLE_S)
        for step in ("used", "named"):
            many.go_on()
            many.wait_for(step)
            time.sleep(SETTLE_S)
            steps[step] = group.own_kib()
        many.end()
    finally:
        many.process.kill()
        many.process.wait()
    time.sleep(SETTLE_S)
    row = {
        "idle": True, "round": number, "pooler": pooler.name, "clients": clients, "tls": is_encrypted,
        "base_pss_kib": base_pss, "base_kib": base, "after_kib": group.own_kib(),
        **{f"{step}_kib": kib for step, kib in steps.items()},
        **{f"per_{step}": (kib - base) * 1024 / clients for step, kib in steps.items()},
        "per_kernel": (kernel_open - kernel) * 1024 / clients,
        "connect_s": connect_s, "idle_cpu_us_per_s": idle_cpu,
    }  # fmt: skip
    bench.record(**row)
    print(line(row), flush=True)


def line(row: Row) -> str:
    """A row for people who watch."""
    count = f"{row['clients']}{' over TLS' if row['tls'] else ''}"
    return (
        f"{row['pooler']:16} {row['round']} clients {count}  per client {row['per_open']:.0f} B, after a query "
        f"{row['per_used']:.0f} B, with five statements {row['per_named']:.0f} B, in the kernel (both ends) "
        f"{row['per_kernel']:.0f} B; MiB before {row['base_kib'] / 1024:.1f}, all gone {row['after_kib'] / 1024:.1f}"
        f"  idle CPU {row['idle_cpu_us_per_s']:.0f} us/s  opened in {row['connect_s']} s"
    )


def cpu_us_per_s(group: Group, seconds: float) -> float:
    """CPU of a group over the next seconds."""
    cpu, at = group.cpu_us(), time.time()
    time.sleep(seconds)
    return (group.cpu_us() - cpu) / (time.time() - at)
