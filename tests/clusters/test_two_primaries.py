"""Two that can write on one timeline, and a source that says which of them may."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.clusters.conftest import Trio
from tests.clusters.test_failover import promote
from tests.conftest import Start
from tests.harness import etcd
from tests.harness.deadline import until
from tests.harness.etcd import Etcd
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.standby import caught_up

pytestmark = pytest.mark.variants("uring-2")


# The lease of Patroni's shortest configuration.
TTL_S = 20


def are(forebay: Forebay, database: str, *expected: tuple[Postgres, str], within_s: float = 30) -> None:
    """Waits until the endpoints of a database have these roles."""
    wanted = {f"127.0.0.1:{one.port}": role for one, role in expected}

    def found() -> bool:
        rows = [row for row in forebay.console("show endpoints") if row["database"] == database]
        return {str(row["endpoint"]): row["role"] for row in rows} == wanted

    until(found, within_s=within_s, what=f"they are {wanted}")


def lead(store: Etcd, leader: str, members: dict[str, Postgres]) -> None:
    """The source names this one."""
    for name, node in members.items():
        url = f"postgres://127.0.0.1:{node.port}/postgres"
        role = "primary" if name == leader else "replica"
        store.put(f"/service/shop/members/{name}", {"conn_url": url, "state": "running", "role": role})
    store.put("/service/shop/leader", leader, lease=store.call("lease/grant", {"TTL": "600"})["ID"])


def test_of_two_that_can_write_the_one_that_holds_the_lease_gets_writes_where_that_is_asked_for(
    trio: Trio, variant: Variant, start: Start, tmp_path: Path
) -> None:
    """Who trusts the one that holds the cluster together has no outage for a server that is out of its control."""
    primary, first, second = trio
    with primary.target.at(dbname="app").connect(user="postgres", autocommit=True) as admin:
        admin.execute("create table leased (a int)")
        admin.execute("grant all on leased to app")
    for one in (first, second):
        caught_up(primary, one)
    primary.stop(signal.SIGQUIT)
    # Neither knows of the other: both take the same timeline.
    for one in (first, second):
        promote(one)
    members = {"one": first, "two": second}
    with etcd.running(tmp_path) as store:
        lead(store, "one", members)
        store.put("/service/shop/config", {"ttl": TTL_S})
        source = {
            "endpoints": [f"127.0.0.1:{primary.port}"], "topology": "etcd", "poll_user": "postgres",
            "topology_source": f"etcd://{store.host}/shop", "query_wait_timeout": "2s",
        }  # fmt: skip
        databases = {"shop": {**source, "on_two_primaries": "lease"}, "strict": source}
        forebay = start(configuration(primary, variant, databases=databases))
        are(forebay, "shop", (first, "primary"), (second, "contested"))
        are(forebay, "strict", (first, "contested"), (second, "contested"))
        with pytest.raises(psycopg.OperationalError), forebay.target.at(dbname="strict").connect() as client:
            client.execute("insert into leased values (1)")
        with forebay.target.at(dbname="shop").connect() as client:
            client.execute("insert into leased values (2)")
            client.commit()
            client.execute("insert into leased values (3)")
            lead(store, "two", members)
            are(forebay, "shop", (first, "contested"), (second, "primary"))
            with pytest.raises(psycopg.OperationalError):
                client.commit()
        with forebay.target.at(dbname="shop").connect(autocommit=True) as client:
            client.execute("insert into leased values (4)")
        assert (kept(first), kept(second)) == ([2], [4])
        (reason,) = [
            str(row["reason"]) for row in forebay.console("show endpoints")
            if row["database"] == "shop" and row["role"] == "contested"
        ]  # fmt: skip
        assert "is named" in reason
        with stopped(store):
            # It accepts connections and never answers: who holds the lease when that has run out, nobody knows.
            are(forebay, "shop", (first, "contested"), (second, "contested"), within_s=TTL_S + 40)
            assert [row["ttl_s"] for row in forebay.events("topology_lease_over")] == [TTL_S]
        are(forebay, "shop", (first, "contested"), (second, "primary"))
        lead(store, "nobody", members)
        are(forebay, "shop", (first, "contested"), (second, "contested"))


@contextlib.contextmanager
def stopped(store: Etcd) -> Iterator[None]:
    """As a machine is that hangs."""
    assert store.process is not None
    store.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        store.process.send_signal(signal.SIGCONT)


def kept(server: Postgres) -> list[int]:
    """What is in the table of a server."""
    with server.target.at(dbname="app").connect(user="postgres", autocommit=True) as admin:
        return [row[0] for row in admin.execute("select a from leased order by a").fetchall()]
