"""What a drill makes of the statements of its clients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from forebay.control.drill.client import Outcome
from forebay.control.drill.ledger import Ledger, Truth
from forebay.control.drill.plot import page
from forebay.control.drill.report import Fault, Report, report_of
from forebay.control.drill.run import kill_postmaster
from forebay.failure import Failure

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


def test_the_ledger_tells_lost_from_doubled_and_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that failed with 08007 may be there or not."""
    rows = [(1, 1, 1), (1, 2, 2), (1, 4, 1), (1, 5, 1), (1, 6, 1)]
    monkeypatch.setattr(Ledger, "_once", lambda *_args, **_more: rows)
    told = [None, None, None, "08007", "57P01", "lost", "08007"]
    outcomes = [write(number, 1, 2, error) for number, error in enumerate(told, start=1)]
    assert Ledger({}).compare(outcomes) == Truth(lost=((1, 3),), doubled=((1, 2),), risen=((1, 5),), unknown=3)


def test_the_page_is_whole_and_shows_every_slot() -> None:
    """It is mailed around: nothing may be fetched, and what a step tells is no markup."""
    found = reported([write(1, 9, 9.5), write(2, 10, 11), write(3, 10, 10.5, "57P01")])
    html = page(found)
    for svg in html.split("<svg")[1:]:
        drawing = ElementTree.fromstring("<svg" + svg.partition("</svg>")[0] + "</svg>")
        for line in drawing.iter("polyline"):
            assert len(line.attrib["points"].split()) == len(found.slots) >= 20
    assert "held: &lt;all&gt; wait" in html
    assert page(reported([])).count("<svg") == 0


def test_nothing_but_a_postgres_is_killed() -> None:
    """A process id of another machine is somebody else's here."""
    with pytest.raises(Failure, match="does not run on this machine"):
        kill_postmaster(os.getpid())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        with pytest.raises(Failure, match="does not run on this machine"):
            kill_postmaster(child.pid)
        assert child.poll() is None
