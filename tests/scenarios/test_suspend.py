"""SUSPEND and PAUSE: what is held, what ends it, and how long it may take."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, asked, configuration
from tests.harness.postgres import Postgres
from tests.harness.wire import Wire, cancel, query, startup

pytestmark = pytest.mark.variants("uring-1", "epoll-2")
ROWS = query("select repeat('x', 1000) from generate_series(1, 100000)")


def state(forebay: Forebay) -> dict[str | None, str | None]:
    """SHOW STATE."""
    return {row["key"]: row["value"] for row in forebay.console("show state")}


def is_silent(wire: Wire) -> bool:
    """Whether nothing comes for a moment."""
    wire.socket.settimeout(0.3)
    try:
        return wire.socket.recv(1, socket.MSG_PEEK) == b"never"
    except TimeoutError:
        return True
    finally:
        wire.socket.settimeout(20)


def operator(forebay: Forebay) -> Wire:
    """A session with the console."""
    return forebay.target.at(user="ops", dbname="forebay").wire()


def refusals(wire: Wire, sql: str) -> list[str]:
    """What a command is refused with."""
    return [frame.fields["M"] for frame in wire.ask(query(sql)) if frame.tag == "E"]


def begun(act: Callable[[], object]) -> threading.Thread:
    """Something that goes on beside the test."""
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_suspend_holds_everybody_but_the_console(start: Start, server: Postgres, variant: Variant) -> None:
    """What clients send meanwhile is answered on RESUME; who connects waits; nobody runs into a time limit for it."""
    limits = {"query_timeout": "600ms", "client_idle_timeout": "600ms"}
    forebay = start(configuration(server, variant, server_defaults=limits))
    assert state(forebay) == {"active": "yes", "paused": "no", "suspended": "no", "draining": "no"}
    with forebay.target.wire() as busy, forebay.target.wire() as idle, forebay.target.dial() as late:
        assert busy.value("select 1") == "1"
        busy.ask(query("begin"))
        with operator(forebay) as console:
            assert refusals(console, "SUSPEND") == []
            assert state(forebay) == {"active": "no", "paused": "no", "suspended": "yes", "draining": "no"}
            busy.send(query("select 'busy'"))
            idle.send(query("select 'idle'"))
            late.send(startup(user="app", database="app"))
            assert [is_silent(wire) for wire in (busy, idle, late, idle)] == [True] * 4
            assert refusals(console, "SUSPEND") == ["SUSPEND was refused: already suspended/paused"]
            assert refusals(console, "PAUSE") == ["PAUSE was refused: already suspended/paused"]
            assert refusals(console, "RESUME") == []
        assert [frame.body for frame in busy.ready() if frame.tag == "D"] == [b"\0\1\0\0\0\4busy"]
        assert [frame.body for frame in idle.ready() if frame.tag == "D"] == [b"\0\1\0\0\0\4idle"]
        assert late.read_until("Z")
        assert late.value("select 'late'") == "late"
        assert state(forebay)["active"] == "yes"


def test_suspend_ends_who_does_not_take_what_was_sent(start: Start, server: Postgres, variant: Variant) -> None:
    """A reader that sleeps must not keep an operator waiting; the session of another lives on."""
    forebay = start(configuration(server, variant, tcp={"socket_buffer": "4KB"}))
    with forebay.target.wire() as slow, forebay.target.wire() as other, operator(forebay) as console:
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert other.value("select 1") == "1"
        slow.send(ROWS)
        until(lambda: forebay.servers_active() == 1, within_s=10, what="it is served")
        assert refusals(console, "SUSPEND") == []
        users = [row["database"] for row in asked(console, "show clients")]
        assert users.count("app") == 1
        assert refusals(console, "RESUME") == []
        assert other.value("select 2") == "2"


def test_resume_elsewhere_ends_a_pause_that_waits(start: Start, server: Postgres, variant: Variant) -> None:
    """Else the operator's session hangs until the transaction that it waited for ends."""
    forebay = start(configuration(server, variant, databases={"app": {}, "wide": {}}))
    for sql, undo in (("PAUSE", "RESUME"), ("PAUSE app", "RESUME app"), ("PAUSE app", "RESUME")):
        with forebay.target.wire() as busy, operator(forebay) as console:
            busy.ask(query("begin"))
            told: list[list[str]] = []
            waiting = begun(lambda: told.append(refusals(console, sql)))  # noqa: B023  (joined below)
            paused = {"paused": "yes"} if sql == "PAUSE" else {"paused": "no"}
            until(lambda: state(forebay).items() >= paused.items(), within_s=10, what="it waits")  # noqa: B023
            until(lambda: is_paused(forebay), within_s=10, what="it waits")
            forebay.console(undo)
            waiting.join(10)
            assert told == [["PAUSE was refused: RESUME came before all servers were free"]]
            busy.ask(query("commit"))
            assert busy.value("select 1") == "1"


