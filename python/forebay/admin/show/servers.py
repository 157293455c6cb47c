"""SHOW SERVERS."""

from __future__ import annotations

from datetime import UTC, datetime

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show
from forebay.admin.show.moment import ago, own_end, pointer


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each server, oldest first."""
    snapshot = await backend.sockets()
    now = datetime.now(UTC)
    pins = {client.server: client.pin for client in snapshot.clients}
    return [
        (
            "S",
            server.user,
            server.database,
            server.replication,
            server.state,
            server.address,
            server.port,
            *own_end(server.socket),
            ago(now, server.age_us),
            ago(now, server.request_us),
            0,
            0,
            int(server.close_needed),
            pointer(server.id),
            pointer(server.client),
            server.remote_pid,
            server.tls,
            server.application_name,
            server.prepared_statements,
            server.id,
            ", ".join(pins.get(server.id, ())),
            ", ".join(server.dirt),
            server.channels,
        )
        for server in sorted(snapshot.servers, key=lambda server: -server.age_us)
    ]


COMMAND = show("servers", rows, role=Role.VIEWER)
