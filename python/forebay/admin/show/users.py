"""SHOW USERS."""

from __future__ import annotations

from collections import Counter

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each user of the configuration."""
    snapshot = await backend.snapshot()
    servers = Counter(server.user for server in snapshot.servers)
    clients = Counter(client.user for client in snapshot.clients)
    return [
        (
            user.name,
            str(user.pool_size or ""),
            str(user.reserve_pool_size or ""),
            user.pool_mode,
            user.max_user_connections or 0,
            servers[user.name],
            user.max_user_client_connections or 0,
            clients[user.name],
        )
        for user in backend.config.users
    ]


COMMAND = show("users", rows, role=Role.VIEWER)
