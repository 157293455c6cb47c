"""What managed services claim of a pooler, each as a measurement: beside connections straight to PostgreSQL, and beside
PgBouncer. What is compared with a claim is the ratio to `direct` in the same rounds."""

from __future__ import annotations

import json

from measuring import rounds
from measuring.idle import warm
from measuring.loads import loading, window
from measuring.pooler import POOL_SIZE, Pooler
from measuring.tables import Row
from measuring.window import Bench

# Of PostgreSQL: enough for 500 clients without a pooler.
CONNECTIONS_MAX = 560
CROWD, CROWD_SERVERS = 10_000, 200
# What a web application gets, and what PostgreSQL alone can bear on two cores.
REQUESTS_PER_S = {"web": 1_000, "web-light": 200}
# Of the network between the application's host and PostgreSQL's.
ROUND_TRIP_MS = 10
# As bench.measure has them; the others are measured here.
BY_PGBENCH = {"connect": "connect-threads", "threads": "threads"}
KINDS = ("crowd", "threads", "connect", "web", "web-light", "visits", "visits-tls", "far")


def run(bench: Bench, *, poolers: list[str], kinds: list[str], count: int, seconds: float, quiet: float) -> None:
    """Measures and records all claims, each in as many rounds."""
    for kind in kinds:
        if kind in BY_PGBENCH:
            marks = {"claim": kind, "servers": POOL_SIZE, "refused": 0, "unserved": 0}
            rounds.run(bench, poolers=poolers, workloads=[BY_PGBENCH[kind]], rounds=count, seconds=seconds,
                       quiet=quiet, marks=marks)  # fmt: skip
        elif kind == "crowd":
            _rounds(bench, poolers, kind, count, seconds, values={"pool": CROWD_SERVERS})
        elif kind == "far":
            with loading("far.py", bench.pg.port, ROUND_TRIP_MS) as far:
                _rounds(bench, poolers, kind, count, seconds, far_port=int(far.line()))
        else:
            _rounds(bench, poolers, kind, count, seconds)


def _rounds(
    bench: Bench, poolers: list[str], kind: str, count: int, seconds: float, *, values: Row | None = None,
    far_port: int = 0,
) -> None:  # fmt: skip
    """One claim. far_port: where PostgreSQL is reached over the network."""
    is_scram = kind in ("visits-tls", "far")

    def start(name: str) -> Pooler:
        there = {"pg_port": far_port, "endpoint": f"127.0.0.1:{far_port}"} if far_port else {}
        pooler = bench.start(name, "scram" if is_scram else "trust", is_scram, {**(values or {}), **there})
        if name == "direct" and far_port:
            pooler.port = far_port
        return pooler

    def measure(pooler: Pooler, number: int) -> None:
        row = MEASURED[kind](bench, pooler, kind, seconds)
        servers = (values or {}).get("pool", POOL_SIZE)
        row |= {"claim": kind, "round": number, "pooler": pooler.name, "servers": servers}
        bench.record(**row)
        print(line(row), flush=True)

    rounds.each(bench, poolers=poolers, rounds=count, workload=kind, measure=measure, start=start)


def _crowd(bench: Bench, pooler: Pooler, _kind: str, seconds: float) -> Row:
    """All come at once and ask one query each; those that were served then ask as fast as they can."""
    with loading("crowd.py", "busy", pooler.port, CROWD, seconds) as load:
        came = json.loads(load.line())
        load.go_on()
        row = window(bench, pooler, load)
    return row | {"clients": CROWD, "served": came["served"], "refused": came["refused"], "why": came["why"]}


def _web(bench: Bench, pooler: Pooler, kind: str, seconds: float) -> Row:
    """Requests that are due at a rate, each with a connection of its own. The pooler has its servers before."""
    if pooler.group:
        warm(bench, pooler)
    with loading("crowd.py", "churn", pooler.port, REQUESTS_PER_S[kind], seconds) as load:
        return window(bench, pooler, load) | {"clients": REQUESTS_PER_S[kind]}


def _visits(bench: Bench, pooler: Pooler, kind: str, seconds: float) -> Row:
    """One after the other connects, asks and leaves; by trust, or with a password over TLS."""
    with loading("visits.py", pooler.port, pooler.user, seconds, *([] if kind == "visits" else ["tls"])) as load:
        return window(bench, pooler, load) | {"clients": 1}


MEASURED = {
    "crowd": _crowd, "web": _web, "web-light": _web, "visits": _visits, "visits-tls": _visits, "far": _visits,
}  # fmt: skip


def line(row: Row) -> str:
    """A row for people who watch."""
    return (
        f"{row['claim']:12} {row['round']} {row['pooler']:16} {row['tps']:8.0f}/s  refused {row['refused']}, unserved "
        f"{row['unserved']}  p50 {row['p50_us'] / 1000:8.2f} ms  p99 {row['p99_us'] / 1000:8.2f} ms  CPU "
        f"{row['cpu_us']:7.1f}  pg {row['pg_us']:7.1f}  load {row['load_us']:7.1f}  foreign {row['foreign']:.2f}"
    )
