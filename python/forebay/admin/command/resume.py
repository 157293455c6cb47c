"""RESUME [database]: undoes PAUSE and KILL; without a database SUSPEND as well."""

from __future__ import annotations

from forebay.admin.answer import Answer
from forebay.admin.backend import Backend, Refused
from forebay.admin.registration import Command, Role, known_database

_PAUSED = "The column paused of SHOW DATABASES tells which are."


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """Answers when it is carried out."""
    database = known_database(backend, arguments, "resume")
    if backend.identity.is_pgbouncer:
        await _refuse(backend, database)
    await backend.resume(database)
    return Answer("RESUME")


async def _refuse(backend: Backend, database: str | None) -> None:
    """Raises Refused where PgBouncer has nothing to resume."""
    if backend.is_stopping:
        raise Refused("pooler is shutting down")
    held = await backend.snapshot()
    paused = held.paused
    if database is None and not paused and not held.is_suspended:
        raise Refused("pooler is not paused/suspended", hint="There is nothing to resume: all requests are served.")
    if database is not None and database not in paused:
        hint = "All of them are paused together: RESUME without a database." if "*" in paused else _PAUSED
        raise Refused(f"database {database} is not paused", hint=hint)


COMMAND = Command("resume", Role.ADMIN, handler, arguments_max=1)
