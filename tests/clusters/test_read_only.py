"""A READ ONLY transaction whose server is lost is told so that programs run it again by themselves, and no other is."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.clusters.test_lost_reads import ends, port_of, serve
from tests.conftest import Start
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres

__all__ = ["serve"]

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

# By which a session is found, once it is told this.
TOLD = "select 'told' as what"

READ_ONLY = {
    "begin": ("begin read only",),
    "snapshot": ("begin isolation level repeatable read, read only",),
    "set": ("begin", "set transaction isolation level repeatable read", "set transaction read only"),
}

# What may write, or has.
WRITING = {
    "begin": ("begin",),
    "set": ("begin", "set transaction read only", "set transaction read write"),
    "setting": ("begin read only", "set transaction_read_only = off"),
    "written": ("begin", "create table if not exists written (n int)", "set transaction read only"),
    "savepoint": ("begin", "savepoint one", "set transaction read only", "rollback to one"),
}


@pytest.fixture
def alone(server: Postgres, variant: Variant, start: Start) -> Forebay:
    """A database of one server, of which no topology tells."""
    return start(configuration(server, variant))


def hears(client: psycopg.Connection, server: Postgres, forebay: Forebay, before: tuple[str, ...]) -> psycopg.Error:
    """What a client hears that has begun so, was told a row, and whose session is ended there; it lives on."""
    for each in before:
        client.execute(each.encode())
    assert client.execute(TOLD.encode()).fetchone() == ("told",)
    ends(server, TOLD, forebay)
    with pytest.raises(psycopg.Error) as heard:
        client.execute(b"select 1")
    assert client.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert port_of(client), "its session lives on"
    return heard.value


def assert_interrupted(heard: psycopg.Error) -> None:
    """It is what serialization failures are told by, with what is to be done."""
    assert isinstance(heard, psycopg.errors.SerializationFailure)
    assert heard.sqlstate == "40001"
    assert heard.diag.message_primary == "read transaction interrupted by the loss of its server"
    assert heard.diag.message_hint == "Run the transaction again. (FB404)"


@pytest.mark.parametrize("before", READ_ONLY.values(), ids=READ_ONLY)
@pytest.mark.parametrize("retry_reads", [True, False], ids=["retried", "not"])
def test_a_read_only_transaction_that_was_told_rows_is_to_be_run_again(
    server: Postgres, standby: Postgres, serve: Callable[..., Forebay], before: tuple[str, ...], retry_reads: bool
) -> None:
    """A report would fail at each failover, though its program runs again what fails with 40001."""
    forebay = serve(retry_reads=retry_reads)
    at = standby if before[0].endswith("read only") else server
    with forebay.target.connect(autocommit=True) as client:
        assert_interrupted(hears(client, at, forebay, before))


@pytest.mark.parametrize("before", WRITING.values(), ids=WRITING)
def test_a_transaction_that_may_write_is_lost_as_before(
    server: Postgres, alone: Forebay, before: tuple[str, ...]
) -> None:
    """Half a transfer would be taken for a report."""
    with alone.target.connect(autocommit=True) as client:
        heard = hears(client, server, alone, before)
        assert heard.sqlstate == "57P01"
        assert "(FB401)" in str(heard.diag.message_hint)


def test_what_runs_transactions_again_goes_on_where_there_is_one_server(server: Postgres, alone: Forebay) -> None:
    """A backend that ends is the same to a program, whether another server takes over or not."""
    runs = 0
    with alone.target.connect(autocommit=True) as client:
        while runs < 3:
            runs += 1
            try:
                with client.transaction():
                    client.execute("set transaction read only")
                    client.execute(TOLD.encode())
                    if runs < 3:
                        ends(server, TOLD, alone)
                    assert client.execute("select 42").fetchone() == (42,)
                    break
            except psycopg.errors.SerializationFailure as error:
                assert_interrupted(error)
    assert runs == 3


def test_a_session_may_be_read_only_by_default(server: Postgres, alone: Forebay) -> None:
    """Drivers set it once, as pgjdbc does with readOnlyMode=always, and begin as ever."""
    with alone.target.connect(autocommit=True, options="-c default_transaction_read_only=on") as client:
        assert_interrupted(hears(client, server, alone, ("begin",)))
        assert hears(client, server, alone, ("begin read write",)).sqlstate == "57P01"
        client.execute("set session characteristics as transaction read write")
        assert hears(client, server, alone, ("begin",)).sqlstate == "57P01"
        client.execute("set default_transaction_read_only = true")
        assert_interrupted(hears(client, server, alone, ("begin",)))


def test_a_database_may_be_read_only_by_default(server: Postgres, variant: Variant, start: Start) -> None:
    """Nobody sets anything there."""
    with server.target.connect(user="postgres", autocommit=True) as admin:
        admin.execute("drop database if exists archive")
        admin.execute("create database archive")
        admin.execute("alter database archive set default_transaction_read_only = on")
    forebay = start(configuration(server, variant, databases={"app": {"dbname": "archive"}}))
    with forebay.target.connect(autocommit=True) as client:
        assert_interrupted(hears(client, server, forebay, ("begin",)))
        client.execute("set default_transaction_read_only = off")
        assert hears(client, server, forebay, ("begin",)).sqlstate == "57P01"


def test_a_database_of_replicas_reads_whatever_begins(standby: Postgres, variant: Variant, start: Start) -> None:
    """Nothing is written there, and programs need not say so."""
    section = {"endpoints": [f"127.0.0.1:{standby.port}"], "topology": "poll", "poll_user": "app", "role": "replica"}
    forebay = start(configuration(standby, variant, databases={"app": section}))
    with forebay.target.connect(autocommit=True) as client:
        assert_interrupted(hears(client, standby, forebay, ("begin",)))


# What a function, code or a statement by its name would set in the middle of a READ ONLY transaction.
LATER = {
    "function": "select set_config('transaction_read_only', 'off', true)",
    "code": "do $$ begin set transaction read write; end $$",
    "code by name": "do $$ begin perform set_config('transaction_read_only', 'off', true); end $$",
    "execute": "execute writes",
    "after a query": "set transaction read write",
    "in a subtransaction": "savepoint one; set transaction read write",
}


@pytest.mark.parametrize("later", LATER.values(), ids=LATER)
@pytest.mark.parametrize("major", ["server", "server_15"])
def test_postgresql_lets_nothing_write_later_in_a_read_only_transaction(
    request: pytest.FixtureRequest, major: str, later: str
) -> None:
    """What is known of a transaction by its own SET and BEGIN alone rests on that."""
    server: Postgres = request.getfixturevalue(major)
    with server.target.connect(autocommit=True) as client:
        client.pgconn.prepare(b"writes", b"set transaction read write")
        client.execute("begin read only")
        if "set transaction" in later and not later.startswith("do"):
            client.execute("select 1")
        with pytest.raises(psycopg.Error) as refused:
            client.execute(later.encode())
        assert refused.value.sqlstate == "25001", refused.value


def test_postgresql_lets_a_transaction_write_that_was_read_only_within_a_savepoint(server: Postgres) -> None:
    """READ ONLY counts for nothing where something was run before it."""
    for leaves in ("rollback to one", "release one"):
        with server.target.connect(autocommit=True) as client:
            for each in ("begin", "savepoint one", "set transaction read only", leaves):
                client.execute(each.encode())
            client.execute("create temp table written (n int)")
