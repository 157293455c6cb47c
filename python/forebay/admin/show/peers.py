"""SHOW PEERS and SHOW PEER_POOLS."""

from __future__ import annotations

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show
from forebay.admin.show.databases import split_endpoint


async def peers(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each peer of the configuration, by its number."""
    listed = sorted(backend.config.peers.others, key=lambda peer: peer.id)
    return [(peer.id, *_place(peer.endpoint), peer.pool_size) for peer in listed]


async def peer_pools(backend: Backend) -> list[tuple[Value, ...]]:
    """What is on its way to each of them."""
    return [
        (peer.peer_id, peer.cl_active_cancel_req, peer.cl_waiting_cancel_req, peer.sv_active_cancel, peer.sv_login)
        for peer in (await backend.snapshot()).peers
    ]


def _place(endpoint: str) -> tuple[str, int | None]:
    """Host and port; of a Unix socket its folder and the number in its name, as they were given."""
    folder, is_socket, port = endpoint.rpartition("/.s.PGSQL.")
    return (folder, int(port)) if is_socket and port.isdecimal() else split_endpoint(endpoint)


PEERS = show("peers", peers, role=Role.VIEWER)
PEER_POOLS = show("peer_pools", peer_pools, role=Role.VIEWER)
