"""What a database's own objects do is read in the background: clients wait for none of it, and can't be in its way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.wire import Wire, query

Start = Callable[..., Forebay]
Databases = dict[str, dict[str, Any]]

# Of these tests alone: other forebays read the catalogues of other databases of the server.
DATABASE = "reading"
READER = (
    f"select count(*) from pg_stat_activity where application_name = 'forebay catalogue' and datname = '{DATABASE}'"
)
SESSIONS = "select string_agg(a::text, chr(10)) from pg_stat_activity a where backend_type = 'client backend'"


@pytest.fixture(scope="module")
def database(server: Postgres) -> Iterator[Databases]:
    """A database of the tests' own, with the pool of one server that they reach it through."""
    with server.target.connect(user="postgres", autocommit=True) as admin:
        admin.execute(f"create database {DATABASE} template template0")
        with server.target.connect(user="postgres", dbname=DATABASE, autocommit=True) as inside:
            inside.execute("grant create on schema public to public; create table people (id int primary key)")
            inside.execute("grant all on people to public")
        yield {"app": {"pool_size": 1, "dbname": DATABASE}}
        admin.execute(f"drop database {DATABASE} with (force)")


def somebody_reads(direct: Wire) -> None:
    """Waits for the reader."""
    try:
        until(lambda: direct.value(READER) == "1", within_s=5, what="somebody reads")
    except AssertionError:
        raise AssertionError(f"{direct.value(READER)} readers among:\n{direct.value(SESSIONS)}") from None


@contextmanager
def objects(server: Postgres, sql: str, undo: str) -> Iterator[None]:
    """Objects that are there as long as the block lasts, made past forebay."""
    with server.target.connect(user="postgres", dbname=DATABASE, autocommit=True) as admin:
        admin.execute(sql.encode())
        try:
            yield
        finally:
            admin.execute(undo.encode())


@contextmanager
def unreadable(server: Postgres) -> Iterator[None]:
    """No catalogue can be read to its end."""
    with server.target.connect(user="postgres", dbname=DATABASE, autocommit=True) as admin:
        admin.execute("begin; lock table pg_catalog.pg_event_trigger in access exclusive mode")
        yield
        admin.execute("rollback")


@pytest.mark.variants("uring-1", "epoll-2")
def test_clients_are_served_while_the_catalogue_is_read(
    start: Start, server: Postgres, variant: Variant, database: Databases
) -> None:
    """In a large database that takes seconds: of a pool of one, all clients would wait for them at each change."""
    forebay = start(configuration(server, variant, databases=database))
    with unreadable(server), forebay.target.wire() as client:
        assert client.value("select 1") == "1"
        with server.target.wire() as direct:
            somebody_reads(direct)
            waiting = f"{READER} and wait_event_type = 'Lock'"
            until(lambda: direct.value(waiting) == "1", within_s=5, what="the reader waits")
            assert client.value("select 2") == "2"
            states = [row["state"] for row in forebay.console("show servers")]
            assert sorted(states) == ["idle", "reading"], states
    with server.target.wire() as direct:
        until(lambda: forebay.catalogue_loads() == 1, within_s=10, what="the catalogue is read after all")
        until(lambda: direct.value(READER) == "0", within_s=5, what="the reader has gone")


@pytest.mark.variants("uring-1", "epoll-1")
def test_a_pool_whose_servers_are_all_kept_learns_of_changes(
    start: Start, server: Postgres, variant: Variant, database: Databases
) -> None:
    """If only a free server read, clients that keep theirs would have all they send taken for what may do anything."""
    forebay = start(configuration(server, variant, databases=database))
    with forebay.target.wire() as client:
        until(
            lambda: client.value("select 1") and forebay.catalogue_loads() == 1,
            within_s=5,
            what="the catalogue is read",
        )
        client.ask(query("create temp table kept (id int)"))
        client.ask(query("create table reading_changes (id int)"))
        try:
            until(lambda: forebay.catalogue_loads() == 2, within_s=10, what="it is read again")
        finally:
            client.ask(query("drop table reading_changes"))


@pytest.mark.variants("uring-1", "epoll-1")
def test_a_role_in_a_hurry_does_not_keep_it_from_being_read(
    start: Start, server: Postgres, variant: Variant, database: Databases
) -> None:
    """A statement_timeout that is shorter than the reading would cancel it, over and over."""
    forebay = start(configuration(server, variant, databases=database))
    with objects(server, *in_a_hurry("app")), forebay.target.wire() as client:
        client.ask(query("select"))
        until(lambda: is_known(forebay, client, "people"), within_s=10, what="a table of the database is known")


