"""SHOW STATE."""

from __future__ import annotations

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, database_names, show


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """Paused means that all databases are."""
    held = await backend.snapshot()
    paused = set(held.paused)
    names = database_names(backend)
    is_paused = "*" in paused or (bool(names) and names <= paused)
    states = {
        "active": not is_paused and not held.is_suspended,
        "paused": is_paused and not held.is_suspended,
        "suspended": held.is_suspended,
    }
    if not backend.identity.is_pgbouncer:
        states["draining"] = backend.is_draining
    return [(state, "yes" if holds else "no") for state, holds in states.items()]


COMMAND = show("state", rows, role=Role.VIEWER)
