"""What is done to the process before it serves."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from forebay.dropin.process import (
    HELD,
    HeldSignals,
    addresses_of,
    become,
    inherited_sockets,
    pid_file,
    refuse_live_pid,
    refuse_live_socket,
)
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


@pytest.mark.parametrize("held", [b"[databases]\n", b"12 13", b"0\n", b"9999999999\n", b"9" * 5000, b"\xff\xfe", b"-1"])
def test_a_file_that_is_no_pid_file_is_kept_and_refuses_the_start(tmp_path: Path, held: bytes) -> None:
    """Whoever names the wrong file in pidfile would lose it."""
    path = tmp_path / "pgbouncer.ini"
    path.write_bytes(held)
    with pytest.raises(Failure, match="holds no process ID") as failure:
        refuse_live_pid(path)
    assert failure.value.hint
    assert path.read_bytes() == held


def test_an_empty_pid_file_is_that_of_a_process_that_starts(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    path.touch()
    with pytest.raises(Failure, match="just starting"):
        refuse_live_pid(path)
    assert path.exists()


def test_one_of_two_starts_at_once_fails(tmp_path: Path) -> None:
    """Both have found no PID file."""
    path = tmp_path / "x.pid"
    with pid_file(path):
        with pytest.raises(Failure, match="just starting"), pid_file(path):
            pass
        assert path.read_text() == f"{os.getpid()}\n"
        assert [one.name for one in tmp_path.iterdir()] == ["x.pid"]


def test_a_stale_pid_file_that_another_start_has_replaced_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two starts that find it stale, the second would remove the first one's."""
    path = tmp_path / "x.pid"
    path.write_text(f"{os.getpid()}\n")

    def replace(*_: object) -> None:
        path.unlink()
        path.write_text("1\n")

    monkeypatch.setattr("fcntl.flock", replace)
    with pytest.raises(Failure, match="just starting"):
        refuse_live_pid(path)
    assert path.read_text() == "1\n"


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


def test_the_environment_is_that_of_the_user_it_becomes(monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq and commands would look for their files in root's folder, which they can't read."""
    entry = pwd.getpwall()[-1]
    uids = [entry.pw_uid + 1]
    for name in ("initgroups", "setgid"):
        monkeypatch.setattr(os, name, lambda *_: None)
    monkeypatch.setattr(os, "setuid", uids.append)
    monkeypatch.setattr(os, "geteuid", lambda: uids[-1] or 1)
    for name in ("HOME", "USER", "LOGNAME"):
        monkeypatch.setenv(name, "root's")
    become(entry.pw_name)
    assert [os.environ[name] for name in ("HOME", "USER", "LOGNAME")] == [entry.pw_dir, entry.pw_name, entry.pw_name]


BEHIND = """
import os
from forebay.dropin.process import Background
os.closerange(0, 3)
background = Background()
with open("seen", "w") as file:
    file.write(" ".join(os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)))
background.started()
"""


def test_the_background_is_reached_with_standard_streams_closed(tmp_path: Path) -> None:
    """Some service managers start programs so; the starter's end would be taken for standard input."""
    done = subprocess.run([sys.executable, "-c", BEHIND], cwd=tmp_path, check=False, timeout=20)
    assert done.returncode == 0
    assert (tmp_path / "seen").read_text() == "/dev/null /dev/null /dev/null"


def test_a_failure_without_standard_error_is_a_status_only(tmp_path: Path) -> None:
    """There is nowhere to say it, and a traceback would say less."""
    program = "import os; from forebay.dropin.start import run; os._exit(10 + run(['x', '--no-such-option']))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, check=False, timeout=20, preexec_fn=lambda: os.closerange(0, 3))
    assert done.returncode == 11


def test_signals_before_it_serves_are_kept_for_then() -> None:
    """They would end the process by default, and its PID file would stay."""
    came: list[int] = []
    before = [signal.getsignal(number) for number in HELD]
    held = HeldSignals()
    with held.all_along():
        for number in HELD:
            os.kill(os.getpid(), number)
        for number in HELD:
            signal.signal(number, lambda number, _: came.append(number))
        assert came == []
        held.release()
        held.release()
        assert came == list(HELD)
    assert [signal.getsignal(number) for number in HELD] == before


def test_the_addresses_of_sockets_that_were_passed_are_known(tmp_path: Path) -> None:
    with (
        socket.socket() as tcp,
        socket.socket(socket.AF_INET6) as tcp6,
        socket.socket(socket.AF_UNIX) as unix,
        (tmp_path / "x").open("w") as file,
    ):
        tcp.bind(("127.0.0.1", 0))
        unix.bind(str(tmp_path / "socket"))
        assert addresses_of([one.fileno() for one in (tcp, unix, file, tcp6)]) == ("127.0.0.1", "::")
        assert tcp.getsockname()[0] == "127.0.0.1", "it is open still"


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
