"""connect_query of a database: it is done on each server before clients use it, and stays done."""

from __future__ import annotations

import contextlib

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.wire import query, startup

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

# What servers report (the last since PostgreSQL 18), and what they do not.
QUERY = "set timezone to 'Asia/Tokyo'; set statement_timeout to '99s'; set search_path to shop, public; select 1"
DONE = {"TimeZone": "Asia/Tokyo", "statement_timeout": "99s", "search_path": "shop, public"}


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_it_is_done_for_every_client(mode: str, start: Start, server: Postgres, variant: Variant) -> None:
    """In PgBouncer a client takes it away from the next one."""
    databases = {"app": {"pool_size": 1, "pool_mode": mode, "connect_query": QUERY}}
    forebay = start(configuration(server, variant, databases=databases))
    spoiling = (
        "set timezone to 'UTC'", "set statement_timeout to 0", "set search_path to pg_catalog", "reset all",
        "discard all", "select set_config('search_path', 'x', false)",
    )  # fmt: skip
    with forebay.target.wire() as first:
        assert first.parameters["TimeZone"] == "Asia/Tokyo", "clients are greeted with it"
        assert {name: first.value(f"show {name}") for name in DONE} == DONE
        with (
            forebay.target.wire(TimeZone="Europe/Rome") if mode == "transaction" else contextlib.nullcontext() as other
        ):
            if other is not None:
                assert other.value("show timezone") == "Europe/Rome", "who asks for another has it"
                assert first.value("show timezone") == "Asia/Tokyo"
    for text in spoiling:
        with forebay.target.wire() as client:
            assert {name: client.value(f"show {name}") for name in DONE} == DONE, f"before {text}"
            client.ask(query(text))


def test_it_may_fail(start: Start, server: Postgres, variant: Variant) -> None:
    """Its error is told to who can act on it, and is no client's."""
    forebay = start(configuration(server, variant, databases={"app": {"connect_query": "select 1/0"}}))
    with forebay.target.wire() as client:
        assert client.value("select 1") == "1"
    until(lambda: forebay.events("connect_query_failed"), within_s=5, what="it is logged")
    assert "22012" in forebay.events("connect_query_failed")[0]["reply"]


def test_a_changed_one_is_done_on_all_servers(start: Start, server: Postgres, variant: Variant) -> None:
    """A reload replaces servers that have done another one."""
    sections = configuration(server, variant, databases={"app": {"connect_query": "set work_mem to '5MB'"}})
    forebay = start(sections)
    with forebay.target.wire() as client:
        assert client.value("show work_mem") == "5MB"
        sections['databases."app"'] = {**sections['databases."app"'], "connect_query": "set work_mem to '6MB'"}
        assert forebay.reload(sections)["event"] == "reload"
        assert client.value("show work_mem") == "6MB"


@pytest.mark.parametrize("text", ["begin", "select pg_terminate_backend(pg_backend_pid())"])
def test_one_that_costs_each_server_is_tried_ever_less_often(
    text: str, start: Start, server: Postgres, variant: Variant
) -> None:
    """Until somebody corrects it: PostgreSQL must not fork for it all the time."""
    sections = configuration(server, variant, databases={"app": {"connect_query": text}})
    forebay = start(sections)
    with forebay.target.dial() as client:
        client.send(startup(user="app", database="app"))
        until(lambda: len(forebay.events("server_open_failed")) >= 6, within_s=10, what="it is tried again")
        pauses = [one["retry_in_ms"] for one in forebay.events("server_open_failed")]
        # 50 ms, and twice as long each time, give or take a quarter.
        assert pauses[0] < 100
        assert pauses[5] > 1000, pauses
