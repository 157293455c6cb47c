"""What is done to the process before anything is served: its user, its PID file, its place in the background."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from forebay.failure import Failure

# systemd's first descriptor (sd_listen_fds(3)), and more of them than anybody passes.
LISTEN_FDS_START: Final = 3
LISTEN_FDS_MAX: Final = 64
# Signals that have a meaning once it serves, and would end it before that.
HELD: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_PID: Final = re.compile(rb"[0-9]{1,10}\r?\n?")
_PID_BYTES_MAX: Final = 12
_PID_MAX: Final = 2**31 - 1
_STANDARD_FD_MAX: Final = 2
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
            # libpq, and the commands that give secrets, look for their files by these.
            os.environ.update(HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)
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
    """Raises Failure where the PID file names a process that runs, or is no PID file; a stale one is removed."""
    try:
        with path.open("rb") as file:
            _refuse_live(path, file.read(_PID_BYTES_MAX + 1))
            # Of two starts that find it stale, the second may not remove what the first has put in its place.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                raise BlockingIOError
            path.unlink()
    except FileNotFoundError:
        return
    except BlockingIOError:
        raise _another_starts(path) from None
    except OSError as error:
        hint = "Let the user that it runs as read and remove it, or set another pidfile."
        raise Failure(f"the PID file {path} can't be used: {error.strerror or error}", hint=hint) from None


def _refuse_live(path: Path, written: bytes) -> None:
    """Raises Failure for what a PID file holds, unless it is the number of a process that is gone."""
    if not written:
        raise _another_starts(path)
    number = int(written) if _PID.fullmatch(written) else 0
    if not 0 < number <= _PID_MAX:
        hint = "Correct pidfile; if this is the file that you mean, remove it."
        raise Failure(f"the file {path}, which pidfile names, holds no process ID", hint=hint)
    if number != os.getpid() and _runs(number):
        hint = "Stop it, or give this one another pidfile."
        raise Failure(f"pidfile {path} exists, and process {number} runs", hint=hint)


def _another_starts(path: Path) -> Failure:
    hint = "Stop it, or give this one another pidfile; if no other process starts, remove the file."
    return Failure(f"pidfile {path} is that of a process that is just starting", hint=hint)


@contextlib.contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """Keeps a PID file for as long as the block lasts. Raises Failure where it can't be written."""
    if path is None:
        yield
        return
    # Nobody may find it half written, and one of two starts must fail.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            with draft.open("x") as file:
                file.write(f"{os.getpid()}\n")
            os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError:
        raise _another_starts(path) from None
    except OSError as error:
        hint = "Make its folder, and let the user that it runs as write there."
        raise Failure(f"the PID file {path} can't be written: {error.strerror or error}", hint=hint) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if path.read_bytes().strip() == str(os.getpid()).encode():
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


def addresses_of(fds: list[int]) -> tuple[str, ...]:
    """Where sockets listen; Unix sockets are left out, and what is no socket, which the engine refuses."""
    found = []
    for fd in fds:
        with contextlib.suppress(OSError):
            one = socket.socket(fileno=fd)
            try:
                if one.family in (socket.AF_INET, socket.AF_INET6):
                    found.append(str(one.getsockname()[0]))
            finally:
                one.detach()
    return tuple(found)


class HeldSignals:
    """Keeps signals that come when nothing acts on them; they would end the process and leave its PID file.

    They are caught and not blocked: commands that are started meanwhile would inherit a mask.
    """

    def __init__(self) -> None:
        self._came: list[int] = []

    @contextlib.contextmanager
    def all_along(self) -> Iterator[None]:
        """Holds them for as long as the block lasts, unless something else acts on them meanwhile."""
        before: dict[signal.Signals, Callable[..., object] | int | None] = {
            number: signal.getsignal(number) for number in (*HELD, signal.SIGQUIT)
        }
        self.hold()
        try:
            yield
        finally:
            for number, act in before.items():
                signal.signal(number, signal.SIG_DFL if act is None else act)

    def hold(self) -> None:
        """From here on they are kept, but for QUIT, which ends the process in order: its PID file goes."""
        for number in HELD:
            signal.signal(number, lambda came, _: self._came.append(came))
        signal.signal(signal.SIGQUIT, _leave)

    def release(self) -> None:
        """Sends those that came to what acts on them by this time, in their order."""
        came, self._came = self._came, []
        for number in came:
            signal.raise_signal(number)


def _leave(_number: int, _frame: object) -> None:
    raise SystemExit(0)


def fill_standard_fds() -> None:
    """Opens what is closed of standard input, output and error, lest a file or a connection gets its number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_FD_MAX:
        os.set_inheritable(fd, True)
    os.close(fd)


def tell(words: str) -> None:
    """Writes a line to standard error, if there is one."""
    # Python has none where the descriptor was closed at its start.
    if sys.stderr is not None:
        sys.stderr.write(f"{words}\n")
        sys.stderr.flush()


class Background:
    """A process that goes on behind its starter, who waits until it serves, or hears why it does not."""

    def __init__(self) -> None:
        """Goes to the background. In the starter this does not return: it exits with 0, or 1 and the words."""
        fill_standard_fds()
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
        if nothing > _STANDARD_FD_MAX:
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
        tell(words.decode(errors="replace") or "it ended before it served")
    os._exit(0 if words == _STARTED else 1)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
