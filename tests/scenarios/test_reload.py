"""A reload applies a configuration whole, or not at all."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.wire import Frame, Wire, bind, describe, execute, parse, query, sync

pytestmark = pytest.mark.variants("uring-2", "epoll-1")


def mode(forebay: Forebay, dbname: str = "app") -> str | None:
    """The pool mode in force, as the console says."""
    return next((row["pool_mode"] for row in forebay.console("show databases") if row["name"] == dbname), None)


def test_a_changed_setting_is_applied(start: Start, server: Postgres, variant: Variant) -> None:
    """HUP, with the difference in the log; who waits for want of a server gets one, others notice nothing."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 1}}))
    with forebay.target.wire() as holder, forebay.target.wire() as waiter:
        holder.ask(query("begin"))
        waiter.send(query("select 1"))
        waiting = 'forebay_pool_waiters{database="app",user="app"} 1\n'
        until(lambda: waiting in forebay.metrics(), within_s=10, what="it waits")
        told = forebay.reload(configuration(server, variant, databases={"app": {"pool_size": 2}}))
        assert told["event"] == "reload"
        changes = functools.partial(forebay.events, "setting_changed")
        until(lambda: any("pool_size" in str(line) for line in changes()), within_s=10, what="the change is logged")
        assert [frame.tag for frame in waiter.ready() if frame.tag in "DE"] == ["D"]
        holder.ask(query("commit"))


@pytest.mark.parametrize(
    "broken",
    [
        {"server_defaults": {"pool_size": 3, "no_such_setting": 1}},
        {"server_defaults": {"pool_size": 0}},
        {"listen": {"tls.certificate": "not-there.crt", "tls.key": "not-there.key"}},
        {"auth": {"type": "trust-me"}},
        {"log": {"file": "/nonexistent/folder/log"}},
    ],
    ids=["unknown", "range", "certificate", "choice", "log_file"],
)
def test_a_broken_configuration_changes_nothing(
    broken: dict[str, Any], start: Start, server: Postgres, variant: Variant
) -> None:
    """Row 32: the good half of a broken file must not be applied."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_mode": "transaction"}}))
    databases = {"app": {"pool_mode": "session"}, "new": {}}
    with forebay.target.wire() as client:
        told = forebay.reload(configuration(server, variant, databases=databases, **broken))
        assert told["event"] == "reload_refused"
        assert client.value("select 1") == "1"
    assert mode(forebay) == "transaction"
    assert mode(forebay, "new") is None


def test_a_setting_that_waits_for_a_restart_may_be_taken_back(start: Start, server: Postgres, variant: Variant) -> None:
    """Who tried another port and thought better of it must not be locked out of reloading until the next start."""
    before = configuration(server, variant, databases={"app": {"pool_size": 2}})
    forebay = start(before)
    changed = configuration(server, variant, listen={"backlog": 77}, databases={"app": {"pool_size": 3}})
    for turn in (1, 2):
        assert forebay.reload(changed)["event"] == "reload"
        waits = [line for line in forebay.events("setting_changed") if "at the next start" in str(line["change"])]
        assert len(waits) == turn
    assert next(row["value"] for row in forebay.console("show config") if row["key"] == "listen.backlog") == "1024"
    assert forebay.reload(before)["event"] == "reload"
    [pool_size] = [row["pool_size"] for row in forebay.console("show databases") if row["name"] == "app"]
    assert pool_size == "2"


def test_text_that_is_no_toml_changes_nothing(start: Start, server: Postgres, variant: Variant) -> None:
    """With the line in the log."""
    forebay = start(configuration(server, variant))
    forebay.path.write_text("[listen\nport = ")
    assert forebay.reload()["event"] == "reload_refused"
    assert any(":1:" in str(line.get("at")) for line in forebay.events("config_finding"))
    with forebay.target.wire() as client:
        assert client.value("select 1") == "1"


def test_all_errors_of_a_file_are_told(start: Start, server: Postgres, variant: Variant) -> None:
    """To who reloads by the console, and in the log's one line: else a file is mended once for each of its errors."""
    forebay = start(configuration(server, variant))
    broken = {
        "limits": {"max_client_conn": 0, "no_such_limit": 1}, "auth": {"type": "trust-me"}, "log": {"level": "loud"},
    }  # fmt: skip
    told = forebay.reload(configuration(server, variant, **broken))
    assert told["event"] == "reload_refused"
    lines = forebay.path.read_text().splitlines()
    wrong = ("max_client_conn = 0", "no_such_limit", 'type = "trust-me"', 'level = "loud"')
    places = [f":{number}:" for number, line in enumerate(lines, 1) if line.startswith(wrong)]
    assert len(places) == 4
    with forebay.target.at(user="ops", dbname="forebay").wire() as console:
        (error,) = [frame.fields for frame in console.ask(query("RELOAD")) if frame.tag == "E"]
    for place in places:
        assert f"forebay.toml{place}" in str(told["because"])
        assert f"forebay.toml{place}" in error["M"] + error.get("D", "")


