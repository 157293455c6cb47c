"""A database that only forebay's idle servers are connected to counts as free, and one with clients does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.wire import Wire, bind, execute, parse, query, sync

Start = Callable[..., Forebay]

IN_USE = "55006"

# PostgreSQL waits for so long before it says that a database is in use.
WAIT_S = 5.0

# Ways to need the database `scratch` without sessions.
NEEDS = {
    "drop": "drop database scratch",
    "drop with a comment": "/* the end */ DROP DATABASE IF EXISTS Scratch;",
    "rename": "alter database scratch rename to scratch_2",
    "copy": "create database scratch_2 template scratch",
}


@pytest.fixture
def scratch(server: Postgres) -> Iterator[Wire]:
    """A session on the server itself, which has made the database."""
    with server.target.at(user="postgres").wire() as session:
        done(session, "create database scratch")
        yield session
        for name in ("scratch", "scratch_2"):
            done(session, f"drop database if exists {name} with (force)")


def begin(start: Start, server: Postgres, variant: Variant, **settings: Any) -> Forebay:
    """Pools of `app` and of what the tests make."""
    names = ("scratch", "scratch_2", "app_template_1", "app_template_2")
    others = {name: {"dbname": name, "pool_size": 4, **settings} for name in names}
    return start(configuration(server, variant, databases={"app": settings, **others}))


def session_of(forebay: Forebay) -> Wire:
    """A session of one who may drop databases."""
    return forebay.target.at(user="postgres").wire()


def done(session: Wire, text: str) -> None:
    """A text that must succeed."""
    assert errors(session, query(text)) == []


def errors(session: Wire, *messages: bytes) -> list[str]:
    """Codes of the errors that a request earns."""
    return [frame.fields["C"] for frame in session.ask(*messages) if frame.tag == "E"]


def used(forebay: Forebay, count: int = 3, database: str = "scratch") -> None:
    """Clients come to the database, use as many servers at once, and leave."""
    clients = [forebay.target.at(dbname=database).wire() for _ in range(count)]
    for client in clients:
        done(client, "begin")
    for client in clients:
        done(client, "commit")
        client.close()


@pytest.mark.parametrize("need", NEEDS)
def test_a_database_that_clients_have_left_is_free(
    need: str, start: Start, server: Postgres, variant: Variant, scratch: Wire
) -> None:
    """Frameworks drop the database of their tests as soon as they have closed their own connections to it."""
    forebay = begin(start, server, variant)
    used(forebay)
    with session_of(forebay) as session:
        done(session, NEEDS[need])
    if need == "copy":
        used(forebay)


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.variants("uring-1", "epoll-2")
def test_it_is_free_for_a_statement_of_the_extended_protocol(
    mode: str, start: Start, server: Postgres, variant: Variant, scratch: Wire
) -> None:
    """Drivers send DDL by either protocol, and pools are in either mode."""
    forebay = begin(start, server, variant, pool_mode=mode)
    for text in (NEEDS["rename"], "alter database scratch_2 rename to scratch", NEEDS["drop"]):
        if "scratch_2 rename" not in text:
            used(forebay)
        with session_of(forebay) as session:
            assert errors(session, parse("", text), bind(), execute(), sync()) == []


@pytest.mark.variants("uring-1", "epoll-2")
def test_it_is_free_for_its_own_last_client(start: Start, server: Postgres, variant: Variant, scratch: Wire) -> None:
    """A database can be copied by one who is connected to it, if nobody else is."""
    forebay = begin(start, server, variant)
    used(forebay)
    with forebay.target.at(user="postgres", dbname="scratch").wire() as session:
        done(session, NEEDS["copy"])


@pytest.mark.variants("uring-1", "epoll-2")
def test_several_are_free_for_statements_in_one_write(
    start: Start, server: Postgres, variant: Variant, scratch: Wire
) -> None:
    """Each is cleared, and each literal is read for itself."""
    done(scratch, "create database scratch_2")
    forebay = begin(start, server, variant)
    used(forebay)
    used(forebay, database="scratch_2")
    with session_of(forebay) as session:
        session.send(query("drop database scratch"), query("drop database scratch_2"))
        assert [frame.tag for frame in session.ready(2)] == list("CZCZ")
        for template in ("app_template_1", "app_template_2"):
            done(session, f"create database {template}")
        for template in ("app_template_1", "app_template_2"):
            used(forebay, database=template)
            done(session, f"create database scratch template '{template}'")
            done(session, "drop database scratch")
            done(session, f"drop database {template}")


@pytest.mark.variants("uring-1", "epoll-2")
def test_it_is_free_although_the_pool_keeps_servers_ready(
    start: Start, server: Postgres, variant: Variant, scratch: Wire
) -> None:
    """min_pool_size does not open them again while the server waits, and does so later."""
    forebay = begin(start, server, variant, min_pool_size=2)
    used(forebay)
    with session_of(forebay) as session:
        done(session, NEEDS["copy"])
        used(forebay)
        done(session, NEEDS["drop"])


@pytest.mark.variants("uring-1", "epoll-2")
def test_a_database_with_a_client_is_in_use(start: Start, server: Postgres, variant: Variant, scratch: Wire) -> None:
    """Its client is told nothing and goes on, as without forebay."""
    forebay = begin(start, server, variant)
    used(forebay)
    with forebay.target.at(dbname="scratch").wire() as client, session_of(forebay) as session:
        done(client, "begin")
        assert errors(session, query(NEEDS["drop"])) == [IN_USE]
        done(client, "commit")
        done(client, "select 1")


@pytest.mark.variants("uring-1", "epoll-2")
def test_a_client_that_leaves_late_is_waited_for(
    start: Start, server: Postgres, variant: Variant, scratch: Wire
) -> None:
    """PostgreSQL looks again for some seconds: whoever leaves in that time is not in the way."""
    forebay = begin(start, server, variant)
    client = forebay.target.at(dbname="scratch").wire()
    done(client, "begin")
    with session_of(forebay) as session:
        session.send(query(NEEDS["drop"]))
        time.sleep(1)
        began = time.monotonic()
        client.close()
        assert [frame.tag for frame in session.ready()] == ["C", "Z"]
        assert time.monotonic() - began < WAIT_S - 1


@pytest.mark.variants("uring-1", "epoll-2")
def test_a_listener_is_not_in_the_way(start: Start, server: Postgres, variant: Variant, scratch: Wire) -> None:
    """Nor is the connection through which a client listened that has left."""
    forebay = begin(start, server, variant)
    with forebay.target.at(dbname="scratch").wire() as client:
        done(client, "listen jobs")
        done(client, "select 1")
    with session_of(forebay) as session:
        done(session, NEEDS["drop"])
