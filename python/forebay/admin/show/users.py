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
    limits = backend.config.limits
    return [
        (
            user.name,
            str(user.pool_size or ""),
            str(user.reserve_pool_size or ""),
            user.pool_mode,
            limits.max_user_connections if user.max_user_connections is None else user.max_user_connections,
            servers[user.name],
            limits.max_user_client_connections
            if user.max_user_client_connections is None
            else user.max_user_client_connections,
            clients[user.name],
        )
        for user in backend.config.users
    ]


COMMAND = show("users", rows, role=Role.VIEWER)
