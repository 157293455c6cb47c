"""What a drill makes of the statements of its clients."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forebay.cli.drill import Options, _Kill, check_cluster
from forebay.control.drill import account
from forebay.control.drill import load as loads
from forebay.control.drill.client import Outcome, State
from forebay.control.drill.ledger import Ledger, Place, Truth
from forebay.control.drill.load import Load
from forebay.control.drill.plot import page
from forebay.control.drill.report import Account, Fault, Report, report_of
from forebay.control.drill.run import Drill, Plan, calm_of, is_served, kill_postmaster
from forebay.failure import Failure

from tests.harness.deadline import until
from tests.harness.processes import is_alive

FAULT = Fault(10.0, 1000.0, 10.1, ((10.05, "held: <all> wait"),), is_back=True)
NOTHING = Truth((), (), (), 0)


def write(number: int, sent: float, ended: float, error: str | None = None) -> Outcome:
    return Outcome(1, number, True, sent, ended, error)


def reported(outcomes: list[Outcome], truth: Truth = NOTHING) -> Report:
    return report_of("kill", outcomes, truth, FAULT, 4, 0, 0)


def test_the_time_out_of_service_is_the_longest_gap_that_the_fault_is_part_of() -> None:
    """A pause before it is none of its doing; a service that never came back has no end."""
    outcomes = [
        write(1, 1, 1.1),
        write(2, 8, 9.9),
        write(3, 9.9, 9.95, "57P01"),
        write(4, 10, 12.5),
        write(5, 12, 12.6),
    ]
    found = reported([*outcomes, Outcome(1, 5, False, 12, 12.25, None)])
    assert (round(found.rto_s, 3), round(found.resumed_at, 3)) == (2.6, 1002.5)
    assert (found.acknowledged, found.read, found.errors) == (4, 1, {"57P01": 1})
    assert (found.longest_write_s, found.longest_read_s) == (2.5, 0.25)
    assert round(found.rate_before, 3) == round(2 / 9, 3)
    never = reported([write(1, 1, 1.1), write(2, 9, 9.5), write(3, 10, 30, "57P03")])
    assert round(never.rto_s, 3) == 20.5


@pytest.mark.parametrize("wrong", ["lost", "doubled", "risen"])
def test_what_clients_were_told_wrongly_is_not_sound(wrong: str) -> None:
    """Scripts look at the exit status alone."""
    truth = {"lost": (), "doubled": (), "risen": (), wrong: ((1, 2),)}
    found = reported([write(2, 8, 9.0), write(3, 8, 9.9), write(4, 10, 12.5)], Truth(**truth, unknown=0))
    assert not found.is_sound
    assert json.loads(found.json())[wrong] == 1
    assert round(found.rpo_s, 3) == (0.9 if wrong == "lost" else 0.0)
    assert reported([write(1, 9, 11)]).is_sound


def test_what_forebay_says_stands_beside_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound that is smaller than what the ledger finds is a bug; one that nobody knows is no 0."""
    outcomes = [write(2, 8, 9.0), write(3, 8, 9.9), write(4, 10, 12.5)]
    row = {"database": "shop", "missing_bytes": 70, "missing_ms_max": 800, "reason": "at most <0.8 s>", "age_ms": 2999}
    asked: list[str] = []
    rows = [
        {**row, "age_ms": 3001}, {**row, "database": "blog"}, row,
        {**row, "missing_bytes": 5, "missing_ms_max": 900, "reason": "at most 0.9 s"},
    ]  # fmt: skip

    def ask(_: object, statement: str, **_more: object) -> list[dict[str, Any]]:
        asked.append(statement)
        return rows

    monkeypatch.setattr(account.console_link, "ask", ask)
    told = account.ask({}, "shop", 3.0)
    assert (told, asked) == (Account(75, 0.9, "at most <0.8 s>; then at most 0.9 s"), ["SHOW FAILOVERS"])
    found = report_of("kill", outcomes, NOTHING, FAULT, 4, 0, 0, told)
    assert "the same, by forebay  at most <0.8 s>; then at most 0.9 s\n" in found.text()
    assert json.loads(found.json())["account"] == {"missing_bytes": 75, "missing_s": 0.9, "because": told.because}
    assert "<th>the same, by forebay</th><td>at most &lt;0.8 s&gt;" in page(found)

    planned = account.account_of([{**row, "missing_bytes": 0, "missing_ms_max": 0, "reason": "it was planned"}])
    assert planned.words == "nothing: it was planned"
    unknown = {**row, "missing_bytes": None, "missing_ms_max": None, "reason": "nothing was heard"}
    assert account.account_of([row, unknown]).words == "not known: at most <0.8 s>; then nothing was heard"
    assert account.account_of([{**row, "missing_ms_max": None}]).words == "at most <0.8 s>"
    assert account.account_of([]).words == "not known: forebay has seen no change of the primary"


