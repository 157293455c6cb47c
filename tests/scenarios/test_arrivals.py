"""What becomes of clients as they come in: limits of databases and users, dropped parameters, names, notices."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.wire import query


def test_a_database_and_a_user_have_no_more_clients_than_they_may(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """Over all workers; one that leaves makes room for another."""
    databases: dict[str, dict[str, Any]] = {"app": {"max_db_client_connections": 3}, "free": {}}
    forebay = start(
        configuration(server, variant, databases=databases, **{"users.app": {"max_user_client_connections": 5}})
    )
    with forebay.target.wire() as first, forebay.target.wire(), forebay.target.wire():
        with pytest.raises(AssertionError, match=r"53300.*\(FB211\)"):
            forebay.target.wire()
        with forebay.target.at(dbname="free").wire(), forebay.target.at(dbname="free").wire():
            with pytest.raises(AssertionError, match=r"53300.*\(FB212\)"):
                forebay.target.at(dbname="free").wire()
            with forebay.target.at(dbname="free", user="other").wire() as another:
                assert another.value("select 1") == "1"
        first.close()
        until(lambda: len(forebay.console("show clients")) == 3, within_s=5, what="it has left")
        with forebay.target.wire() as late:
            assert late.value("select 1") == "1"


def test_startup_parameters_that_shall_be_ignored_are(start: Start, server: Postgres, variant: Variant) -> None:
    """Such as those that a server does not know: without this the login fails there."""
    forebay = start(
        configuration(server, variant, arrivals={"ignore_startup_parameters": ["no_such_setting", "work_mem"]})
    )
    with forebay.target.wire(no_such_setting="1", WORK_MEM="64kB", search_path="a") as wire:
        assert wire.value("show search_path") == "a"
        assert wire.value("show work_mem") != "64kB"
    with forebay.target.wire(options="-c no_such_setting=1 -c search_path=b") as wire:
        assert wire.value("show search_path") == "b"


def test_options_can_be_ignored_as_a_whole(start: Start, server: Postgres, variant: Variant) -> None:
    """Some drivers send what PostgreSQL's own programs understand, and no pooler."""
    forebay = start(configuration(server, variant, arrivals={"ignore_startup_parameters": ["options"]}))
    with forebay.target.wire(options="-F -c search_path=b") as wire:
        assert wire.value("show search_path") != "b"


def test_a_name_can_carry_the_clients_address(start: Start, server: Postgres, variant: Variant) -> None:
    """In pg_stat_activity all connections come from the pooler."""
    forebay = start(configuration(server, variant, arrivals={"application_name_add_host": True}))
    for given, name in (({"application_name": "web"}, "web"), ({}, "app")):
        with forebay.target.wire(**given) as wire:
            host, port = wire.socket.getsockname()[:2]
            assert wire.value("show application_name") == f"{name} - {host}:{port}"


def test_clients_are_told_something_at_their_login(start: Start, server: Postgres, variant: Variant) -> None:
    """The last message before they may ask; the console's are not."""
    forebay = start(configuration(server, variant, arrivals={"login_notify_message": "maintenance at 5"}))
    with forebay.target.dial() as wire:
        frames = wire.log_in(user="app", database="app")
        assert [(f.fields["S"], f.fields["M"]) for f in frames if f.tag == "N"] == [("NOTICE", "maintenance at 5")]
        assert frames[-1].tag == "Z"
        assert wire.value("select 1") == "1"
    with forebay.target.dial() as wire:
        frames = wire.log_in(user="ops", database="forebay")
        assert [f for f in frames if f.tag == "N"] == []


def waited_us(forebay: Forebay) -> int:
    """The longest wait of all requests that wait."""
    return max(
        int(row["maxwait"] or 0) * 1_000_000 + int(row["maxwait_us"] or 0) for row in forebay.console("show pools")
    )


def test_a_request_that_waits_is_told_once(start: Start, server: Postgres, variant: Variant) -> None:
    """Who sits before psql learns that it is not the query that takes long."""
    databases = {"app": {"pool_size": 1, "query_wait_notify": "100ms"}}
    forebay = start(configuration(server, variant, databases=databases))
    with forebay.target.wire() as busy, forebay.target.wire() as late:
        assert late.value("select 0") == "0"
        busy.ask(query("begin"))
        for answer in ("1", "2"):
            late.send(query(f"select {answer}"))
            notice = late.read()
            assert (notice.tag, notice.fields["C"]) == ("N", "00000")
            assert "(FB213)" in notice.fields["H"]
            until(lambda: waited_us(forebay) > 400_000, within_s=5, what="it waits four times as long")
            busy.ask(query("commit"))
            assert [frame.tag for frame in late.ready()] == ["T", "D", "C", "Z"]
            busy.ask(query("begin"))
        busy.ask(query("commit"))
        assert late.value("select 3") == "3"
