"""SHOW DATABASES."""

from __future__ import annotations

from collections import Counter

import msgspec

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show
from forebay.admin.snapshot import Snapshot
from forebay.config.resolved import DatabaseConfig


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each database of the configuration, and for each that the fallback serves."""
    snapshot = await backend.snapshot()
    servers = Counter[str]()
    for pool in snapshot.pools:
        # Replication connections count elsewhere.
        servers[pool.database] += 0 if pool.is_replication else pool.servers
    clients = Counter(client.database for client in snapshot.clients)
    return [
        _row(database, servers[database.name], clients[database.name], snapshot, backend.identity.is_pgbouncer)
        for database in listed(backend, snapshot)
    ]


def listed(backend: Backend, snapshot: Snapshot) -> list[DatabaseConfig]:
    """The databases of the configuration, and those that the fallback serves."""
    databases = list(backend.config.databases)
    if (fallback := backend.config.fallback_database) is not None:
        known = {database.name for database in databases} | {"forebay", "pgbouncer"}
        asked = {pool.database for pool in snapshot.pools} | {client.database for client in snapshot.clients}
        databases.extend(msgspec.structs.replace(fallback, name=name, dbname=name) for name in sorted(asked - known))
    return databases


def _row(
    database: DatabaseConfig, servers: int, clients: int, snapshot: Snapshot, is_pgbouncer: bool
) -> tuple[Value, ...]:
    places = [split_endpoint(endpoint) for endpoint in database.endpoints]
    if is_pgbouncer:
        places = [_folder_and_number(host) if port is None else (host, port) for host, port in places]
    pool = database.pool
    return (
        database.name,
        ",".join(host for host, _ in places),
        # One number as there: that of the first, where they differ.
        places[0][1],
        database.dbname,
        database.forced_user,
        pool.pool_size,
        pool.min_pool_size,
        pool.reserve_pool_size,
        pool.server_lifetime // 1_000_000,
        pool.pool_mode,
        balance(database),
        pool.max_db_connections,
        servers,
        pool.max_db_client_connections,
        clients,
        int(bool({database.name, "*"} & set(snapshot.paused))),
        int(database.name in snapshot.disabled),
    )


def balance(database: DatabaseConfig) -> str | None:
    """How its servers are spread over its endpoints; None: there is only one."""
    return database.pool.load_balance_hosts if len(database.endpoints) > 1 else None


def _folder_and_number(path: str) -> tuple[str, int]:
    """PgBouncer names a socket by its folder and its number."""
    folder, _, number = path.rpartition("/.s.PGSQL.")
    return folder, int(number)


def split_endpoint(endpoint: str) -> tuple[str, int | None]:
    """Host and port of `host:port` or `[v6]:port`; a Unix socket's path has no port."""
    if endpoint.startswith("/"):
        return endpoint, None
    host, _, port = endpoint.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


COMMAND = show("databases", rows, role=Role.VIEWER)
