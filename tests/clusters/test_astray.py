"""A replica that has not followed the new primary: what it shows is from before the change, for ever."""

from __future__ import annotations

import threading

import psycopg
import pytest

from tests.clusters.conftest import Trio
from tests.clusters.test_failover import are, promote
from tests.clusters.test_roles import clustered, endpoints
from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.standby import caught_up

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

# A read that tells where it was served.
WHERE = "select current_setting('port')::int, (select count(*) from scratch where a = 7)"


@pytest.fixture
def forebay(trio: Trio, variant: Variant, start: Start) -> Forebay:
    """One that sends reads to the replicas, and nothing else of another database."""
    split = clustered(*trio, read_write_split=True, read_consistency="eventual", server_check_delay="0s")
    reading = clustered(*trio, role="replica", server_check_delay="0s")
    databases = {"app": split, "reading": reading}
    return start(configuration(trio[0], variant, databases=databases))


class Reader(threading.Thread):
    """Reads once of the database that is served by replicas alone."""

    def __init__(self, forebay: Forebay) -> None:
        super().__init__()
        self.target = forebay.target.at(dbname="reading")
        self.found: tuple[int, int] | None = None
        self.start()

    def run(self) -> None:
        with self.target.connect(autocommit=True) as client:
            self.found = client.execute(WHERE).fetchone()


def reason(forebay: Forebay, server: Postgres) -> str:
    """Why an endpoint has its role."""
    rows = {row["endpoint"]: row for row in forebay.console("show endpoints") if row["database"] == "app"}
    return str(rows[f"127.0.0.1:{server.port}"]["reason"])


def where(client: psycopg.Connection) -> tuple[int, int]:
    """Where a read is served, and how many of the new rows it finds."""
    found = client.execute(WHERE).fetchone()
    assert found is not None
    return found


def points_at(standby: Postgres, primary: Postgres) -> None:
    """From here on a standby follows that one."""
    with standby.target.connect(user="postgres", autocommit=True) as admin:
        there = f"host=127.0.0.1 port={primary.port} user=postgres"
        admin.execute(f"alter system set primary_conninfo to '{there}'".encode())
        admin.execute("select pg_reload_conf()")


def test_a_replica_serves_again_once_it_has_followed(trio: Trio, forebay: Forebay) -> None:
    """A failover has left it behind, with no word of the new primary; nobody may read there what has long changed."""
    lost, heir, left = trio
    are([forebay], trio, "primary", "replica", "replica")
    with forebay.target.connect(autocommit=True) as client:
        until(lambda: where(client)[0] == left.port, within_s=30, what="reads are the replicas'")
        for each in (heir, left):
            caught_up(lost, each)
        lost.kill()
        promote(heir)
        are([forebay], trio, "down", "primary", "astray")
        assert "has not followed the new primary" in reason(forebay, left)
        client.execute("insert into scratch values (7, 'new')")
        assert {where(client) for _ in range(20)} == {(heir.port, 1)}
        # Each database has its endpoints asked for itself.
        gone = lambda: endpoints(forebay, "reading", 3)[f"127.0.0.1:{left.port}"]["role"] == "astray"  # noqa: E731
        until(gone, within_s=30, what="no replica serves the other database either")
        reader = Reader(forebay)
        are([forebay], trio, "down", "primary", "astray")
        assert {where(client) for _ in range(20)} == {(heir.port, 1)}
        assert reader.is_alive(), "it waits, and reads nothing that is old"
        points_at(left, heir)
        are([forebay], trio, "down", "primary", "replica")
        until(lambda: where(client) == (left.port, 1), within_s=30, what="reads are the replica's again")
        reader.join(30)
        assert reader.found is not None
        assert reader.found[0] == left.port
    told = [one for one in forebay.events("endpoint_role") if one["database"] == "app" and one["role"] == "astray"]
    assert [(one["level"], one["endpoint"]) for one in told] == [("warn", f"127.0.0.1:{left.port}")]


def test_a_replica_of_a_deposed_primary_serves_nobody(trio: Trio, forebay: Forebay) -> None:
    """However far it is: it has what nobody should have written, and nothing that was written since."""
    deposed, heir, left = trio
    are([forebay], trio, "primary", "replica", "replica")
    promote(heir)
    are([forebay], trio, "deposed", "primary", "astray")
    with deposed.target.at(dbname="app").connect(autocommit=True) as aside:
        aside.execute("insert into scratch select 7, 'aside' from generate_series(1, 20000)")
    caught_up(deposed, left)
    with forebay.target.connect(autocommit=True) as client:
        for _ in range(3):
            are([forebay], trio, "deposed", "primary", "astray")
            assert {where(client) for _ in range(20)} == {(heir.port, 0)}
        (route,) = forebay.console("explain route app 'select 1'")
        assert (route["role"], route["endpoint"]) == ("primary", f"127.0.0.1:{heir.port}"), route
