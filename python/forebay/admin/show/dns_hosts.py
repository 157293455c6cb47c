"""SHOW DNS_HOSTS."""

from __future__ import annotations

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each name of a server; ttl: seconds until it is looked up again."""
    return [(name, ttl_s, ",".join(addresses)) for name, ttl_s, addresses in sorted(backend.hosts().rows)]


COMMAND = show("dns_hosts", rows, role=Role.VIEWER)
