"""What databases cost of which there are thousands in one process, and what is left of them once nobody uses them.

All of them stand for one database of PostgreSQL's, and servers are limited over all of them (`max_user_connections`): a
pool's server makes room for the next pool's, so that PostgreSQL is not what is measured. What a database costs is what
clients with a database each hold more than as many that share one.
"""

from __future__ import annotations

import subprocess
import time

from measuring.idle import FILES_BESIDE, SETTLE_S, Clients, warm
from measuring.pooler import NotOffered, Pooler
from measuring.tables import Row
from measuring.window import Bench
from measuring.workloads import DB, USER

SERVERS_MAX = 50
# Pools that nobody uses are forgotten after this, and servers that nobody uses are closed after that.
POOL_IDLE_S, SERVER_IDLE_S = 2, 1
FORGOTTEN_WITHIN_S = 120.0
# Twice: what is forgotten must make room for what comes.
TIMES = 2
CONSOLE = "forebay"


def values(databases: int) -> dict[str, object]:
    """What stands in the configuration besides."""
    listed = "\n".join(
        f'[databases.d{at}]\nendpoints = ["{{{{endpoint}}}}"]\ndbname = "{DB}"' for at in range(databases)
    )
    return {
        "more_limits": f'max_user_connections = {SERVERS_MAX}\npool_idle_timeout = "{POOL_IDLE_S}s"',
        "more_defaults": f'server_idle_timeout = "{SERVER_IDLE_S}s"',
        "more_tables": f'{listed}\n[console]\nadmins = ["{USER}"]',
    }


def run(bench: Bench, *, poolers: list[str], counts: list[int], rounds: int) -> None:
    """Measures and records poolers with each number of databases, if their configuration has a place for them."""
    bench.clients_max = max([bench.clients_max, *(count + FILES_BESIDE // 2 for count in counts)])
    for number in range(rounds):
        for count in counts:
            for name in poolers:
                if bench.specs[name].get("conf") != "forebay":
                    print(
                        f"{name:16} is not measured: its configuration has no place for further databases", flush=True
                    )
                    continue
                try:
                    pooler = bench.start(name, values=values(count))
                except (RuntimeError, NotOffered) as error:
                    print(f"{name:16} FAILED {error}", flush=True)
                    continue
                try:
                    row = measured(bench, pooler, count)
                    bench.record(databases=True, round=number, pooler=name, **row)
                    print(f"{name:16} {number} {line(row)}", flush=True)
                except (RuntimeError, OSError, TimeoutError) as error:
                    print(f"{name:16} FAILED {error} {pooler.log_tail()}", flush=True)
                    bench.record(failed=str(error)[-400:], pooler=name, workload=f"databases, {count}", round=number)
                finally:
                    pooler.stop()


def measured(bench: Bench, pooler: Pooler, count: int) -> Row:
    """A row: memory before, with as many clients of one database, with one of each, and when pools are forgotten."""
    group = pooler.group
    assert group
    warm(bench, pooler)
    forgotten(bench, pooler)
    row: Row = {"count": count, "base_kib": group.own_kib()}
    row["shared_kib"], _, _ = held(bench, pooler, count, is_each=False)
    row["shared_gone_kib"] = forgotten(bench, pooler)
    for at in range(TIMES):
        row[f"each_{at}_kib"], row[f"connect_{at}_s"], pools = held(bench, pooler, count, is_each=True)
        if pools < count:
            raise RuntimeError(f"there are {pools} pools of {count} databases")
        row[f"gone_{at}_kib"] = forgotten(bench, pooler)
    row["per_database"] = (row["each_0_kib"] - row["shared_kib"]) * 1024 / count
    row["left_per_database"] = (row["gone_1_kib"] - row["gone_0_kib"]) * 1024 / count
    return row


def held(bench: Bench, pooler: Pooler, count: int, *, is_each: bool) -> tuple[int, float, int]:
    """Memory with so many clients that have asked something, how long they took to come, and the pools there are."""
    assert pooler.group
    many = Clients(pooler.port, count, is_each=is_each)
    try:
        connect_s = float(many.wait_for("open")[0])
        many.go_on()
        many.wait_for("used")
        time.sleep(SETTLE_S)
        return pooler.group.own_kib(), connect_s, pools_of(bench, pooler)
    finally:
        many.process.kill()
        many.process.wait()


def forgotten(bench: Bench, pooler: Pooler) -> int:
    """Memory once no pool is left."""
    assert pooler.group
    end = time.monotonic() + FORGOTTEN_WITHIN_S
    while pools_of(bench, pooler):
        if time.monotonic() > end:
            raise TimeoutError(f"pools are there after {FORGOTTEN_WITHIN_S:.0f} s that nobody uses")
        time.sleep(SETTLE_S)
    time.sleep(SETTLE_S)
    return pooler.group.own_kib()


def pools_of(bench: Bench, pooler: Pooler) -> int:
    """How many there are, the console's own aside."""
    argv = [*bench.pg.client("psql", USER, pooler.port), "-qAtX", "-d", CONSOLE, "-c", "SHOW POOLS"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, env=bench.pg.environment)
    if done.returncode:
        raise RuntimeError(f"the console: {done.stderr.strip()}")
    return len({row.split("|")[0] for row in done.stdout.splitlines()} - {"forebay", "pgbouncer", ""})


def line(row: Row) -> str:
    """A row for people who watch."""
    mib = {name: row[f"{name}_kib"] / 1024 for name in ("base", "shared", "each_0", "gone_0", "each_1", "gone_1")}
    return (
        f"{row['count']} databases: MiB before {mib['base']:.1f}, with as many clients of one {mib['shared']:.1f}, "
        f"with a client of each {mib['each_0']:.1f} ({row['per_database']:.0f} B a database), forgotten "
        f"{mib['gone_0']:.1f}; again {mib['each_1']:.1f} and {mib['gone_1']:.1f} "
        f"(left: {row['left_per_database']:.0f} B a database); "
        f"all came in {row['connect_0_s']} s"
    )
