"""From the command line to a service."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from forebay.dropin import start

INI = "[databases]\na = host=10.0.0.5\n[pgbouncer]\nauth_file = userlist.txt\npidfile = x.pid\nuser = app\n{more}"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """command(lines): the command line for an ini with these lines, for a process that becomes nobody else."""

    def write(more: str) -> list[str]:
        (tmp_path / "userlist.txt").write_text('"app" "pw"\n')
        (tmp_path / "userlist.txt").chmod(0o600)
        (tmp_path / "pgbouncer.ini").write_text(INI.format(more=more))
        return ["forebay-pgbouncer", str(tmp_path / "pgbouncer.ini")]

    monkeypatch.setattr(start, "become", lambda _: None)
    return write


def test_a_signal_while_it_starts_is_acted_on_once_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[[str], list[str]]
) -> None:
    """It would end the process by default, and its PID file would stay."""
    seen: list[object] = []

    class Starting:
        """A service that is sent TERM before it has tied itself to the loop, and after it has let go of it."""

        def __init__(self, *_: object, **__: object) -> None:
            pass

        async def run(self, *, started: Callable[[Any], Awaitable[None]], settled: Callable[[], None]) -> None:
            seen.append((tmp_path / "x.pid").read_text())
            os.kill(os.getpid(), signal.SIGTERM)
            loop, stop = asyncio.get_running_loop(), asyncio.Event()
            loop.add_signal_handler(signal.SIGTERM, stop.set)
            await started(None)
            await asyncio.wait_for(stop.wait(), 5)
            loop.remove_signal_handler(signal.SIGTERM)
            seen.append("stopped")

    monkeypatch.setattr(start, "Service", Starting)
    before = signal.getsignal(signal.SIGTERM)
    assert start.run(command("listen_addr = 127.0.0.1\nunix_socket_dir =\n")) == 0
    assert seen == [f"{os.getpid()}\n", "stopped"]
    assert not (tmp_path / "x.pid").exists()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(("address", "status"), [("0.0.0.0", 1), ("127.0.0.1", 0)])
def test_sockets_that_were_passed_are_guarded_as_listen_addr_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: Callable[[str], list[str]],
    address: str, status: int,
) -> None:  # fmt: skip
    """A .socket unit would let everyone in who reaches it; listen_addr need not be set beside it."""
    monkeypatch.setattr(start, "inherited_sockets", lambda: [3])
    monkeypatch.setattr(start, "addresses_of", lambda _: (address,))
    monkeypatch.setattr(start, "_serve", lambda *_, **_more: 0)
    assert start.run(command("auth_type = trust\nunix_socket_dir =\n")) == status
    assert ("lets everyone in who reaches 0.0.0.0" in capsys.readouterr().err) == bool(status)
