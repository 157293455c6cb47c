"""SHOW ERRORS."""

from __future__ import annotations

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each kind of error that a pool's clients were told: forebay's own by code, servers' by class."""
    # A page for each error is a lot to keep for who never asks.
    from forebay._generated.pages import PAGES

    found: list[tuple[Value, ...]] = []
    for pool in sorted(backend.pools(), key=lambda pool: (pool.database, pool.user)):
        own = sorted(pool.refusals.items())
        found += [(pool.database, pool.user, "forebay", code, PAGES[code].sqlstate, count) for code, count in own]
        found += [
            (pool.database, pool.user, "server", known, None, count)
            for known, count in sorted(pool.server_errors.items())
        ]
    return found


COMMAND = show("errors", rows, role=Role.VIEWER)