@pytest.mark.variants("uring-1", "epoll-1")
def test_a_reader_gives_its_statements_55_s(
    start: Start, server: Postgres, variant: Variant, database: Databases
) -> None:
    """Without a limit a lock on the catalogue would keep its connection for as long as the lock; with its role's it
    might never come to an end."""
    forebay = start(configuration(server, variant, databases=database))
    waiting = f"{READER.removeprefix('select count(*)')} and wait_event_type = 'Lock'"
    with server.target.wire() as direct, objects(server, *in_a_hurry("app")), unreadable(server):
        with forebay.target.wire() as client:
            client.ask(query("select"))
            until(lambda: direct.value(f"select count(*){waiting}") == "1", within_s=5, what="the reader waits")
            sent = direct.value(f"select query{waiting}")
        assert sent
        with server.target.wire() as hurried:
            hurried.ask(query(sent[: sent.index("SELECT")]))
            assert hurried.value("show statement_timeout") == "55s"


@pytest.mark.slow
@pytest.mark.variants("uring-1")
def test_a_reading_that_waits_for_a_lock_ends_after_55_s(
    start: Start, server: Postgres, variant: Variant, database: Databases
) -> None:
    """PostgreSQL ends it before it is waited for no longer: nothing of it is left behind there."""
    forebay = start(configuration(server, variant, databases=database))
    with unreadable(server), forebay.target.wire() as client, server.target.wire() as direct:
        client.ask(query("select"))
        somebody_reads(direct)
        begin = time.monotonic()
        until(lambda: forebay.events("catalogue_reader_refused"), within_s=70, what="the reading ends")
        took_s = time.monotonic() - begin
        (refused,) = forebay.events("catalogue_reader_refused")
        assert "57014 canceling statement due to statement timeout" in refused["cause"]
        assert 54 < took_s < 59


@pytest.mark.variants("uring-1", "epoll-1")
def test_what_ends_a_reading_does_not_hold_a_client_up(
    start: Start, server: Postgres, variant: Variant, database: Databases
) -> None:
    """A server of the pool would wait for the same lock, and clients for it."""
    forebay = start(configuration(server, variant, databases=database))
    with unreadable(server), forebay.target.wire() as client, server.target.wire() as direct:
        client.ask(query("select"))
        somebody_reads(direct)
        direct.ask(query(READER.replace("count(*)", "pg_cancel_backend(pid)")))
        until(lambda: forebay.events("catalogue_reader_refused"), within_s=5, what="the reading ends")
        for _ in range(3):
            assert client.value("select 1") == "1"
        assert direct.value(READER) == "0"


@pytest.mark.variants("uring-1", "epoll-1")
def test_where_no_connection_is_to_spare_a_free_server_reads(
    start: Start, server: Postgres, variant: Variant, database: Databases
) -> None:
    """A role may have exactly as many connections as its pool: nothing of its database would ever be known."""
    forebay = start(configuration(server, variant, databases=database))
    limits = "alter role other connection limit 1", "alter role other connection limit -1"
    with objects(server, *limits), objects(server, *in_a_hurry("other")):
        with forebay.target.at(user="other").wire() as client:
            client.ask(query("select"))
            until(lambda: is_known(forebay, client, "people"), within_s=10, what="a table of the database is known")
        refused = until(lambda: forebay.events("catalogue_reader_refused"), within_s=30, what="the log has it")
        assert len(refused) == 1, refused
        assert "53300" in refused[0]["cause"]


def in_a_hurry(role: str) -> tuple[str, str]:
    """What gives a role less time for a statement than the reading takes, and what undoes it."""
    return f"alter role {role} set statement_timeout = '2ms'", f"alter role {role} reset statement_timeout"


def is_known(forebay: Forebay, client: Wire, table: str) -> bool:
    """Whether nothing is looked for behind a statement on a table. The last look may be counted behind its answer."""
    before = forebay.total("forebay_probes_total")
    for _ in range(5):
        client.ask(query(f"select from {table} where id = 1"))
    return forebay.total("forebay_probes_total") == before


@pytest.mark.variants("uring-1", "epoll-2")
def test_a_reader_is_in_nobody_s_way(start: Start, server: Postgres, variant: Variant, database: Databases) -> None:
    """PAUSE is for work on the server, and DROP DATABASE needs it without sessions."""
    forebay = start(configuration(server, variant, databases=database))
    with unreadable(server), forebay.target.wire() as client, server.target.wire() as direct:
        assert client.value("select 1") == "1"
        somebody_reads(direct)
        forebay.console("pause app")
        assert forebay.console("show servers") == []
        forebay.console("resume app")
        assert client.value("select 2") == "2"
