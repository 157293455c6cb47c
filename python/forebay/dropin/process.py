"""What is done to the process before anything is served: its user, its PID file, its place in the background."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from forebay.failure import Failure

# systemd's first descriptor (sd_listen_fds(3)), and more of them than anybody passes.
LISTEN_FDS_START: Final = 3
LISTEN_FDS_MAX: Final = 64
_WORD_BYTES_MAX: Final = 65_536
_STARTED: Final = b"started"


def become(user: str | None) -> None:
    """Becomes a Unix user, for good. Raises Failure where that can't be, and for root."""
    if user:
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise Failure(f'there is no Unix user "{user}"', hint="Correct user in the ini, or -u.") from None
        if entry.pw_uid != os.geteuid():
            try:
                os.initgroups(user, entry.pw_gid)
                os.setgid(entry.pw_gid)
                os.setuid(entry.pw_uid)
            except PermissionError:
                hint = "Start as root, or as that user."
                raise Failure(f'only root may become the user "{user}"', hint=hint) from None
    if os.geteuid() == 0:
        hint = "Set user in the ini, or -u, to the Unix user it shall become; it needs to read the ini and its files."
        raise Failure("it does not run as root", hint=hint)


def refuse_live_socket(folder: str, port: int) -> None:
    """Raises Failure where somebody answers at the Unix socket that this process is to have."""
    if not folder or folder.startswith("@"):
        return
    path = Path(folder) / f".s.PGSQL.{port}"
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        probe.connect(str(path))
        raise Failure(
            "unix socket is in use, cannot continue",
            hint=f"A process listens at {path}: stop it, or give this one another unix_socket_dir or listen_port.",
        )


def refuse_live_pid(path: Path) -> None:
    """Raises Failure where the PID file names a process that runs; a stale file is removed."""
    try:
        written = path.read_text().strip()
    except FileNotFoundError:
        return
    except OSError as error:
        raise Failure(f"the PID file {path} can't be read: {error.strerror or error}") from None
    if written.isdecimal() and int(written) != os.getpid() and _runs(int(written)):
        hint = "Stop it, or give this one another pidfile."
        raise Failure(f"pidfile {path} exists, and process {written} runs", hint=hint)
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """Keeps a PID file for as long as the block lasts. Raises Failure where it can't be written."""
    if path is None:
        yield
        return
    try:
        with path.open("x") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as error:
        hint = "Make its folder, and let the user that it runs as write there."
        raise Failure(f"the PID file {path} can't be written: {error.strerror or error}", hint=hint) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if path.read_text().strip() == str(os.getpid()):
                path.unlink()


def inherited_sockets() -> list[int]:
    """Descriptors that systemd has bound for this process; its environment is cleared of them."""
    given = {name: os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    if given["LISTEN_PID"] != str(os.getpid()) or not given["LISTEN_FDS"].isdecimal():
        return []
    count = min(int(given["LISTEN_FDS"]), LISTEN_FDS_MAX)
    fds = list(range(LISTEN_FDS_START, LISTEN_FDS_START + count))
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds


class Background:
    """A process that goes on behind its starter, who waits until it serves, or hears why it does not."""

    def __init__(self) -> None:
        """Goes to the background. In the starter this does not return: it exits with 0, or 1 and the words."""
        self._end, own = os.pipe()
        if os.fork():
            os.close(own)
            _wait_and_exit(self._end)
        os.setsid()
        if os.fork():
            os._exit(0)
        os.close(self._end)
        self._end = own
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(nothing, fd)
        os.close(nothing)

    def started(self) -> None:
        """It serves."""
        self._say(_STARTED)

    def failed(self, words: str) -> None:
        """It does not, and why."""
        self._say(words.encode())

    def _say(self, words: bytes) -> None:
        if self._end >= 0:
            with contextlib.suppress(OSError):
                os.write(self._end, words)
            os.close(self._end)
            self._end = -1


def _wait_and_exit(fd: int) -> None:
    words = b""
    while len(words) < _WORD_BYTES_MAX and (more := os.read(fd, _WORD_BYTES_MAX)):
        words += more
    if words != _STARTED:
        sys.stderr.write((words.decode(errors="replace") or "it ended before it served") + "\n")
        sys.stderr.flush()
    os._exit(0 if words == _STARTED else 1)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
