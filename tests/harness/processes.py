"""What /proc tells of processes that may not be our children."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

# The number of the system call, the same on all architectures (Linux 5.6).
PIDFD_GETFD = 438


def is_alive(pid: int) -> bool:
    """Whether a process is there, and more than an exit status that nobody has asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def listening_sockets(pid: int) -> set[str]:
    """The TCP sockets, of IPv4 and IPv6, that a process listens at: `socket:[inode]`."""
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    # 0A is LISTEN; the tenth column is the inode.
    listening = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    held = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        # One that was closed since.
        with contextlib.suppress(FileNotFoundError):
            held.add(str(descriptor.readlink()))
    return listening & held


@contextlib.contextmanager
def sockets_of(pid: int) -> Iterator[list[socket.socket]]:
    """The sockets of another process, as duplicates: for what the system says of them. Needs root."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    with contextlib.ExitStack() as stack:
        process = os.pidfd_open(pid)
        stack.callback(os.close, process)
        found = []
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            # One that was closed since.
            with contextlib.suppress(FileNotFoundError):
                if not str(descriptor.readlink()).startswith("socket:"):
                    continue
                number = call(PIDFD_GETFD, process, int(descriptor.name), 0)
                if number < 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
                found.append(stack.enter_context(socket.socket(fileno=number)))
        yield found


class Orphan:
    """A process that another one has started: as `subprocess.Popen`, but for its exit status, which nobody can know."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """0 once it has ended."""
        return None if is_alive(self.pid) else 0

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end. Raises TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while is_alive(self.pid):
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(0.01)
        return 0

    def send_signal(self, number: int) -> None:
        """Sends it a signal, if it is there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)
