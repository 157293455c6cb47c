"""A read whose server is lost is made again: its client waits, and hears nothing of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
import pytest

from tests.clusters.test_roles import clustered, endpoints
from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.standby import caught_up

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

# Long enough to be found, and to be told from what is made again.
SLOW = "select current_setting('port')::int, pg_sleep(1.5)"


@dataclass
class Reading:
    """A client at work on one statement. port: of the server that answered it."""

    port: int | None = None
    sqlstates: list[str | None] = field(default_factory=list)


@pytest.fixture
def serve(server: Postgres, standby: Postgres, variant: Variant, start: Start) -> Callable[..., Forebay]:
    """Starts a forebay that sends reads to the standby, with such settings."""

    def started(**settings: object) -> Forebay:
        caught_up(server, standby)
        split = clustered(server, standby, read_write_split=True, read_consistency="eventual", **settings)
        forebay = start(configuration(server, variant, databases={"app": split}))
        endpoints(forebay, "app", 2)
        with forebay.target.connect(autocommit=True) as client:
            until(lambda: port_of(client) == standby.port, within_s=30, what="reads are the standby's")
        return forebay

    return started


def port_of(client: psycopg.Connection) -> int:
    """Where a read of a client is made."""
    row = client.execute("select current_setting('port')::int").fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def reads(forebay: Forebay, *before: str) -> Iterator[Reading]:
    """A client that reads for as long as the block lasts, and is answered at its end."""
    reading = Reading()

    def work() -> None:
        with forebay.target.connect(autocommit=True) as client:
            for each in before:
                client.execute(each.encode())
            try:
                row = client.execute(SLOW.encode()).fetchone()
                reading.port = int(row[0]) if row else None
            except psycopg.Error as error:
                reading.sqlstates.append(error.sqlstate)
                assert port_of(client), "its session lives on"

    thread = threading.Thread(target=work)
    thread.start()
    yield reading
    thread.join(60)


def ends(server: Postgres) -> None:
    """Ends the session that is at work on it, as an administrator does, or a stop."""
    with server.target.connect(user="postgres", dbname="postgres", autocommit=True) as admin:
        sql = "select pg_terminate_backend(pid) from pg_stat_activity where query like %s and pid <> pg_backend_pid()"
        until(lambda: admin.execute(sql, (f"{SLOW}%",)).fetchall(), within_s=20, what="it is at work there")


def test_a_read_goes_on_at_the_primary_when_its_replica_ends_it(
    server: Postgres, standby: Postgres, serve: Callable[..., Forebay]
) -> None:
    """Each stop of a replica would be an error of the application's."""
    forebay = serve()
    with reads(forebay) as reading:
        ends(standby)
    assert (reading.port, reading.sqlstates) == (server.port, [])
    with reads(forebay, "set forebay.read_consistency = 'primary'") as reading:
        ends(server)
    assert (reading.port, reading.sqlstates) == (server.port, []), "the primary reads as well"


def test_a_read_that_loses_two_servers_ends(server: Postgres, standby: Postgres, serve: Callable[..., Forebay]) -> None:
    """What is the cause of it would end one server after the other."""
    forebay = serve()
    with reads(forebay) as reading:
        ends(standby)
        ends(server)
    assert (reading.port, reading.sqlstates) == (None, ["57P01"])


def test_who_does_not_want_that_hears_of_each_loss(standby: Postgres, serve: Callable[..., Forebay]) -> None:
    """An application that tries again itself would wait twice."""
    forebay = serve(retry_reads=False)
    with reads(forebay) as reading:
        ends(standby)
    assert (reading.port, reading.sqlstates) == (None, ["57P01"])
