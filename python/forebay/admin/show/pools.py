"""SHOW POOLS."""

from __future__ import annotations

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each pool.

    Cancel requests are not tied to pools here, so their columns are 0; sv_used counts idle servers that are due for a
    check, as in PgBouncer.
    """
    snapshot = await backend.snapshot()
    counted = {(pool.database, pool.user): pool for pool in backend.pools()}
    errors = {name: (sum(p.refusals.values()), sum(p.server_errors.values())) for name, p in counted.items()}
    return [
        (
            pool.database,
            pool.user,
            pool.cl_active,
            pool.cl_waiting,
            0,
            0,
            pool.sv_active,
            0,
            pool.sv_being_canceled,
            pool.sv_idle,
            pool.sv_used,
            pool.sv_tested,
            pool.sv_login,
            pool.maxwait_us // 1_000_000,
            pool.maxwait_us % 1_000_000,
            pool.pool_mode,
            None,
            pool.sick,
            *errors.get((pool.database, pool.user), (0, 0)),
        )
        for pool in snapshot.pools
    ]


COMMAND = show("pools", rows, role=Role.VIEWER)
