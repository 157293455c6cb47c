"""The hook of `forebay switchover`: when it is ended, and what is waited for."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from forebay.cli import guarded, root
from forebay.cli.switchover import CallOff, statement, switch_over
from forebay.control import console_link

from tests.harness.deadline import until
from tests.harness.processes import is_alive

PROMOTE = "promote: b in place of a", "old=10.0.0.5:5432 new=10.0.0.6:5432", lambda: None


def order(hook: str, told: list[str]) -> None:
    """Has the switchover of `follow` made, with a hook in sh."""
    switch_over({}, "SWITCHOVER", database="shop", hook=["sh", "-c", hook], tell=told.append)


def test_a_hook_does_the_rest_when_the_replica_is_the_primary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes the old primary a standby: half-way, that is none."""

    def follow(_parameters: Any, _order: str, step: console_link.Step) -> None:
        step(*PROMOTE)
        until((tmp_path / "promoted").exists, within_s=10, what="it is promoted")

    monkeypatch.setattr(console_link, "follow", follow)
    told: list[str] = []
    order(f"cd {tmp_path}; touch promoted; sleep 0.3; echo $FOREBAY_OLD_HOST > standby; exit 3", told)
    assert (tmp_path / "standby").read_text() == "10.0.0.5\n"
    assert told == [PROMOTE[0], "the hook ended with status 3, after it had promoted"]


def test_the_hook_has_ended_when_it_is_called_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that goes on would promote the replica when requests go to the old primary again."""
    found: list[bool] = []

    def follow(_parameters: Any, _order: str, step: console_link.Step) -> None:
        step(*PROMOTE)
        until((tmp_path / "pid").exists, within_s=10, what="it runs")
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt:
            found.append(is_alive(int((tmp_path / "pid").read_text())))
            raise

    monkeypatch.setattr(console_link, "follow", follow)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        order(f"cd {tmp_path}; echo $$ > new; mv new pid; exec sleep 60", [])
    assert found == [False]
    assert signal.getsignal(signal.SIGINT) is before


def test_it_is_called_off_from_another_thread_once_it_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drill is interrupted at any moment, before its switchover has a connection as well."""
    stopped = threading.Event()

    def follow(_parameters: Any, _order: str, step: console_link.Step) -> None:
        step("held: requests wait", None, stopped.set)
        assert stopped.wait(30)

    monkeypatch.setattr(console_link, "follow", follow)
    call_off = CallOff()
    call_off()
    assert not stopped.is_set()
    switch_over({}, "SWITCHOVER", database="shop", hook=None, tell=lambda _: None, call_off=call_off)
    stopped.clear()
    call_off()
    assert stopped.is_set()


def test_times_are_told_as_they_were_given() -> None:
    """The order stands in refusals; the console takes no exponent."""
    assert statement("shop", wait=2, timeout=0.00001) == 'SWITCHOVER "shop" WAIT 2 TIMEOUT 0.00001'
    assert statement("shop", wait=30, timeout=2.5) == 'SWITCHOVER "shop" WAIT 30 TIMEOUT 2.5'


def test_an_interruption_is_told_what_becomes_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever presses Ctrl-C while requests wait wants to know whether they still do."""

    def follow(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(console_link, "follow", follow)
    arguments = ["switchover", "shop", "--dsn", "host=127.0.0.1 user=ops"]
    assert guarded(lambda: root.main(arguments, standalone_mode=False)) == 130
    assert "interrupted: undone, unless the promotion had begun" in capsys.readouterr().err
