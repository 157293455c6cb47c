"""SHOW FDS."""

from __future__ import annotations

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show
from forebay.admin.snapshot import Client, Server

# client_encoding, std_strings, datestyle, timezone; password, scram_client_key, scram_server_key.
_NOT_TOLD = (None,) * 7


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each connection's descriptor; none is handed over. Secrets are not shown, cancel keys among them."""
    held = await backend.sockets()
    connections: tuple[Client | Server, ...] = (*held.clients, *held.servers)
    fds = {one.id: one.socket.descriptor for one in connections if one.socket is not None}
    clients = [_row("client", client, client.server, fds) for client in held.clients if client.id in fds]
    return [*clients, *(_row("server", server, server.client, fds) for server in held.servers if server.id in fds)]


def _row(task: str, one: Client | Server, link: int | None, fds: dict[int, int]) -> tuple[Value, ...]:
    linked = None if link is None else fds.get(link)
    return (fds[one.id], task, one.user, one.database, one.address, one.port, None, linked, *_NOT_TOLD)


COMMAND = show("fds", rows, role=Role.ADMIN)
