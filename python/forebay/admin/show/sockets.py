"""SHOW SOCKETS and SHOW ACTIVE_SOCKETS."""

from __future__ import annotations

from typing import Final

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show
from forebay.admin.show import clients, servers

# PgBouncer's columns of SHOW CLIENTS and SHOW SERVERS, and those of its buffers behind them.
_SHARED: Final = 21
_STATE: Final = 4
_BUFFERS: Final = (None,) * 7


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """Clients, then servers."""
    both = [*await clients.rows(backend), *await servers.rows(backend)]
    return [(*row[:_SHARED], *_BUFFERS) for row in both]


async def active(backend: Backend) -> list[tuple[Value, ...]]:
    """Those that are in use."""
    return [row for row in await rows(backend) if row[_STATE] == "active"]


SOCKETS = show("sockets", rows, role=Role.VIEWER)
ACTIVE_SOCKETS = show("active_sockets", active, role=Role.VIEWER)
