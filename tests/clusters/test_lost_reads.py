"""What only reads, or has only begun, goes on elsewhere when its server is lost, and its client hears nothing of it."""

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
                if client.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
                    client.execute("commit")
            except psycopg.Error as error:
                reading.sqlstates.append(error.sqlstate)
                assert port_of(client), "its session lives on"

    thread = threading.Thread(target=work)
    thread.start()
    yield reading
    thread.join(60)


def ends(server: Postgres, at: str = SLOW, forebay: Forebay | None = None) -> None:
    """Ends the session that is at this on it, as an administrator does, or a stop. forebay: that has noticed."""
    ended = set[str]()

    def is_ended(admin: psycopg.Connection) -> bool:
        sql = """select pid::text, pg_terminate_backend(pid) from pg_stat_activity
                 where query like %s and state <> 'idle' and pid <> pg_backend_pid()"""
        ended.update(pid for pid, _ in admin.execute(sql, (f"{at}%",)).fetchall())
        return bool(ended)

    with server.target.connect(user="postgres", dbname="postgres", autocommit=True) as admin:
        until(lambda: is_ended(admin), within_s=20, what="it is at work there")
    if forebay is not None:
        until(lambda: not ended & {row["remote_pid"] for row in forebay.console("show servers")},
              within_s=30, what="its loss is noticed")  # fmt: skip


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


@pytest.mark.parametrize(
    "before",
    [
        ("begin",),
        ("begin isolation level repeatable read", "set local work_mem = '5MB'", "set transaction read only"),
        ("start transaction read only",),
    ],
    ids=["begin", "set", "read only"],
)
def test_a_read_in_a_transaction_goes_on_with_that_at_the_primary(
    server: Postgres, standby: Postgres, serve: Callable[..., Forebay], before: tuple[str, ...]
) -> None:
    """An ORM begins a transaction for each of its reads."""
    forebay = serve()
    with reads(forebay, *before) as reading:
        ends(standby if before[0].endswith("read only") else server)
    assert (reading.port, reading.sqlstates) == (server.port, [])


def test_a_transaction_that_has_only_begun_begins_anew(server: Postgres, serve: Callable[..., Forebay]) -> None:
    """Who has begun one, and thinks, would hear of each failover."""
    forebay = serve()
    begin = "begin isolation level serializable"
    with forebay.target.connect(autocommit=True) as client:
        client.execute("drop table if exists anew")
        client.execute("create table anew (n int)")
        for command in (b"commit", b"rollback"):
            client.execute(begin.encode())
            client.execute("set local application_name = 'anew'")
            ends(server, "set local application_name = 'anew'", forebay)
            assert client.execute("insert into anew values (1) returning n").fetchall() == [(1,)]
            row = client.execute(
                "select current_setting('transaction_isolation'), current_setting('application_name')"
            ).fetchone()
            assert row == ("serializable", "anew")
            client.execute(command)
        assert client.execute("/* forebay: role=primary */ select count(*) from anew").fetchone() == (1,)
        client.execute("begin")
        client.execute("insert into anew values (2)")
        ends(server, "insert into anew values (2)", forebay)
        with pytest.raises(psycopg.errors.AdminShutdown):
            client.execute("insert into anew values (3)")
        assert client.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        client.execute("drop table anew")


def test_a_statement_that_its_driver_has_prepared_is_known_where_its_transaction_begins_anew(
    server: Postgres, serve: Callable[..., Forebay]
) -> None:
    """Drivers prepare behind the scenes, in the middle of transactions."""
    forebay = serve()
    with forebay.target.connect(autocommit=True) as client:
        client.execute("begin")
        client.pgconn.prepare(b"mine", b"select $1::int + 1")
        ends(server, "select $1::int", forebay)
        result = client.pgconn.exec_prepared(b"mine", [b"41"])
        assert result.get_value(0, 0) == b"42"
        client.execute("commit")