def test_databases_come_and_go(start: Start, server: Postgres, variant: Variant) -> None:
    """A removed one ends its clients with 57P01; the others live on."""
    databases: dict[str, dict[str, Any]] = {"app": {}, "old": {"dbname": "elsewhere"}}
    forebay = start(configuration(server, variant, databases=databases))
    with forebay.target.wire() as stays, forebay.target.at(dbname="old").wire() as goes:
        assert goes.value("select current_database()") == "elsewhere"
        assert stays.value("select 1") == "1"
        del databases["old"]
        databases["new"] = {"dbname": "elsewhere"}
        assert forebay.reload(configuration(server, variant, databases=databases))["event"] == "reload"
        goes.send(query("select 1"))
        assert [frame.fields["C"] for frame in goes.rest() if frame.tag == "E"] == ["57P01"]
        assert stays.value("select 1") == "1"
        with forebay.target.at(dbname="new").wire() as fresh:
            assert fresh.value("select current_database()") == "elsewhere"


def test_a_moved_database_is_reached_at_its_new_place(start: Start, server: Postgres, variant: Variant) -> None:
    """Old servers are closed as they come free; no transaction is cut."""
    forebay = start(configuration(server, variant, databases={"app": {"dbname": "app"}}))
    with forebay.target.wire() as client:
        client.ask(query("begin"))
        forebay.reload(configuration(server, variant, databases={"app": {"dbname": "elsewhere"}}))
        with forebay.target.wire() as fresh:
            until(lambda: fresh.value("select current_database()") == "elsewhere", within_s=5, what="it moved")
        client.send(query("commit"))
        client.read_until("C")


def test_reload_by_the_console(start: Start, server: Postgres, variant: Variant) -> None:
    """RELOAD says whether it worked."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_mode": "transaction"}}))
    forebay.write(configuration(server, variant, databases={"app": {"pool_mode": "session"}}))
    forebay.console("reload")
    assert mode(forebay) == "session"
    forebay.path.write_text("nonsense")
    with pytest.raises(AssertionError, match="55000"):
        forebay.console("reload")
    assert mode(forebay) == "session"


def test_reloads_under_load_disturb_nobody(start: Start, server: Postgres, variant: Variant) -> None:
    """Twenty in a row."""
    small, large = ({"app": {"pool_size": size}} for size in (1, 4))
    forebay = start(configuration(server, variant, databases=large))
    wires = [forebay.target.wire() for _ in range(8)]
    try:
        for turn in range(20):
            for i, wire in enumerate(wires):
                wire.send(query(f"select '{turn}.{i}'"))
            forebay.write(configuration(server, variant, databases=small if turn % 2 else large))
            forebay.console("reload")
            for i, wire in enumerate(wires):
                frames = wire.ready()
                assert frames[1].body.endswith(f"{turn}.{i}".encode()), frames
    finally:
        for wire in wires:
            wire.close()


PID = "select pg_backend_pid()"
MODES: dict[str, dict[str, Any]] = {
    "session": {"pool_mode": "session"},
    "transaction": {"pool_mode": "transaction"},
    "unshared": {"pool_mode": "transaction", "max_prepared_statements": 0},
}
CHANGES = [("transaction", "session"), ("session", "transaction"), ("transaction", "unshared"), ("session", "unshared")]


def codes(frames: list[Frame]) -> list[str]:
    return [frame.fields["C"] for frame in frames if frame.tag == "E"]


def holds_its_statement(wire: Wire) -> bool:
    """As PostgreSQL has it: it runs, a second of its name is refused, and one that was never made is unknown."""
    ran = wire.ask(bind(statement="mine"), execute(), sync())
    assert next(frame for frame in ran if frame.tag == "D").body.endswith(b"held")
    assert codes(wire.ask(parse("mine", "select 2"), sync())) == ["42P05"]
    assert codes(wire.ask(describe("S", "nobodys"), sync())) == ["26000"]
    return True


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_changed_mode_is_that_of_clients_that_come(
    before: str, after: str, start: Start, server: Postgres, variant: Variant
) -> None:
    """What a session holds can't be carried over: those that are there keep their mode, beside the new ones."""

    def databases(mode: str) -> dict[str, Any]:
        return {"app": {"pool_size": 4, **MODES[mode]}}

    forebay = start(configuration(server, variant, databases=databases(before)))
    target = forebay.target
    with target.wire(application_name="old") as old, target.wire() as other:
        old.ask(parse("mine", "select 'held'"), sync())
        old.ask(query("set work_mem = '7MB'"))
        pid = old.value(PID)
        assert forebay.reload(configuration(server, variant, databases=databases(after)))["event"] == "reload"
        with target.wire(application_name="new") as new:
            new.ask(query("set work_mem = '9MB'; create temp table mine (a int)"))
            if after != "unshared":
                new.ask(parse("mine", "select 'held'"), sync())
                assert holds_its_statement(new)
            for _ in range(3):
                if before != "unshared":
                    assert holds_its_statement(old)
                assert other.value("select 1") == "1"
                assert (old.value("show work_mem"), new.value("show work_mem")) == ("7MB", "9MB")
                assert other.value("show work_mem") == "4MB"
            if before == "session":
                assert old.value(PID) == pid
            if after == "session":
                own = new.value(PID)
                assert {new.value(PID), new.value(PID)} == {own}
        # What they leave meets nobody, of whichever mode.
        with target.wire() as next_one:
            for _ in range(4):
                assert next_one.value("show work_mem") == "4MB"
                assert codes(next_one.ask(query("select * from mine"))) == ["42P01"]
                assert codes(next_one.ask(describe("S", "mine"), sync())) == ["26000"]
