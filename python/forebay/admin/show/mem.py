"""SHOW MEM."""

from __future__ import annotations

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """Receive buffers, which are allocated at the start."""
    settings = backend.config.engine
    # The engine rounds their number up to a power of two.
    count = 1 << (settings.buffers - 1).bit_length()
    total = backend.identity.workers * count * settings.buffer_size
    return [("iobuf_cache", settings.buffer_size, None, None, total)]


COMMAND = show("mem", rows, role=Role.VIEWER)
