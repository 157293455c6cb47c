#!/usr/bin/env python3
"""failovers: what clients of forebay see of a planned switchover, and of a primary that is killed under Patroni.

  failovers.py switched [--seconds 5] [--rounds 3] [--clients 200] [--rate 2000]
  failovers.py killed   [--seconds 5] [--rounds 3] [--clients 200] [--rate 400] [--told-by etcd|patroni]

Each round has a fresh cluster, forebay in front of it, and the load of `forebay drill`: clients that insert rows of a
ledger or read one, for S seconds before and after. What the ledger has is compared with what clients were told. Told
are the figures of each round, and the middle, the least and the most of all rounds.

switched. `forebay drill --how switchover` from a primary to its one replica, half of the load reads. The promotion is
from its order to its success, by the steps that forebay tells; waits are compared with it.

killed. Three PostgreSQL servers under Patroni with etcd and synchronous_mode; the leader and its Patroni are killed.
When one of the others can write is asked of them every 10 ms, and service is counted from then on: what lies between
the kill and that is Patroni's time (its ttl of 20 s).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from forebay.control.drill.ledger import Ledger
from forebay.control.drill.run import Drill, Plan

from tests.harness import patroni, postgres
from tests.harness.certificates import Authority
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration, running
from tests.harness.standby import standby_of

VARIANT = Variant("uring", 1)
POOL_SIZE = 20
ROLES_S = 30.0
# Until Patroni has promoted somebody and service is back.
WITHIN_S = 120.0


def knows(forebay: Forebay, *roles: str) -> Callable[[], bool]:
    """Whether it knows that the endpoints have these roles."""
    return lambda: sorted(row["role"] for row in forebay.console("show endpoints")) == sorted(roles)


def switched(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """A round of it."""
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(postgres.running(18, Authority(folder)))
        replica = stack.enter_context(standby_of(primary))
        database = {
            "endpoints": [f"127.0.0.1:{one.port}" for one in (primary, replica)], "topology": "poll",
            "poll_user": "postgres", "pool_size": POOL_SIZE, "read_write_split": True,
        }  # fmt: skip
        sections = configuration(primary, VARIANT, databases={"app": database})
        forebay = stack.enter_context(running(folder / "forebay", sections, VARIANT))
        until(knows(forebay, "primary", "replica"), within_s=ROLES_S, what="the roles are known")
        at, seconds = f"host=127.0.0.1 port={forebay.port}", str(arguments.seconds)
        done = subprocess.run(
            [sys.executable, "-m", "forebay", "drill", f"{at} user=app dbname=app", "--dsn", f"{at} user=ops",
             "--how", "switchover", "--json", "--yes", "--clients", str(arguments.clients),
             "--rate", str(arguments.rate), "--before", seconds, "--after", seconds],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    if not done.stdout:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    for line in found["lines"]:
        print(f"  {line['at_s'] * 1000:6.0f} ms  {line['text']}")
    told = {line["text"].partition(":")[0].split()[0]: line["at_s"] for line in found["lines"]}
    promotion_s = told["promoted"] - told["promote"]
    longest_s = max(found["longest_write_s"], found["longest_read_s"])
    return {**of_clients(found), "promotion, s": promotion_s, "longest wait beyond it, s": longest_s - promotion_s}


def killed(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """A round of it."""
    programs = postgres.unpack(18, folder)
    with patroni.running(programs, is_synchronous=True) as cluster:
        leader = cluster.leader()
        source = {
            "etcd": f"etcd://127.0.0.1:{cluster.etcd.port}/{patroni.SCOPE}",
            "patroni": f"patroni://{','.join(node.api for node in cluster.nodes.values())}",
        }[arguments.told_by]
        database = {
            "dbname": "postgres", "topology": arguments.told_by, "topology_source": source, "poll_user": "postgres",
            "pool_size": POOL_SIZE, "query_wait_timeout": "90s", "read_write_split": True,
        }  # fmt: skip
        sections = configuration(leader.port, VARIANT, databases={"drill": database})
        with running(folder / "forebay", sections, VARIANT) as forebay:
            until(knows(forebay, "primary", "replica", "replica"), within_s=ROLES_S, what="the roles are known")
            with psycopg.connect(leader.target.dsn(), autocommit=True) as admin:
                admin.execute("set synchronous_commit = local")
                admin.execute("create role app login")
                admin.execute("alter role app set synchronous_commit = on")
                admin.execute("grant create on database postgres to app")
            parameters = {"host": "127.0.0.1", "port": forebay.port, "dbname": "drill", "user": "app"}
            plan = Plan(how="kill", clients=arguments.clients, rate=arguments.rate, reads=0.5,
                        before_s=arguments.seconds, after_s=arguments.seconds, within_s=WITHIN_S)  # fmt: skip
            with patroni.Watch([node for node in cluster.nodes.values() if node is not leader]) as watch:
                found = Drill(parameters, Ledger(parameters), plan, lambda _tell: leader.kill()).run()
    assert watch.promoted_at is not None, "nobody was promoted"
    by_code = ", ".join(f"{count} of {code}" for code, count in sorted(found.errors.items()))
    print(f"  errors: {by_code or 'none'}")
    return {
        **of_clients(json.loads(found.json())),
        "out of service, s": found.rto_s,
        "served after the promotion, s": found.resumed_at - watch.promoted_at,
    }


def of_clients(found: dict[str, Any]) -> dict[str, float]:
    """What they saw, of a report of `forebay drill`."""
    return {
        "statements a second before": found["rate_before"],
        "acknowledged writes": found["acknowledged"],
        "errors": sum(found["errors"].values()),
        "sessions lost, logins failed": found["sessions_lost"] + found["logins_failed"],
        "of these writes lost, twice, or refused and there": found["lost"] + found["doubled"] + found["risen"],
        "longest wait of a write, s": found["longest_write_s"],
        "longest wait of a read, s": found["longest_read_s"],
    }


def main() -> None:
    """Reads the arguments, and prints what all rounds have shown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    orders = parser.add_subparsers(dest="order", required=True)
    for order, rate in ((switched, 2000), (killed, 400)):
        own = orders.add_parser(order.__name__)
        own.set_defaults(act=order)
        own.add_argument("--seconds", type=float, default=5)
        own.add_argument("--rounds", type=int, default=3)
        own.add_argument("--clients", type=int, default=200)
        own.add_argument("--rate", type=float, default=rate)
    own.add_argument("--told-by", choices=["etcd", "patroni"], default="etcd")
    arguments = parser.parse_args()
    rounds: list[dict[str, float]] = []
    for turn in range(arguments.rounds):
        print(f"round {turn + 1}")
        with tempfile.TemporaryDirectory(prefix="forebay-bench-") as name:
            rounds.append(arguments.act(Path(name), arguments))
        print("".join(f"  {name}: {value:,.3g}\n" for name, value in rounds[-1].items()), end="", flush=True)
    print("\n| | middle | least | most |\n|---|---|---|---|")
    for name in rounds[0]:
        values = [each[name] for each in rounds]
        print(f"| {name} | " + " | ".join(f"{of(values):,.4g}" for of in (statistics.median, min, max)) + " |")


if __name__ == "__main__":
    main()
