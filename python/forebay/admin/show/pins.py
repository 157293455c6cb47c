"""SHOW PINS."""

from __future__ import annotations

from datetime import UTC, datetime

from forebay._generated.pins import ENDS
from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show
from forebay.admin.show.moment import ago


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each client that holds its server between transactions, the longest first."""
    snapshot = await backend.snapshot()
    now = datetime.now(UTC)
    pids = {server.id: server.remote_pid for server in snapshot.servers}
    pinned = sorted((client for client in snapshot.clients if client.pin), key=lambda client: -client.pinned_us)
    return [
        (
            client.id,
            client.database,
            client.user,
            client.application_name,
            client.address,
            client.port,
            client.server,
            None if client.server is None else pids.get(client.server),
            ago(now, client.pinned_us),
            ", ".join(client.pin),
            client.pin_verb,
            released_by(client.pin),
        )
        for client in pinned
    ]


def released_by(reasons: tuple[str, ...]) -> str:
    """What releases a server that is held for all of these reasons, each once."""
    return "; ".join(dict.fromkeys(ENDS[reason] for reason in reasons if reason in ENDS))


COMMAND = show("pins", rows, role=Role.VIEWER)
