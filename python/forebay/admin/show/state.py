"""SHOW STATE."""

from __future__ import annotations

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, database_names, show


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """Paused means that all databases are; forebay has no SUSPEND."""
    paused = set((await backend.snapshot()).paused)
    names = database_names(backend)
    is_paused = "*" in paused or (bool(names) and names <= paused)
    return [("active", "no" if is_paused else "yes"), ("paused", "yes" if is_paused else "no"), ("suspended", "no")]


COMMAND = show("state", rows, role=Role.VIEWER)
