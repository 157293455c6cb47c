"""What /proc tells of processes that may not be our children."""

from __future__ import annotations

import contextlib
from pathlib import Path


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
