"""Row 24 of the faults: a replica whose replay stands still gets no reads from its limit on, of bytes or of time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import psycopg
import pytest

from tests.clusters.test_roles import clustered, endpoints
from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.standby import caught_up

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

WHERE = "select current_setting('port')"


@pytest.fixture
def replicas(server: Postgres, standbys: Sequence[Postgres]) -> Iterator[Sequence[Postgres]]:
    """Two that may be stopped from replaying."""
    with server.target.at(dbname="app").connect(user="postgres", autocommit=True) as admin:
        admin.execute("create table lagging (id int)")
        admin.execute("grant all on lagging to app")
    two = standbys[:2]
    for one in two:
        caught_up(server, one)
    yield two
    for one in two:
        replay(one, "resume")
    with server.target.at(dbname="app").connect(user="postgres", autocommit=True) as admin:
        admin.execute("drop table lagging")


def replay(standby: Postgres, what: str) -> None:
    """Pauses it, or resumes."""
    with standby.target.connect(user="postgres", autocommit=True) as admin:
        admin.execute(f"select pg_wal_replay_{what}()".encode())
        if what == "pause":
            paused = "select pg_get_wal_replay_pause_state() = 'paused'"
            until(lambda: admin.execute(paused).fetchone() == (True,), within_s=30, what="replay stands still")


def write(server: Postgres) -> None:
    """A megabyte of WAL, which is far above the limit."""
    with server.target.connect(user="postgres", autocommit=True) as admin:
        admin.execute("select pg_logical_emit_message(true, 'lag', repeat('x', 1000000))")


def port_of(client: psycopg.Connection) -> str:
    """Where a read of a client is made."""
    row = client.execute(WHERE).fetchone()
    assert row is not None
    return str(row[0])


def sees_its_own(writer: psycopg.Connection, numbers: Iterable[int]) -> None:
    """One row after the other, each of which is there when it is looked for."""
    for number in numbers:
        writer.execute("insert into lagging values (%s)", [number])
        assert writer.execute("select count(*) from lagging").fetchone() == (number + 1,)


def are(forebay: Forebay, replicas: Sequence[Postgres], *roles: str) -> None:
    """Waits until the replicas have these roles."""

    def found() -> bool:
        rows = endpoints(forebay, "shop", 3)
        return [rows[f"127.0.0.1:{one.port}"]["role"] for one in replicas] == list(roles)

    until(found, within_s=30, what=f"they are {roles}")


def test_a_replica_that_lags_behind_gets_no_reads_until_it_has_caught_up(
    server: Postgres, replicas: Sequence[Postgres], variant: Variant, start: Start
) -> None:
    """Who reads what is hours old hears no error, and decides by it."""
    split = clustered(server, *replicas, read_write_split=True, replica_lag_max="256KB")
    forebay = start(
        configuration(server, variant, databases={"shop": {**split, "read_consistency": "eventual"}, "own": {**split}})
    )
    endpoints(forebay, "shop", 3)
    first, second, primary = (str(one.port) for one in (*replicas, server))
    with (
        forebay.target.at(dbname="shop").connect(autocommit=True) as reader,
        forebay.target.at(dbname="own").connect(autocommit=True) as writer,
    ):
        served = lambda: {port_of(reader) for _ in range(20)}  # noqa: E731
        until(lambda: served() == {first, second}, within_s=30, what="both serve")
        until(lambda: port_of(writer) in (first, second), within_s=30, what="who has written nothing reads there")
        for one in replicas:
            replay(one, "pause")
        # Whoever writes sees what it has written, whatever the replicas have: they are not too far behind to serve.
        sees_its_own(writer, range(5))
        are(forebay, replicas, "replica", "replica")
        replay(replicas[1], "resume")
        write(server)
        are(forebay, replicas, "lagging", "replica")
        assert served() == {second}
        replay(replicas[1], "pause")
        write(server)
        are(forebay, replicas, "lagging", "lagging")
        assert served() == {primary}, "better from the primary than that old"
        sees_its_own(writer, range(5, 7))
        for one in replicas:
            replay(one, "resume")
        are(forebay, replicas, "replica", "replica")
        until(lambda: served() == {first, second}, within_s=30, what="both serve again")
    assert [line["endpoint"] for line in forebay.events("endpoint_role") if line["role"] == "lagging"]


def test_a_replica_whose_replay_is_too_old_gets_no_reads_until_it_has_caught_up(
    server: Postgres, replicas: Sequence[Postgres], variant: Variant, start: Start
) -> None:
    """A few bytes that are an hour old are a wrong answer as well; and a night without writes must stop nobody."""
    # Nothing is kept for rpo_target, and nothing is written by forebay.
    split = clustered(
        server, *replicas, read_write_split=True, replica_lag_time_max="3s", rpo_target="0s", canary_interval="0s"
    )
    forebay = start(configuration(server, variant, databases={"shop": {**split, "read_consistency": "eventual"}}))
    endpoints(forebay, "shop", 3)
    first, second = (str(one.port) for one in replicas)
    name = f"127.0.0.1:{first}"
    with (
        forebay.target.at(dbname="shop").connect(autocommit=True) as reader,
        server.target.connect(user="postgres", autocommit=True) as admin,
    ):
        served = lambda: {port_of(reader) for _ in range(20)}  # noqa: E731
        until(lambda: served() == {first, second}, within_s=30, what="both serve")
        replay(replicas[0], "pause")
        admin.execute("select pg_logical_emit_message(true, 'lag', 'x')")
        are(forebay, replicas, "lagging", "replica")
        assert served() == {second}
        row = endpoints(forebay, "shop", 3)[name]
        assert "replica_lag_time_max" in str(row["reason"]), row
        replay(replicas[0], "resume")
        are(forebay, replicas, "replica", "replica")
        until(lambda: served() == {first, second}, within_s=30, what="both serve again")
    found = [line for line in forebay.events("endpoint_role") if line["role"] == "lagging"]
    assert [line["endpoint"] for line in found] == [name]
    assert "replica_lag_time_max" in str(found[0]["because"])
