"""SHOW VERSION."""

from __future__ import annotations

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show
from forebay.observe.pgbouncer_log import PGBOUNCER_VERSION


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """One row: the I/O driver stands here because it decides how fast forebay is, and is chosen at the start."""
    identity = backend.identity
    if identity.is_pgbouncer:
        return [(f"PgBouncer {PGBOUNCER_VERSION} (forebay {identity.version}, {identity.driver})",)]
    plural = "worker" if identity.workers == 1 else "workers"
    return [(f"forebay {identity.version} ({identity.driver}, {identity.workers} {plural})",)]


COMMAND = show("version", rows, role=Role.VIEWER)
