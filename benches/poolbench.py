#!/usr/bin/env python3
"""poolbench: what a connection pooler costs, side by side with its peers.

  poolbench.py run      [--poolers a,b,...] [--workloads x,y,...] [--rounds N] [--seconds S]
  poolbench.py workers  [--poolers ...] [--workloads select,many] [--rounds N] [--seconds S]
  poolbench.py latency  [--poolers ...] [--workload many] [--rates 0,4000] [--rounds N] [--seconds S]
  poolbench.py disturb  [--poolers ...] [--kinds pull,pipeline,syncs,slow] [--rate 2000] [--rounds N] [--seconds S]
  poolbench.py storm    [--poolers ...] [--clients 10000] [--rate 2000] [--rounds N] [--seconds S]
  poolbench.py logins   [--poolers ...] [--rate 5000] [--rounds N] [--seconds S]
  poolbench.py upgrades [--poolers ...] [--clients 1000] [--rate 1000] [--times 20] [--rounds N]
  poolbench.py claims   [--poolers ...] [--kinds crowd,threads,connect,...] [--rounds N] [--seconds S]
  poolbench.py resume   [--poolers ...] [--rounds N] [--seconds S]
  poolbench.py startup  [--poolers ...] [--rounds N] [--wheel FILE]
  poolbench.py bulk     [--poolers ...] [--megabytes 200] [--rounds N] [--times N]
  poolbench.py idle     [--poolers ...] [--clients 1000,5000,10000,19000] [--tls 2000] [--rounds N]
  poolbench.py databases [--databases 5000] [--rounds N]
  poolbench.py handover [--rounds N] [--times N]
  poolbench.py syscalls [--poolers ...] [--workload select]
  poolbench.py profile  [--poolers ...] [--workload select] [--folder benches/results]
  poolbench.py report   RESULTS.jsonl

Standard library only. PostgreSQL's programs (pgbench among them) and Debian's PgBouncer are fetched where the machine
has none; `syscalls` needs perf or strace, `profile` perf and cargo. Poolers are the tables of peers/*.toml; `direct` is
PostgreSQL with no pooler, floor-* the bare relays of floor/.

How a figure is made. One pooler runs at a time, fresh for each measurement, in the order A B C, A B C, ... for every
workload, so that drift of the machine falls on all alike. pgbench logs every transaction; a window of S seconds is
opened after its first progress line (so connecting is outside), the CPU of the pooler (all its threads and processes)
is read at both ends, and transactions are those completed inside. CPU comes from the cgroup's cpuacct.usage or cpu.stat
where the machine allows (nanoseconds, children included), else from utime+stime of the process tree in /proc. On two
shared cores TPS is noisy and CPU per transaction is the figure to trust; `foreign` is the CPU that neither pooler,
PostgreSQL nor pgbench used in the window (1.00 = one core).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from measuring import (
    bulk,
    claims,
    databases,
    disturber,
    hand_over,
    idle,
    logins,
    profile,
    resume,
    rounds,
    starting,
    steady,
    storm,
    syscalls,
    upgrades,
)
from measuring.postgres import CONNECTIONS_MAX
from measuring.report import read, report
from measuring.window import Bench
from measuring.workloads import WORKLOADS

POOLERS = "pgbouncer-debian,forebay,forebay-epoll"
DISTURBED = "direct,pgbouncer-debian,forebay,forebay-epoll"
WORKERS = "pgbouncer-debian,forebay,forebay-2,forebay-epoll,forebay-epoll-2"
CLAIMED = "direct,pgbouncer-debian,forebay,forebay-epoll"
BULK = "direct,pgbouncer-debian,pgbouncer-debian-64k,forebay,forebay-epoll"
WORKLOADS_DEFAULT = "select,extended,tpcb,many,wide,connect,connect-scram"
# Of these orders all rows make tables.
REPORTED = ("run", "workers", "latency", "disturb", "storm", "bulk", "idle", "claims", "resume", "startup")
IDLE_CLIENTS = (1_000, 5_000, 10_000)
RESULTS = Path(__file__).resolve().parent / "results"


def names(text: str) -> list[str]:
    """An argument that is a list."""
    return text.split(",")


def numbers(text: str) -> list[int]:
    """An argument that is a list of numbers."""
    return [int(each) for each in names(text)] if text else []


def measured(arguments: argparse.Namespace) -> None:
    """Runs the order given before a PostgreSQL of its own, then prints the tables."""
    a = arguments
    if a.out:
        Path(a.out).parent.mkdir(parents=True, exist_ok=True)
    connections = {"claims": claims.CONNECTIONS_MAX, "upgrades": upgrades.CONNECTIONS_MAX}.get(a.order, CONNECTIONS_MAX)
    bench = Bench(peers=a.peers, bin_folder=a.bin, scale=a.scale, out=a.out, tmp=os.environ.get("BENCH_TMP"),
                  connections_max=connections)  # fmt: skip
    try:
        measure(bench, a)
    finally:
        bench.close()
    if a.out and a.order in REPORTED:
        reported(argparse.Namespace(file=a.out, base=a.base, quiet=a.quiet))
    elif a.order in REPORTED:
        print(report(bench.rows, a.base, a.quiet))


def measure(bench: Bench, a: argparse.Namespace) -> None:
    """Runs the order given."""
    if a.order == "run":
        rounds.run(bench, poolers=a.poolers, workloads=a.workloads, rounds=a.rounds, seconds=a.seconds, quiet=a.quiet)
    elif a.order == "workers":
        rounds.run(bench, poolers=a.poolers, workloads=a.workloads, rounds=a.rounds, seconds=a.seconds, quiet=a.quiet,
                   marks={"workers": True})  # fmt: skip
    elif a.order == "latency":
        for rate in a.rates:
            rounds.run(bench, poolers=a.poolers, workloads=[a.workload], rounds=a.rounds, seconds=a.seconds,
                       quiet=a.quiet, rate=rate, marks={"latency": True})  # fmt: skip
    elif a.order == "disturb":
        steady.run(bench, poolers=a.poolers, kinds=a.kinds, rounds=a.rounds, seconds=a.seconds, rate=a.rate)
    elif a.order == "storm":
        storm.run(bench, poolers=a.poolers, clients=a.clients, rounds=a.rounds, seconds=a.seconds, rate=a.rate)
    elif a.order == "logins":
        logins.run(bench, poolers=a.poolers, rounds=a.rounds, seconds=a.seconds, rate=a.rate)
    elif a.order == "upgrades":
        upgrades.run(bench, poolers=a.poolers, rounds=a.rounds, times=a.times, clients=a.clients, rate=a.rate)
    elif a.order == "claims":
        claims.run(bench, poolers=a.poolers, kinds=a.kinds, count=a.rounds, seconds=a.seconds, quiet=a.quiet)
    elif a.order == "resume":
        resume.run(bench, poolers=a.poolers, count=a.rounds, seconds=a.seconds)
    elif a.order == "startup":
        starting.run(bench, poolers=a.poolers, count=a.rounds, wheel=a.wheel)
    elif a.order == "bulk":
        bulk.run(bench, poolers=a.poolers, megabytes=a.megabytes, rounds=a.rounds, times=a.times)
    elif a.order == "idle":
        idle.run(bench, poolers=a.poolers, counts=a.clients, tls_counts=a.tls, rounds=a.rounds)
    elif a.order == "databases":
        databases.run(bench, poolers=a.poolers, counts=a.databases, rounds=a.rounds)
    elif a.order == "handover":
        hand_over.run(bench, rounds=a.rounds, times=a.times)
    elif a.order == "profile":
        profile.run(bench, poolers=a.poolers, workload=a.workload, seconds=a.seconds, folder=a.folder)
    else:
        syscalls.run(bench, poolers=a.poolers, workload=a.workload, rounds=a.rounds, seconds=a.seconds)


def reported(arguments: argparse.Namespace) -> None:
    """Prints the tables of a results file, and keeps them beside it."""
    path = Path(arguments.file)
    text = report(read(path), arguments.base, arguments.quiet)
    path.with_suffix(".md").write_text(text + "\n")
    print(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    orders = top.add_subparsers(dest="order", required=True)
    order = orders.add_parser("run", parents=[runs()], help="cost of transactions")
    order.add_argument("--workloads", type=names, default=names(WORKLOADS_DEFAULT), help=",".join(WORKLOADS))
    add_points(orders)
    order = orders.add_parser("handover", parents=[runs()], help="what a hand-over to the next client costs the server")
    order.add_argument("--times", type=int, default=400, help="of each form in a round")
    order = orders.add_parser("syscalls", parents=[runs()], help="system calls of a transaction")
    order.add_argument("--workload", default="select", choices=WORKLOADS)
    order = orders.add_parser("profile", parents=[runs()], help="a flame graph of what a transaction costs")
    order.add_argument("--workload", default="select", choices=WORKLOADS)
    order.add_argument("--folder", type=Path, default=RESULTS, help="where the graph and its stacks go")
    order = orders.add_parser("report", parents=[shared()], help="tables of earlier results")
    order.add_argument("file")
    return top


def shared() -> argparse.ArgumentParser:
    """What all orders take."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--base", default="pgbouncer-debian", help="the pooler that ratios are taken against")
    common.add_argument("--quiet", type=float, default=0.3, metavar="CORES",
                        help="windows in which others used more are measured again, twice at most")  # fmt: skip
    return common


