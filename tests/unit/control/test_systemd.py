"""What systemd is told."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from forebay.control import systemd


def test_ready_reloading_and_stopping_reach_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Type=notify-reload waits for each; RELOADING without its time counts as a failure."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        systemd.reloading()
        systemd.ready("serving on 127.0.0.1:6432")
        systemd.stopping()
        told = [listener.recv(4096).decode().splitlines() for _ in range(3)]
    assert told[0][0] == "RELOADING=1"
    assert told[0][1].removeprefix("MONOTONIC_USEC=").isdecimal()
    assert told[1] == ["READY=1", "STATUS=serving on 127.0.0.1:6432"]
    assert told[2][0] == "STOPPING=1"


@pytest.mark.parametrize("path", ["", "relative", "/nonexistent/socket"])
def test_nobody_listening_is_no_error(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """forebay runs without systemd too."""
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    systemd.ready("x")
