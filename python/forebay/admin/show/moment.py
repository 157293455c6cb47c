"""How SHOW prints points in time and links."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def ago(now: datetime, microseconds: int) -> str:
    """A point in time as PgBouncer prints it."""
    then = now - timedelta(microseconds=microseconds)
    return then.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def pointer(identity: int | None) -> str:
    """The id as PgBouncer prints the address of a connection; empty for none."""
    return "" if identity is None else f"{identity:#x}"
