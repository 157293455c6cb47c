"""Tells systemd how the service is (sd_notify(3)); does nothing where nobody listens."""

from __future__ import annotations

import contextlib
import os
import socket
import time


def notify(*assignments: str) -> None:
    """Sends `NAME=value` lines to the socket that NOTIFY_SOCKET names. A failure is no reason to stop working."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(address)
        sender.sendall("\n".join(assignments).encode())


def ready(status: str) -> None:
    """The service takes connections, or does again after a reload."""
    notify("READY=1", f"STATUS={status}")


def reloading() -> None:
    """A reload begins; Type=notify-reload wants the monotonic time of it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def stopping() -> None:
    """The service ends."""
    notify("STOPPING=1", "STATUS=stopping")
