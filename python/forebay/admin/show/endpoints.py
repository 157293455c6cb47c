"""SHOW ENDPOINTS."""

from __future__ import annotations

from forebay.admin.answer import Value
from forebay.admin.backend import Backend, EndpointRow
from forebay.admin.registration import Role, show


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each endpoint of each database with a topology, in the order of the configuration."""
    return [_row(each) for each in backend.endpoints()]


def _row(endpoint: EndpointRow) -> tuple[Value, ...]:
    lsn = None if endpoint.lsn is None else f"{endpoint.lsn >> 32:X}/{endpoint.lsn & 0xFFFFFFFF:X}"
    answered = None if endpoint.answered_s is None else int(endpoint.answered_s * 1000)
    source_ms = None if endpoint.source_s is None else int(endpoint.source_s * 1000)
    return (
        endpoint.database, endpoint.endpoint, endpoint.role, endpoint.reason, endpoint.timeline, lsn, endpoint.lag,
        answered, endpoint.error, endpoint.source, source_ms,
    )  # fmt: skip


COMMAND = show("endpoints", rows, role=Role.VIEWER)
