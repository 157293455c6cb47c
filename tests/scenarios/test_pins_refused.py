"""A pool that refuses pins refuses what would pin, and nothing else that an application does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.wire import Wire, query

Start = Callable[..., Forebay]

REFUSED = "0A000"

# What the session would own from then on.
PINNING = (
    "create temp table kept (a int)",
    "create temp table kept on commit preserve rows as select 1",
    "select pg_advisory_lock(1)",
    "select setseed(0.5)",
    "begin; declare c cursor with hold for select 1; commit",
    "load 'plpgsql'",
    "select 1; prepare p as select 1",
)

# What a migration, a driver or a framework sends.
ALLOWED = (
    "create table made (a int)",
    "create index on made (a)",
    "create view shown as select a from made",
    "create function one() returns int language sql as 'select 1'",
    "drop function one()",
    "drop table made cascade",
    "create temp table passing (a int) on commit drop",
    "begin; create temp table passing on commit drop as select 1; select * from passing; commit",
    "select pg_advisory_xact_lock(1)",
    "select pg_advisory_unlock_all()",
    "prepare p as select 1",
    "deallocate all",
    "close all",
    "discard temp",
    "discard all",
    "reset session authorization",
)


@pytest.fixture
def session(start: Start, server: Postgres, variant: Variant) -> Wire:
    """A client of such a pool."""
    forebay = start(configuration(server, variant, databases={"app": {"on_pin": "refuse"}}))
    return forebay.target.at(user="postgres").wire()


def refused(session: Wire, text: str) -> bool:
    """Whether a text is; it must succeed if not."""
    errors = [frame.fields for frame in session.ask(query(text)) if frame.tag == "E"]
    assert not errors or ("(FB301)" in errors[0]["H"] and errors[0]["C"] == REFUSED), text
    return bool(errors)


@pytest.mark.variants("uring-1", "epoll-2")
def test_what_pins_is_refused(session: Wire) -> None:
    """The session goes on without a server of its own."""
    for text in PINNING:
        assert refused(session, text), text
    assert not refused(session, "select 1")
    session.close()


@pytest.mark.variants("uring-1", "epoll-2")
def test_what_pins_nothing_is_not(session: Wire) -> None:
    """Refused tables and clean-ups would leave applications no way to work in such a pool."""
    for text in ALLOWED:
        assert not refused(session, text), text
    session.close()


@pytest.mark.variants("uring-1", "epoll-2")
def test_what_only_a_look_sees_pins_and_is_told(session: Wire) -> None:
    """It is done by then, and can't be refused; kept from the client, it would look as if nothing pinned."""
    frames = session.ask(query("do $$ begin perform pg_advisory_lock(5); end $$"))
    # The look is over before the next request is answered.
    frames += session.ask(query("select 1"))
    assert not [frame.fields for frame in frames if frame.tag == "E"]
    (told,) = [frame.fields for frame in frames if frame.tag == "N"]
    assert "(FB208)" in told["H"]
    assert "advisory lock" in told["M"]
    session.close()
