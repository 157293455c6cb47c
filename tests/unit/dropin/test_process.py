"""What is done to the process before it serves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from forebay.dropin.process import become, inherited_sockets, pid_file, refuse_live_pid, refuse_live_socket
from forebay.failure import Failure


def test_a_pid_file_lives_as_long_as_the_process_serves(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    with pid_file(path):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_a_pid_file_that_is_another_processs_by_now_is_left(tmp_path: Path) -> None:
    """A successor may have written its own meanwhile."""
    path = tmp_path / "x.pid"
    with pid_file(path):
        path.write_text("1\n")
    assert path.read_text() == "1\n"


def test_a_live_pid_file_refuses_the_start(tmp_path: Path) -> None:
    """Two poolers with one configuration would share neither limits nor PAUSE."""
    path = tmp_path / "x.pid"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        path.write_text(f"{other.pid}\n")
        with pytest.raises(Failure, match=f"process {other.pid} runs"):
            refuse_live_pid(path)
        assert path.exists()
        other.communicate(b"\n")
    refuse_live_pid(path)
    assert not path.exists(), "it is stale by now"


def test_a_pid_file_with_our_own_number_is_stale(tmp_path: Path) -> None:
    """In a container the first process has the same number each time."""
    path = tmp_path / "x.pid"
    path.write_text(f"{os.getpid()}\n")
    refuse_live_pid(path)
    assert not path.exists()


def test_a_live_unix_socket_refuses_the_start(tmp_path: Path) -> None:
    path = tmp_path / ".s.PGSQL.6432"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        refuse_live_socket(str(tmp_path), 6432)
        other.listen()
        with pytest.raises(Failure, match="unix socket is in use, cannot continue"):
            refuse_live_socket(str(tmp_path), 6432)
    refuse_live_socket(str(tmp_path), 6432)
    refuse_live_socket("", 6432)


def test_an_unknown_user_is_told() -> None:
    with pytest.raises(Failure, match='no Unix user "nobody-knows-it"'):
        become("nobody-knows-it")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be refused for being root")
def test_root_is_refused() -> None:
    """A pooler that speaks to the world has no use for that power."""
    for user in (None, "root"):
        with pytest.raises(Failure, match="does not run as root"):
            become(user)


def test_only_sockets_for_this_process_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child inherits the environment, and not the sockets."""
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert inherited_sockets() == []
    assert "LISTEN_FDS" not in os.environ
