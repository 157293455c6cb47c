#!/usr/bin/env python3
"""replicas: what replicas are worth behind forebay, and what one that is slow costs.

  replicas.py scaling [--seconds 10] [--rounds 3] [--clients 40] [--limit 10]
  replicas.py slowed  [--seconds 10] [--rounds 3] [--clients 16] [--times 10]

Each starts a primary and its replicas with the harness of the tests, and forebay in front of them, on this one machine.

scaling. The same reads through forebay, with read_write_split and none, one and two replicas: pgbench in simple
protocol, windows of S seconds in the order 0 1 2, 0 1 2, ... Two workloads. `lookup` is one row by its key: it costs
CPU, and all servers share the machine's, so that no gain is to be expected of more of them. `wait` sleeps 10 ms at the
server, as a read does that waits for a disk: what limits it is how many servers there are, which a CONNECTION LIMIT of
the role holds to --limit at each PostgreSQL. CPU of PostgreSQL (all of them), forebay and pgbench are of /proc, 1.00
for one core.

slowed. Clients that ask for 20 ms each at three replicas; one of them is told to take so many times as long, and
healed. Told are its share of the answers of each second, and the 99th percentile of S seconds before, of S seconds from
2 s after it was slowed on, and of the two seconds between.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.harness import account, postgres
from tests.harness.certificates import Authority
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration, running
from tests.harness.postgres import Postgres
from tests.harness.readers import Answer, Readers, nap, percentile
from tests.harness.standby import standby_of

VARIANT = Variant("uring", 1)
SCRIPTS = {
    "lookup": "\\set id random(1, 100)\nselect name from people where id = :id;\n",
    "wait": "select pg_sleep(0.01);\n",
}
NAP_S = 0.02
SETTLED_S = 60.0


def stat(pid: int) -> list[str]:
    """Of /proc/PID/stat, those behind the command's name."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_s(pid: int) -> float:
    """CPU of a process, and of its children that have ended."""
    with contextlib.suppress(OSError):
        return sum(map(int, stat(pid)[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def cpu_of(servers: list[Postgres]) -> float:
    """CPU of PostgreSQLs and all that they have forked."""
    return sum(cpu_s(pid) for one in servers for pid in (one.pid, *one.children()))


@contextlib.contextmanager
def cluster(replicas: int) -> Iterator[tuple[Postgres, list[Postgres]]]:
    """A primary and its replicas."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="forebay-bench-")))
        primary = stack.enter_context(postgres.running(18, Authority(folder)))
        yield primary, [stack.enter_context(standby_of(primary)) for _ in range(replicas)]


@contextlib.contextmanager
def pooled(folder: Path, servers: list[Postgres], **settings: object) -> Iterator[Forebay]:
    """A forebay in front of them, which knows their roles."""
    endpoints = [f"127.0.0.1:{one.port}" for one in servers]
    database = {"endpoints": endpoints, "topology": "poll", "poll_user": "postgres", **settings}
    sections = configuration(servers[0], VARIANT, databases={"app": database})
    with running(folder, sections, VARIANT) as forebay:
        known = lambda: all(row["role"] != "unknown" for row in forebay.console("show endpoints"))  # noqa: E731
        until(known, within_s=20, what="the roles are known")
        yield forebay


def pgbench(forebay: Forebay, primary: Postgres, script: Path, clients: int, seconds: float) -> tuple[float, float]:
    """Transactions a second, and their mean latency in ms."""
    done = subprocess.run(
        [primary.programs.path("pgbench"), "-n", "-M", "simple", "-f", str(script), "-c", str(clients), "-j", "2",
         "-T", str(int(seconds)), "-h", "127.0.0.1", "-p", str(forebay.port), "-U", "app", "app"],
        capture_output=True, text=True, check=False, timeout=seconds + 120, cwd="/", env=primary.programs.environment,
        **account.process_options(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    figure: Callable[[str], float] = lambda word: next(  # noqa: E731
        float(line.partition("=")[2].split()[0]) for line in done.stdout.splitlines() if line.startswith(word)
    )
    assert "number of failed transactions: 0" in done.stdout, done.stdout
    return figure("tps"), figure("latency average")


def scaling(arguments: argparse.Namespace) -> None:
    """Prints a row for each workload and number of replicas."""
    rows: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    with cluster(2) as (primary, replicas), tempfile.TemporaryDirectory(prefix="forebay-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with primary.target.at(user="postgres").connect(autocommit=True) as admin:
            admin.execute(f"alter role app connection limit {arguments.limit}".encode())
        for workload, text in SCRIPTS.items():
            (folder / workload).write_text(text)
            (folder / workload).chmod(0o644)
        for turn in range(arguments.rounds):
            for workload in SCRIPTS:
                for count in range(3):
                    servers = [primary, *replicas[:count]]
                    size = {"pool_size": 3 * arguments.limit, "read_write_split": True}
                    with pooled(folder / f"{turn}-{workload}-{count}", servers, **size) as forebay:
                        pgbench(forebay, primary, folder / workload, arguments.clients, 3)
                        rows.setdefault((workload, count), []).append(
                            window(forebay, [primary, *replicas], folder / workload, arguments)
                        )
    print("| reads | replicas | tps | mean ms | cores: PostgreSQL | forebay | pgbench | errors |")
    print("|---|---|---|---|---|---|---|---|")
    for (workload, count), of_rounds in rows.items():
        middle = [statistics.median(values) for values in zip(*of_rounds, strict=True)]
        tps, latency, servers_cpu, pooler_cpu, own_cpu = middle
        figures = f"{tps:,.0f} | {latency:.2f} | {servers_cpu:.2f} | {pooler_cpu:.2f} | {own_cpu:.2f} | 0"
        print(f"| {workload} | {count} | {figures} |")


def window(
    forebay: Forebay, servers: list[Postgres], script: Path, arguments: argparse.Namespace
) -> tuple[float, float, float, float, float]:
    """One measurement: tps, mean ms, and the cores that PostgreSQL, forebay and pgbench used."""
    took = lambda: (time.monotonic(), cpu_of(servers), forebay.cpu_s(), sum(os.times()[2:4]))  # noqa: E731
    before = took()
    tps, latency = pgbench(forebay, servers[0], script, arguments.clients, arguments.seconds)
    passed, *used = (now - then for now, then in zip(took(), before, strict=True))
    return (tps, latency, *(cpu / passed for cpu in used))  # type: ignore[return-value]


def slowed(arguments: argparse.Namespace) -> None:
    """Prints what becomes of one replica's share, and of the clients' p99."""
    with cluster(3) as (primary, replicas), tempfile.TemporaryDirectory(prefix="forebay-bench-") as name:
        size = {"role": "replica", "pool_size": 30}
        for turn in range(arguments.rounds):
            for one in replicas:
                nap(one, NAP_S)
            with (
                pooled(Path(name) / str(turn), [primary, *replicas], **size) as forebay,
                Readers(forebay.target, count=arguments.clients) as readers,
            ):
                one_slowed(readers, replicas[0], arguments)
                assert not readers.errors, readers.errors


def one_slowed(readers: Readers, slow: Postgres, arguments: argparse.Namespace) -> None:
    """One round."""
    port, seconds = str(slow.port), arguments.seconds
    share: Callable[[list[Answer]], float] = lambda some: sum(one.port == port for one in some) / len(some)  # noqa: E731
    until(lambda: readers.shares(3).get(port, 0) > 0.28, within_s=SETTLED_S, what="it has its part")
    pause(seconds)
    slowed_at = time.monotonic()
    before = readers.since(slowed_at - seconds)
    nap(slow, NAP_S * arguments.times)
    pause(2 + seconds)
    healed_at = time.monotonic()
    between, while_slow = readers.since(slowed_at, slowed_at + 2), readers.since(slowed_at + 2, healed_at)
    nap(slow, NAP_S)
    until(lambda: readers.shares(2).get(port, 0) > 0.28, within_s=SETTLED_S, what="it has its part again")
    back_s = time.monotonic() - healed_at
    seconds_seen = [readers.since(slowed_at + at, slowed_at + at + 1) for at in range(int(2 + seconds))]
    p99 = [percentile(some, 0.99) * 1000 for some in (before, between, while_slow)]
    print(f"share before {share(before):.1%}, of each second since: "
          + " ".join(f"{share(some):.1%}" for some in seconds_seen))  # fmt: skip
    print(f"share from 2 s on {share(while_slow):.1%}; back above 28 % {back_s:.1f} s after it was healed")
    print(f"p99 before {p99[0]:.1f} ms, in the first 2 s {p99[1]:.1f} ms, then {p99[2]:.1f} ms: "
          f"{p99[2] / p99[0]:.2f} times; {len(readers.answers):,} answers, 0 errors")  # fmt: skip


def pause(seconds: float) -> None:
    """What is measured goes on meanwhile."""
    time.sleep(seconds)


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    orders = parser.add_subparsers(dest="order", required=True)
    for order, clients in ((scaling, 40), (slowed, 16)):
        own = orders.add_parser(order.__name__)
        own.set_defaults(act=order)
        own.add_argument("--seconds", type=float, default=10)
        own.add_argument("--rounds", type=int, default=3)
        own.add_argument("--clients", type=int, default=clients)
        if order is scaling:
            own.add_argument("--limit", type=int, default=10)
        else:
            own.add_argument("--times", type=float, default=10)
    arguments = parser.parse_args()
    arguments.act(arguments)


if __name__ == "__main__":
    main()
