"""SHOW ENDPOINTS."""

from __future__ import annotations

from collections.abc import Sequence

from forebay.admin.answer import Value
from forebay.admin.backend import Backend, EndpointRow
from forebay.admin.registration import Role, show
from forebay.admin.snapshot import Pool, Share

# Role and reason of endpoints without a topology.
_EQUAL = ("equal", "is as good as the others: the database has no topology")


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each endpoint of each database with a topology, in the order of the configuration, then of the others.

    Of these, those with several endpoints that their clients have used.
    """
    shares = _shares((await backend.snapshot()).pools)
    clustered = backend.endpoints()
    known = {(one.database, one.endpoint) for one in clustered}
    databases = (*backend.config.databases, backend.config.fallback_database)
    said = {(one.name, each.endpoint): each for one in databases if one is not None for each in one.preferences}
    listed = {one.name for one in backend.config.databases}
    equal = [
        EndpointRow(database, endpoint, *_EQUAL, None, None, None, None, None).preferred(
            said.get((database if database in listed else "*", endpoint))
        )
        for database, endpoint in shares
        if (database, endpoint) not in known
    ]
    return [_row(each, shares.get((each.database, each.endpoint))) for each in (*clustered, *equal)]


def _shares(pools: Sequence[Pool]) -> dict[tuple[str, str], Share]:
    """By database and endpoint, of the pool with the most servers; reads of a replica have a pool of their own."""
    found: dict[tuple[str, str], Share] = {}
    for pool in sorted(pools, key=lambda pool: -pool.servers):
        database = pool.database.removesuffix(":replicas")
        for share in pool.endpoints:
            found.setdefault((database, share.endpoint), share)
    return found


def _row(endpoint: EndpointRow, share: Share | None) -> tuple[Value, ...]:
    lsn = None if endpoint.lsn is None else f"{endpoint.lsn >> 32:X}/{endpoint.lsn & 0xFFFFFFFF:X}"
    shared = (None, None, None) if share is None else (share.share, share.latency_us, share.ejected)
    return (
        endpoint.database, endpoint.endpoint, endpoint.role, endpoint.reason, endpoint.timeline, lsn, endpoint.lag,
        _ms(endpoint.answered_s), endpoint.error, endpoint.source, _ms(endpoint.source_s), *shared,
        _ms(endpoint.exposed_s), endpoint.canary, _ms(endpoint.unconfirmed_s), endpoint.weight, endpoint.zone,
    )  # fmt: skip


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)


COMMAND = show("endpoints", rows, role=Role.VIEWER)
