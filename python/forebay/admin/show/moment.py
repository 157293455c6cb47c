"""How SHOW prints points in time, links and addresses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from forebay.admin.snapshot import Socket


def ago(now: datetime, microseconds: int) -> str:
    """A point in time as PgBouncer prints it."""
    then = now - timedelta(microseconds=microseconds)
    return then.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def own_end(socket: Socket | None) -> tuple[str | None, int | None]:
    """local_addr and local_port; NULL for a connection that has just ended."""
    return (None, None) if socket is None else (socket.address, socket.port)


def pointer(identity: int | None) -> str:
    """The id as PgBouncer prints the address of a connection; empty for none."""
    return "" if identity is None else f"{identity:#x}"