def test_without_a_console_forebays_account_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """And neither where the console refuses: the drill is over, and its other findings are worth telling."""
    found = reported([write(2, 8, 9.0), write(4, 10, 12.5)])
    assert "the same, by forebay  not known: no console was asked; name one with --dsn or --config\n" in found.text()
    said = json.loads(found.json())["account"]
    assert (said["missing_bytes"], said["missing_s"]) == (None, None)

    def refuses(*_: object, **_more: object) -> list[dict[str, Any]]:
        raise Failure("the console refused SHOW FAILOVERS: no")

    monkeypatch.setattr(account.console_link, "ask", refuses)
    assert account.ask({}, "shop", 3.0).words == "not known: the console refused SHOW FAILOVERS: no"


def test_the_ledger_tells_lost_from_doubled_and_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that failed with 08007 may be there or not."""
    rows = [(1, 1, 1), (1, 2, 2), (1, 4, 1), (1, 5, 1), (1, 6, 1)]
    monkeypatch.setattr(Ledger, "_once", lambda *_args, **_more: rows)
    told = [None, None, None, "08007", "57P01", "lost", "08007"]
    outcomes = [write(number, 1, 2, error) for number, error in enumerate(told, start=1)]
    assert Ledger({}).compare(outcomes) == Truth(lost=((1, 3),), doubled=((1, 2),), risen=((1, 5),), unknown=3)


def test_the_primary_is_asked_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that goes on after the old primary lacks what was written since: it would all be called lost."""
    asked: list[str] = []
    monkeypatch.setattr(Ledger, "_once", lambda _ledger, sql, **_more: asked.append(sql) or [])
    Ledger({}).compare([])
    assert len(asked) == 1
    assert asked[0].startswith("BEGIN; "), "a transaction that is not READ ONLY is the primary's"


class _Guest:
    """A client that is in at its first try, or, the second one, once `door` is open; it is answered at once."""

    def __init__(self, key: int, door: threading.Event) -> None:
        self.key, self.state, self.due, self.logins_failed, self.tries = key, State.CLOSED, 0.0, 0, 0
        self._door, self._ends = door, socket.socketpair()

    def connect(self) -> None:
        self.state = State.CONNECTING

    def fileno(self) -> int:
        return self._ends[0].fileno()

    def goes_on_connecting(self) -> bool:
        self.tries += 1
        if self.key == 0 or self._door.is_set():
            self.state = State.IDLE
        return self.state is State.CONNECTING

    def ask(self, is_write: bool, now: float) -> Outcome:
        return Outcome(self.key, 1, is_write, now, now, None)

    def unasked(self) -> None:
        return None

    def close(self) -> None:
        for end in self._ends:
            end.close()


def test_nobody_asks_anything_before_all_are_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one's wait would be that for the others' logins, and the longest of the drill."""
    door, guests = threading.Event(), list[_Guest]()

    def guest(_conninfo: bytes, key: int) -> _Guest:
        guests.append(_Guest(key, door))
        return guests[-1]

    monkeypatch.setattr(loads, "Client", guest)
    load = Load(b"", clients=2, rate=2000, reads=0.5)
    load.start()
    try:
        until(lambda: guests[1].tries > 1000, within_s=30, what="the second one tries again and again")
        assert (guests[0].state, load.outcomes) == (State.IDLE, [])
        door.set()
        until(lambda: {each.client for each in load.outcomes} == {0, 1}, within_s=30, what="both are at work")
    finally:
        load.end(wait_s=0)
    assert load.failure is None


class _Lines:
    """A ledger of which nothing is asked; notes what becomes of its table."""

    def __init__(self, events: list[str]) -> None:
        self._events = events

    def create(self) -> None:
        self._events.append("created")

    def drop(self, *, within_s: float) -> None:
        self._events.append(f"dropped, {within_s:.0f}")


def test_an_interrupted_drill_ends_what_it_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """A switchover that went on would promote a replica after Ctrl-C, with nobody there to hear of it."""
    events: list[str] = []
    is_called_off = threading.Event()
    monkeypatch.setattr(Load, "begin", lambda _: None)
    monkeypatch.setattr(Load, "end", lambda _, *, wait_s: events.append(f"load ended, {wait_s}"))

    def act(tell: Callable[[str], None]) -> None:
        tell("held: requests wait")
        os.kill(os.getpid(), signal.SIGINT)
        is_called_off.wait(30)
        events.append("undone" if is_called_off.is_set() else "went on")
        raise Failure("the console refused it: cancelled")

    plan = Plan(how="switchover", clients=1, rate=100, reads=0.5, before_s=0, after_s=0, within_s=30)
    drill = Drill({}, _Lines(events), plan, act, stop=is_called_off.set)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        drill.run()
    assert sorted(events[:-1]) == ["created", "load ended, 0", "undone"]
    assert events[-1] == "dropped, 60"
    assert drill.steps == ["held: requests wait", "the console refused it: cancelled"]


def test_what_is_not_done_in_time_is_called_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be done when nobody looks any more. What is left is not waited for as where service is there."""
    events: list[str] = []
    is_called_off = threading.Event()
    monkeypatch.setattr(Load, "begin", lambda _: None)
    monkeypatch.setattr(Load, "end", lambda _, *, wait_s: events.append(f"load ended, {wait_s}"))

    def act(_tell: Callable[[str], None]) -> None:
        events.append("called off" if is_called_off.wait(30) else "done")

    plan = Plan(how="switchover", clients=1, rate=100, reads=0.5, before_s=0, after_s=0, within_s=2)
    drill = Drill({}, _Lines(events), plan, act, stop=is_called_off.set)  # type: ignore[arg-type]
    with pytest.raises(Failure, match="not done within 2 s"):
        drill.run()
    assert sorted(events[:-1]) == ["called off", "created", "load ended, 0"]
    assert events[-1] == "dropped, 5"


