"""The primary of a cluster under Patroni is killed under 200 clients: what that costs, and nothing more."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from forebay.control.drill.ledger import Ledger
from forebay.control.drill.report import Report
from forebay.control.drill.run import Drill, Plan

from tests.conftest import skip_without_uring
from tests.harness import patroni, pooler
from tests.harness.deadline import until
from tests.harness.patroni import NAMES, SCOPE, TTL_S, Node, Watch
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres

CLIENTS, RATE, POOL_SIZE = 200, 400, 20
# What forebay may add to a promotion, 0.7 s, and what a busy machine adds to that.
SERVED_S, BUSY_S = 0.7, 4.0


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("driver", "kind"),
    [
        pytest.param(Variant("uring", 2), "etcd", id="uring-2"),
        pytest.param(Variant("epoll", 1), "patroni", id="epoll-1", marks=pytest.mark.slow),
    ],
)
def test_a_crash_costs_what_was_under_way_and_nothing_acknowledged(
    server: Postgres, tmp_path: Path, driver: Variant, kind: str
) -> None:
    """Else a failover is an outage of its own: reconnecting clients, lost orders, orders made twice."""
    with patroni.running(server.programs, is_synchronous=True) as cluster:
        leader = cluster.leader()
        apis = ",".join(node.api for node in cluster.nodes.values())
        source = {"etcd": f"etcd://127.0.0.1:{cluster.etcd.port}/{SCOPE}", "patroni": f"patroni://{apis}"}[kind]
        database = {"dbname": "postgres", "topology": kind, "topology_source": source, "poll_user": "postgres",
                    "pool_size": POOL_SIZE, "query_wait_timeout": "90s", "server_check_delay": "0s"}  # fmt: skip
        sections = configuration(leader.port, driver, databases={"drill": database})
        with skip_without_uring(driver), pooler.running(tmp_path, sections, driver) as forebay:
            _is_whole(forebay, leader)
            with psycopg.connect(leader.target.dsn(), autocommit=True) as admin:
                admin.execute("set synchronous_commit = local")
                admin.execute("create role app login")
                admin.execute("alter role app set synchronous_commit = on")
                admin.execute("grant create on database postgres to app")
            heirs = [node for node in cluster.nodes.values() if node is not leader]
            with Watch(heirs) as watch:
                found = _drill(forebay, leader)
            _judge(found, watch)
            (loss,) = until(lambda: forebay.events("failover_loss"), within_s=20, what="it tells the cost")
            print(loss)
            assert loss["old"].endswith(f":{leader.port}")


def _is_whole(forebay: Forebay, leader: Node) -> None:
    def roles() -> bool:
        found = {row["endpoint"]: row["role"] for row in forebay.console("show endpoints")}
        is_led = found.get(f"127.0.0.1:{leader.port}") == "primary"
        return is_led and [*found.values()].count("replica") == len(NAMES) - 1

    until(roles, within_s=30, what="forebay knows all three")


def _drill(forebay: Forebay, leader: Node) -> Report:
    parameters = {"host": "127.0.0.1", "port": forebay.target.port, "dbname": "drill", "user": "app"}
    plan = Plan(how="kill", clients=CLIENTS, rate=RATE, reads=0.3, before_s=3, after_s=2, within_s=TTL_S + 60)
    return Drill(parameters, Ledger(parameters), plan, lambda _tell: leader.kill()).run()


def _judge(found: Report, watch: Watch) -> None:
    assert watch.promoted_at is not None
    added_s = found.resumed_at - watch.promoted_at
    print(found.text(), f"served again {added_s:.3f} s after the heir said that it can write")
    assert found.is_sound, found.text()
    assert (found.truth.lost, found.truth.doubled, found.truth.risen) == ((), (), ())
    # Lost with the connection, and what may have been committed by then: nothing else fails.
    assert set(found.errors) <= {"57P01", "08007"}, found.errors
    assert sum(found.errors.values()) + found.sessions_lost <= POOL_SIZE, found.text()
    assert found.logins_failed == 0
    assert added_s < SERVED_S + BUSY_S
