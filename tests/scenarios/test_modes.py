"""Session and statement mode."""

from __future__ import annotations

import pytest

from tests.harness.deadline import until
from tests.harness.pooler import Forebay
from tests.harness.target import Target
from tests.harness.wire import Wire, bind, execute, parse, query, sync

PID = "select pg_backend_pid()"


def test_session_mode_keeps_a_server_until_the_client_leaves(shared: Forebay) -> None:
    """Whatever the session holds is the client's alone."""
    target = shared.target.at(dbname="session")
    with target.wire() as one, target.wire() as two:
        pids = {(one.value(PID), two.value(PID)) for _ in range(5)}
        assert len(pids) == 1
        (pair,) = pids
        assert pair[0] != pair[1]


def test_a_server_of_session_mode_is_reset_for_the_next_client(shared: Forebay) -> None:
    """Nothing of the last session may be left: settings, tables, locks, statements."""
    target = shared.target.at(dbname="session")
    with target.wire() as first:
        pid = first.value(PID)
        first.ask(query("create temp table left_over (a int); set work_mem = '7MB'; select pg_advisory_lock(42)"))
        first.ask(parse("left", "select 1"), sync())
        first.send(b"X\x00\x00\x00\x04")
        first.rest()

    # Those on other servers stay: the server freed last is taken first, and would be theirs again and again.
    others: list[Wire] = []

    def next_on_it() -> Wire | None:
        wire = target.wire()
        if wire.value(PID) == pid:
            return wire
        others.append(wire)
        return None

    with until(next_on_it, within_s=5, what="the server is used again") as second:  # type: ignore[union-attr]
        for wire in others:
            wire.close()
        assert second.value("show work_mem") == "4MB"
        assert second.value("select count(*) from pg_locks where locktype = 'advisory'") == "0"
        assert [f.fields["C"] for f in second.ask(query("select * from left_over")) if f.tag == "E"] == ["42P01"]
        frames = second.ask(bind(statement="left"), execute(), sync())
        assert [f.fields["C"] for f in frames if f.tag == "E"] == ["26000"]


def test_notifications_reach_a_listener_that_waits(shared: Forebay) -> None:
    """An asynchronous message comes when nothing was asked."""
    target = shared.target.at(dbname="session")
    with target.wire() as listener, shared.target.wire() as speaker:
        listener.ask(query("listen news"))
        for i in range(3):
            speaker.ask(query(f"notify news, 'number {i}'"))
            frame = listener.read()
            assert frame.tag == "A"
            assert frame.body[4:] == f"news\0number {i}\0".encode()
        assert listener.value("select 1") == "1"


def test_statement_mode_refuses_a_transaction_block(shared: Forebay) -> None:
    """0A000, and the server is free again: a block would keep it."""
    target = shared.target.at(dbname="statement")
    with target.wire() as bold:
        bold.send(query("begin"))
        refused = [frame.fields for frame in bold.rest() if frame.tag == "E"]
        assert [(fields["S"], fields["C"]) for fields in refused] == [("FATAL", "0A000")]
    with target.wire() as other:
        assert other.value("select 'served'") == "served"


def test_statement_mode_changes_the_client_between_statements(shared: Forebay) -> None:
    """Every request may meet another server; with one server, everyone takes turns."""
    target = shared.target.at(dbname="statement")
    with target.wire() as one, target.wire() as two:
        assert len({wire.value(PID) for wire in (one, two, one, two)}) == 1


START = {"application_name": "mine", "options": "-c work_mem=5MB -c app.tenant=seven", "TimeZone": "CET"}
SHOWN = ("application_name", "work_mem", "app.tenant", "TimeZone", "enable_sort")

RESETS = [
    ["set work_mem = '7MB'", "reset work_mem"],
    ["set work_mem = '7MB'; set application_name = 'other'", "RESET ALL"],
    ["set work_mem = '7MB'; set time zone 'UTC'", "discard all"],
    ["set work_mem = '7MB'; set time zone 'UTC'", "set work_mem to default; set time zone default"],
    ["set work_mem = '7MB'", "begin", "reset work_mem", "rollback"],
    ["set work_mem = '7MB'", "begin", "reset work_mem", "commit"],
    ["set work_mem = '7MB'", "reset work_mem; select 1/0"],
    ["set work_mem = '7MB'", "begin; reset work_mem; commit; select 1/0"],
    ["set application_name = 'other'", "/* route */ Reset Application_Name"],
    ["set enable_sort = off", "reset enable_sort", "select 'reset all; discard all'"],
    ["set app.tenant = 'eight'", "reset app.tenant"],
]


@pytest.mark.parametrize("steps", RESETS, ids=lambda steps: steps[-1][:30])
@pytest.mark.parametrize("dbname", ["session", "app"])
@pytest.mark.parametrize("protocol", ["simple", "extended", "named"])
def test_a_reset_brings_back_what_the_client_asked_for(
    steps: list[str], dbname: str, protocol: str, shared: Forebay, direct: Target
) -> None:
    """RESET leads to the session's own start, and not to the server's."""

    def talk(target: Target) -> list[str]:
        with target.wire(**START) as wire:
            for number, sql in enumerate(steps):
                if protocol == "simple" or ";" in sql:
                    wire.ask(query(sql))
                elif protocol == "extended":
                    wire.ask(parse("", sql), bind(), execute(), sync())
                else:
                    wire.ask(parse(f"s{number}", sql), sync())
                    wire.ask(bind(statement=f"s{number}"), execute(), sync())
            return [*(str(wire.value(f"show {name}")) for name in SHOWN), str(sorted(wire.parameters.items()))]

    assert talk(shared.target.at(dbname=dbname)) == talk(direct)


def test_what_a_reset_that_fails_undoes_is_told(shared: Forebay, direct: Target) -> None:
    """A driver that is not told goes on to quote its strings by the other rule."""

    def told(target: Target) -> list[tuple[str, bytes]]:
        with target.wire(**START) as wire:
            wire.ask(query("begin"))
            wire.ask(query("set local standard_conforming_strings to off"))
            return [(frame.tag, frame.body) for frame in wire.ask(query("discard all")) if frame.tag != "E"]

    assert told(shared.target) == told(direct)