def test_a_primary_that_says_too_late_where_it_is_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The drill is over then, and has told so."""
    killed: list[Place] = []
    monkeypatch.setattr("forebay.control.drill.run.kill_postmaster", killed.append)
    monkeypatch.setattr(Ledger, "place", lambda _ledger, *, within_s: Place(7, int(within_s), 1.0))
    kill = _Kill(Ledger({}), 3)
    kill.run(lambda _: None)
    assert killed == [Place(7, 3, 1.0)]
    kill.stop()
    with pytest.raises(Failure, match="was left alone"):
        kill.run(lambda _: None)
    assert len(killed) == 1


def test_what_nobody_can_be_asked_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """No write is lost by a report that has not looked, and none is there."""

    def nobody(*_args: object, **_more: object) -> list[object]:
        raise Failure("the database can't be asked: no answer within 5 s")

    monkeypatch.setattr(Ledger, "_patiently", nobody)
    outcomes = [write(1, 8, 9.0), write(2, 10, 12.5, "lost")]
    with pytest.raises(Failure, match="can't be asked"):
        Ledger({}).compare(outcomes)
    found = reported(outcomes, Ledger({}).compare(outcomes, is_back=False))
    assert not found.is_sound
    assert found.text().count("not known: nobody can be asked what is there\n") == 3
    assert [json.loads(found.json())[each] for each in ("lost", "doubled", "risen", "unknown")] == [None] * 3 + [1]
    assert "Not sound: what is there is not known." in page(found)


def test_the_page_is_whole_and_shows_every_slot() -> None:
    """It is mailed around: nothing may be fetched, and what a step tells is no markup."""
    found = reported([write(1, 9, 9.5), write(2, 10, 11), write(3, 10, 10.5, "57P01")])
    html = page(found)
    for svg in html.split("<svg")[1:]:
        drawing = ElementTree.fromstring("<svg" + svg.partition("</svg>")[0] + "</svg>")
        for line in drawing.iter("polyline"):
            assert len(line.attrib["points"].split()) == len(found.slots) >= 20
    assert "held: &lt;all&gt; wait" in html
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html
    assert "57P01: 1" in html
    assert ">errors/s<" in html
    assert ">errors/s<" not in page(reported([write(1, 9, 9.5), write(2, 10, 11)])), "a line along zero tells nothing"
    assert page(reported([])).count("<svg") == 0


@pytest.mark.parametrize(("truth", "words"), [(NOTHING, "Sound"), (Truth(((1, 1),), (), (), 0), "Not sound")])
def test_the_page_says_first_what_came_of_it(truth: Truth, words: str) -> None:
    """Who is sent it looks for one word, and then for the figures."""
    html = page(reported([write(1, 9, 9.5), write(2, 10, 11)], truth))
    assert re.search(rf'<p class="verdict \w+">{words}:', html)
    assert html.index("verdict") < html.index("<svg")
    assert "lost 1 of 2" in " ".join(re.sub(r"<[^>]+>", " ", html).split()) or not truth.lost


def test_nothing_but_a_postgres_is_killed() -> None:
    """A process id of another machine is somebody else's here."""
    with pytest.raises(Failure, match="does not run on this machine"):
        kill_postmaster(Place(os.getpid(), 1, 1.0))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        with pytest.raises(Failure, match="does not run on this machine"):
            kill_postmaster(Place(child.pid, 1, 1.0))
        assert child.poll() is None