def is_paused(forebay: Forebay, database: str = "app") -> bool:
    """Whether one is."""
    return next(row["paused"] for row in forebay.console("show databases") if row["name"] == database) == "1"


def test_a_pause_with_a_time_limit_is_undone_when_it_is_up(start: Start, server: Postgres, variant: Variant) -> None:
    """A switchover that can't begin soon is to be given up, not to hold all requests until somebody looks."""
    forebay = start(configuration(server, variant))
    with forebay.target.wire() as busy, operator(forebay) as console:
        busy.ask(query("begin"))
        [words] = refusals(console, "PAUSE TIMEOUT 0.3")
        assert words == "PAUSE was refused: servers are still in use after 0.3 s; RESUME was done"
        assert not is_paused(forebay)
        with forebay.target.wire() as other:
            assert other.value("select 1") == "1"
        busy.ask(query("commit"))
        assert refusals(console, "PAUSE app TIMEOUT 20") == []
        assert is_paused(forebay)
        assert refusals(console, "RESUME app") == []
        assert "TIMEOUT takes" in refusals(console, "PAUSE app TIMEOUT soon")[0]
        assert 'does not take "now"' in refusals(console, "PAUSE app now")[0]


def test_kill_drops_all_and_pauses(start: Start, server: Postgres, variant: Variant) -> None:
    """Of one database, or of all; who connects waits for RESUME."""
    forebay = start(configuration(server, variant, databases={"app": {}, "wide": {}}))
    with operator(forebay) as console:
        for sql, is_wide_killed in (("KILL app", False), ("KILL", True)):
            with forebay.target.wire() as killed, forebay.target.at(dbname="wide").wire() as other:
                killed.ask(query("begin"))
                assert other.value("select 1") == "1"
                assert refusals(console, sql) == []
                assert [frame.fields["C"] for frame in killed.rest() if frame.tag == "E"] == ["57P01"]
                if is_wide_killed:
                    assert [frame.fields["C"] for frame in other.rest() if frame.tag == "E"] == ["57P01"]
                else:
                    assert other.value("select 2") == "2"
            left = [] if is_wide_killed else ["wide"]
            until(lambda: served(forebay) == left, within_s=10, what="their servers are closed")  # noqa: B023
            with forebay.target.dial() as late:
                # Whether it is greeted first hangs on its worker: on one that knows the server it is.
                late.send(startup(user="app", database="app") + query("select 'late'"))
                until(lambda: waits(forebay), within_s=10, what="it waits")
                assert refusals(console, "RESUME") == []
                assert [frame.body for frame in late.ready(2) if frame.tag == "D"] == [b"\0\1\0\0\0\4late"]


def served(forebay: Forebay) -> list[str | None]:
    """Databases with servers."""
    return [row["database"] for row in forebay.console("show servers")]


def waits(forebay: Forebay) -> bool:
    """Whether a client of `app` does."""
    return any(row["cl_waiting"] == "1" for row in forebay.console("show pools") if row["database"] == "app")


