"""SHOW CLIENTS."""

from __future__ import annotations

from datetime import UTC, datetime

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show
from forebay.admin.show.moment import ago, own_end, pointer


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each client, oldest first."""
    snapshot = await backend.sockets()
    now = datetime.now(UTC)
    return [
        (
            "C",
            client.user,
            client.database,
            client.replication,
            client.state,
            client.address,
            client.port,
            *own_end(client.socket),
            ago(now, client.age_us),
            ago(now, client.request_us),
            client.wait_us // 1_000_000,
            client.wait_us % 1_000_000,
            0,
            pointer(client.id),
            pointer(client.server),
            0,
            client.tls,
            client.application_name,
            client.prepared_statements,
            client.id,
            ", ".join(client.pin),
            ago(now, client.pinned_us) if client.pin else None,
            client.channels,
        )
        for client in sorted(snapshot.clients, key=lambda client: -client.age_us)
    ]


COMMAND = show("clients", rows, role=Role.VIEWER)