def runs(*, poolers: str = POOLERS, rounds: int = 3, seconds: float = 4) -> argparse.ArgumentParser:
    """What all take that measure, with an order's own defaults: parsers of one parent would share theirs."""
    common = argparse.ArgumentParser(add_help=False, parents=[shared()])
    common.add_argument("--poolers", type=names, default=names(poolers))
    built = Path(os.environ.get("PEER_OUT", ".")) / "bin"
    common.add_argument("--bin", type=Path, default=built, help="folder of the built peers ($PEER_OUT/bin)")
    common.add_argument("--peers", action="append", default=[], help="a further file of poolers")
    common.add_argument("--rounds", type=int, default=rounds)
    common.add_argument("--seconds", type=float, default=seconds)
    common.add_argument("--scale", type=int, default=10, help="of pgbench's tables")
    common.add_argument("--out", help="append rows to this JSON-lines file")
    return common


def add_points(orders: Any) -> None:
    """Orders that measure one point each."""
    order = orders.add_parser(
        "workers", parents=[runs(poolers=WORKERS)], help="one worker and two, and who used the cores"
    )
    order.add_argument("--workloads", type=names, default=["select", "many"], help=",".join(WORKLOADS))
    order = orders.add_parser("latency", parents=[runs(seconds=8)], help="how long clients wait, up to p99.9")
    order.add_argument("--workload", default="many", choices=WORKLOADS)
    order.add_argument("--rates", type=numbers, default=[0, 4000],
                       help="transactions a second that are due; 0: each client asks again at once")  # fmt: skip
    rate: dict[str, Any] = {"type": int, "default": 2000, "help": "of the steady load, transactions a second"}
    order = orders.add_parser(
        "disturb", parents=[runs(poolers=DISTURBED)], help="a load alone, and beside a bad client"
    )
    order.add_argument("--kinds", type=names, default=list(disturber.KINDS), help=",".join(steady.KINDS))
    order.add_argument("--rate", **rate)
    order = orders.add_parser("storm", parents=[runs()], help="all clients come at once; 500 new ones a second")
    order.add_argument("--clients", type=int, default=10_000)
    order.add_argument("--rate", **rate)
    order = orders.add_parser("logins", parents=[runs(rounds=5)], help="good logins beside bad ones of 49 addresses")
    order.add_argument("--rate", type=int, default=5000, help="bad logins a second")
    order = orders.add_parser(
        "upgrades",
        parents=[runs(poolers="forebay,forebay-epoll", rounds=1)],
        help="online restarts under clients at work",
    )
    order.add_argument("--clients", type=int, default=1000)
    order.add_argument("--times", type=int, default=20, help="one after the other")
    order.add_argument("--rate", type=int, default=1000, help="requests a second of all clients")
    order = orders.add_parser("claims", parents=[runs(poolers=CLAIMED)], help="what services claim of poolers")
    order.add_argument("--kinds", type=names, default=list(claims.KINDS), help=",".join(claims.KINDS))
    orders.add_parser("resume", parents=[runs()], help="TLS handshakes, full and resumed")
    order = orders.add_parser("startup", parents=[runs(rounds=15)], help="from start to service; the wheel's size")
    order.add_argument("--wheel", type=Path, help="a wheel to tell the size of")
    order = orders.add_parser("bulk", parents=[runs(poolers=BULK)], help="COPY out, COPY in, a big result")
    order.add_argument("--megabytes", type=int, default=200)
    order.add_argument("--times", type=int, default=3, help="of each kind in a round")
    order = orders.add_parser("idle", parents=[runs(rounds=1)], help="memory of idle clients")
    most = idle.clients_most()
    order.add_argument("--clients", type=numbers, default=sorted({*(n for n in IDLE_CLIENTS if n < most), most}))
    order.add_argument("--tls", type=numbers, default=[2_000], help="numbers of clients over TLS")
    order = orders.add_parser(
        "databases", parents=[runs(poolers="forebay", rounds=1)], help="memory of thousands of databases in one process"
    )
    order.add_argument("--databases", type=numbers, default=[5_000], help="numbers of databases")


def main() -> None:
    """Runs one order."""
    arguments = parser().parse_args()
    # What was started is ended whatever ends us.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    reported(arguments) if arguments.order == "report" else measured(arguments)


if __name__ == "__main__":
    main()