def press(forebay: Forebay, console: Wire) -> None:
    """Ctrl-C in a session with the console."""
    with forebay.target.dial() as canceller:
        canceller.send(cancel(*console.key))
        assert canceller.rest() == []


def test_a_command_that_waits_is_cancelled_by_its_user(start: Start, server: Postgres, variant: Variant) -> None:
    """Ctrl-C in psql. PgBouncer undoes a PAUSE of all, and leaves the console without an answer."""
    forebay = start(configuration(server, variant, databases={"app": {}, "wide": {}}))
    with forebay.target.wire() as busy, operator(forebay) as console:
        busy.ask(query("begin"))
        for sql, command in (("PAUSE", "PAUSE"), ("PAUSE app TIMEOUT 60", "PAUSE"), ("WAIT_CLOSE", "WAIT_CLOSE")):
            if command == "WAIT_CLOSE":
                assert refusals(console, "RECONNECT") == []
            console.send(query(sql))
            until(lambda: sql == "WAIT_CLOSE" or is_paused(forebay), within_s=10, what="it waits")  # noqa: B023
            # One that another worker hears of before WAIT_CLOSE has come cancels nothing.
            press(forebay, console)
            while sql == "WAIT_CLOSE" and is_silent(console):
                press(forebay, console)
            (error,) = [frame.fields for frame in console.ready() if frame.tag == "E"]
            assert (error["S"], error["C"]) == ("ERROR", "57014")
            assert error["M"] == f"{command} was cancelled by its user"
            assert not is_paused(forebay), "it is undone"
            assert state(forebay)["paused"] == "no"
        with forebay.target.at(dbname="wide").wire() as other:
            assert other.value("select 1") == "1"
        # A cancel that comes too late cancels nothing.
        press(forebay, console)
        assert refusals(console, "PAUSE wide") == []
        assert refusals(console, "RESUME wide") == []
        busy.ask(query("commit"))


def called_off(forebay: Forebay, console: Wire) -> None:
    """Presses Ctrl-C until the command of a session is heard to be cancelled."""
    press(forebay, console)
    while is_silent(console):
        press(forebay, console)
    assert [frame.fields["C"] for frame in console.ready() if frame.tag == "E"] == ["57014"]


def test_who_gives_up_a_pause_takes_no_other_along(start: Start, server: Postgres, variant: Variant) -> None:
    """Ctrl-C of one admin must not let requests through that another one holds for a migration."""
    forebay = start(configuration(server, variant, databases={"app": {}, "wide": {}}))
    with forebay.target.wire() as busy, operator(forebay) as one, operator(forebay) as two:
        busy.ask(query("begin"))
        assert refusals(one, "PAUSE wide") == []
        two.send(query("PAUSE"))
        until(lambda: is_paused(forebay), within_s=10, what="it waits")
        called_off(forebay, two)
        assert (is_paused(forebay), is_paused(forebay, "wide")) == (False, True), "of all, and another's of one"
        one.send(query("PAUSE app"))
        until(lambda: is_paused(forebay), within_s=10, what="it waits")
        two.send(query("PAUSE app"))
        called_off(forebay, two)
        assert is_paused(forebay), "the same one twice"
        words = "PAUSE was refused: servers are still in use after 0.3 s; another command holds them still"
        assert refusals(two, "PAUSE app TIMEOUT 0.3") == [words]
        assert is_paused(forebay)
        assert is_silent(one), "it waits as before"
        busy.ask(query("commit"))
        assert [frame.tag for frame in one.ready()] == ["C", "Z"]
        assert refusals(two, "RESUME") == []
        assert busy.value("select 1") == "1"
        for sql in ("KILL wide", "PAUSE wide"):
            assert refusals(one, sql) == []
        with forebay.target.wire() as other:
            other.ask(query("begin"))
            two.send(query("PAUSE"))
            until(lambda: is_paused(forebay), within_s=10, what="it waits")
            called_off(forebay, two)
            assert (is_paused(forebay), is_paused(forebay, "wide")) == (False, True), "what KILL holds"
