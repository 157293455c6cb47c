"""SHOW LISTS."""

from __future__ import annotations

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show
from forebay.admin.show.databases import listed


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each of PgBouncer's lists; those that forebay does not have are 0."""
    snapshot = await backend.snapshot()
    hosts = backend.hosts()
    logging_in = sum(client.state == "login" for client in snapshot.clients)
    idle = sum(pool.sv_idle + pool.sv_used for pool in snapshot.pools)
    return [
        ("databases", len(listed(backend, snapshot))),
        ("users", len(backend.config.users)),
        ("peers", len(backend.config.peers.others)),
        ("pools", len(snapshot.pools)),
        ("peer_pools", len(snapshot.peers)),
        ("free_clients", 0),
        ("used_clients", len(snapshot.clients) - logging_in),
        ("login_clients", logging_in),
        ("free_servers", idle),
        ("used_servers", sum(pool.servers for pool in snapshot.pools) - idle),
        ("dns_names", len(hosts.rows)),
        ("dns_zones", 0),
        ("dns_queries", hosts.under_way),
        ("dns_pending", hosts.waiting),
    ]


COMMAND = show("lists", rows, role=Role.VIEWER)
