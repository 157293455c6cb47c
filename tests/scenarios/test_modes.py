"""Session and statement mode."""

from __future__ import annotations

from tests.harness.deadline import until
from tests.harness.pooler import Forebay
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