FAMILY = """
import subprocess, sys
child = subprocess.Popen([sys.argv[1], "-c", "input()"], stdin=subprocess.PIPE)
print(child.pid, flush=True)
input()
"""


@pytest.fixture
def family(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Place]]:
    """Looks like a server with one session, which began at 1000 s and is of system 7."""
    postgres = tmp_path / "postgres"
    postgres.symlink_to(os.path.realpath(sys.executable))
    (tmp_path / "global").mkdir()
    (tmp_path / "global/pg_control").write_bytes(struct.pack("q", 7) + bytes(100))
    with subprocess.Popen(
        [postgres, "-c", FAMILY, postgres], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        (tmp_path / "postmaster.pid").write_text(f"{parent.pid}\n{tmp_path}\n1000\n5432\n")
        try:
            yield parent, Place(pid, 7, 1000.5)
        finally:
            parent.kill()


def test_another_server_of_this_machine_is_left_alone(family: tuple[subprocess.Popen[bytes], Place]) -> None:
    """Process ids of a container mean others here, and a standby is of the same system."""
    parent, place = family
    for wrong in (place._replace(system=8), place._replace(started=2000.0)):
        with pytest.raises(Failure, match="is another server than the primary"):
            kill_postmaster(wrong)
    assert state(parent) in "SR"
    kill_postmaster(place)
    assert parent.wait(10) == -signal.SIGKILL
    until(lambda: not is_alive(place.pid), within_s=10, what="the session is killed")


def test_a_server_that_can_not_be_killed_goes_on(
    family: tuple[subprocess.Popen[bytes], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stays stopped is worse than one that is killed. A session that has ended by itself is killed enough."""
    parent, place = family
    kill = os.kill

    def may_not(pid: int, number: int) -> None:
        if pid == refused and number == signal.SIGKILL:
            raise error
        kill(pid, number)

    monkeypatch.setattr(os, "kill", may_not)
    refused, error = parent.pid, PermissionError(1, "Operation not permitted")
    with pytest.raises(Failure, match="can't be killed: Operation not permitted"):
        kill_postmaster(place)
    until(lambda: state(parent) in "SR", within_s=10, what="it goes on")
    refused, error = place.pid, ProcessLookupError(3, "No such process")  # type: ignore[assignment]
    kill_postmaster(place)
    assert parent.wait(10) == -signal.SIGKILL
    kill(place.pid, signal.SIGKILL)


def state(process: subprocess.Popen[bytes]) -> str:
    """As the system has it: S, R, T for stopped."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_few_writes_are_a_service_too() -> None:
    """Half a second without one says nothing where there is one a second."""

    def plan(rate: float, reads: float) -> Plan:
        return Plan(how="kill", clients=1, rate=rate, reads=reads, before_s=1, after_s=1, within_s=30)

    assert calm_of(plan(500, 0.5)) == (0.5, 2.0)
    calm_s, back_s = calm_of(plan(2, 0.5))
    now = time.monotonic()
    slow = [write(number, now - 40 + number, now - 39.9 + number) for number in range(40)]
    assert is_served(slow, now - 30, calm_s, back_s)
    assert not is_served(slow[:-10], now - 30, calm_s, back_s)
    with pytest.raises(Failure, match="too few writes") as told:
        Drill({}, Ledger({}), plan(1, 0.99), lambda _: None).run()
    assert told.value.hint == "Raise --rate, or --within above 1600."


def test_a_switchover_is_of_the_cluster_under_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the signs are looked for at one, and the primary is taken from the other."""
    asked: list[dict[str, Any]] = []
    systems = {"a": 1, "b": 2, "c": 1}

    def once(ledger: Ledger, _sql: str, **_more: Any) -> list[tuple[int, int, float]]:
        asked.append(dict(ledger._parameters))
        return [(1, systems[asked[-1]["host"]], 1.0)]

    monkeypatch.setattr(Ledger, "_once", once)
    given = {"host": "a", "hostaddr": "10.0.0.1", "user": "app", "dbname": "shop"}
    for host in "bc":
        options = Options("host=a", "switchover", None, None, None, f"host={host} port=7 user=ops", None)
        with pytest.raises(Failure, match="another cluster") if host == "b" else contextlib.nullcontext():
            check_cluster(options, given, Ledger(given))
        there = next(each for each in reversed(asked) if each["host"] == host)
        assert (there["user"], there["dbname"], there["port"], there.get("hostaddr")) == ("app", "shop", "7", None)
