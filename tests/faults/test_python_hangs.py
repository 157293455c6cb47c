"""Row 40: Python hosts the engine's threads, and must never be on the way of a request."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.wire import query, startup

# A call into C that keeps the interpreter lock: every other Python thread stands still meanwhile.
SOURCE = """
import ctypes, pathlib, forebay

@forebay.secret_source
def find(request):
    pathlib.Path("hanging").touch()
    ctypes.PyDLL(None).usleep({microseconds})
    return None
"""

HANGS_S = 4.0


@pytest.mark.variants("uring-1", "uring-2", "epoll-1", "epoll-2")
def test_traffic_goes_on_while_the_interpreter_lock_is_held(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path
) -> None:
    """A hook, a garbage collection or a debugger may stop Python for a minute; clients must not notice."""
    source = tmp_path / "hangs.py"
    source.write_text(SOURCE.format(microseconds=int(HANGS_S * 1e6)))
    auth = {"type": "trust", "secret_source": str(source), "ask_timeout": "1s"}
    forebay = start(configuration(server, variant, auth=auth))
    with forebay.target.wire() as client, forebay.target.dial() as victim:
        assert client.value("select 1") == "1"
        victim.send(startup(user="whom_only_python_knows", database="app"))
        until((forebay.folder / "hanging").exists, within_s=5, what="the hook runs")
        began = time.monotonic()
        served, slowest = 0, 0.0
        while time.monotonic() - began < HANGS_S - 1:
            asked = time.monotonic()
            with forebay.target.wire() as newcomer:
                assert newcomer.value("select 'new'") == "new"
            client.ask(query("begin"))
            assert client.value(f"select {served}") == str(served)
            client.ask(query("commit"))
            slowest = max(slowest, time.monotonic() - asked)
            served += 1
        assert served > 50
        assert slowest < 1
        assert [frame.fields["S"] for frame in victim.rest() if frame.tag == "E"] == ["FATAL"]
    assert forebay.console("show version")
    until(lambda: forebay.events("python_stalled"), within_s=5, what="the log tells why the console waited")
    assert HANGS_S - 1 <= max(line["seconds"] for line in forebay.events("python_stalled")) < 60
