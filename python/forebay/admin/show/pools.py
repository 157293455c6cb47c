"""SHOW POOLS."""

from __future__ import annotations

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show
from forebay.admin.show.databases import balance, listed


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each pool. sv_used counts idle servers that are due for a check, as in PgBouncer."""
    snapshot = await backend.snapshot()
    counted = {(pool.database, pool.user): pool for pool in backend.pools()}
    errors = {name: (sum(p.refusals.values()), sum(p.server_errors.values())) for name, p in counted.items()}
    balances = {database.name: balance(database) for database in listed(backend, snapshot)}
    return [
        (
            pool.database,
            pool.user,
            pool.cl_active,
            pool.cl_waiting,
            pool.cl_active_cancel_req,
            pool.cl_waiting_cancel_req,
            pool.sv_active,
            pool.sv_active_cancel,
            pool.sv_being_canceled,
            pool.sv_idle,
            pool.sv_used,
            pool.sv_tested,
            pool.sv_login,
            pool.maxwait_us // 1_000_000,
            pool.maxwait_us % 1_000_000,
            pool.pool_mode,
            balances.get(pool.database),
            pool.sick,
            *errors.get((pool.database, pool.user), (0, 0)),
        )
        for pool in snapshot.pools
    ]


COMMAND = show("pools", rows, role=Role.VIEWER)
