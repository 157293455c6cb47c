"""SHOW FAILOVERS."""

from __future__ import annotations

import time

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each change of a primary."""
    now = time.monotonic()
    return [
        (row.database, row.old, row.new, row.timeline, int(row.is_planned), row.missing_bytes, _ms(row.missing_s),
         row.reason, _ms(now - row.seen_at))
        for row in backend.failovers()
    ]  # fmt: skip


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


COMMAND = show("failovers", rows, role=Role.VIEWER)
