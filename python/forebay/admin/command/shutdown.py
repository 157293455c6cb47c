"""SHUTDOWN [WAIT_FOR_CLIENTS | WAIT_FOR_SERVERS]: stops forebay."""

from __future__ import annotations

from forebay._generated.errors import console_syntax
from forebay.admin.answer import Answer
from forebay.admin.backend import Backend, Shutdown
from forebay.admin.registration import Command, Role

_WAITS = {"WAIT_FOR_CLIENTS": Shutdown.CLIENTS, "WAIT_FOR_SERVERS": Shutdown.SERVERS}


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """Answers at once and stops then.

    With a WAIT word what is under way is let through first: transactions, within limits.drain_timeout; for PgBouncer's
    stand-in what the word says, without a limit.
    """
    if arguments and arguments[0].upper() not in _WAITS:
        raise console_syntax(cause=f'SHUTDOWN does not take "{arguments[0]}", but {" or ".join(_WAITS)}')
    how = _WAITS[arguments[0].upper()] if arguments else Shutdown.NOW
    backend.shutdown(Shutdown.DRAIN if arguments and not backend.identity.is_pgbouncer else how)
    return Answer("SHUTDOWN")


COMMAND = Command("shutdown", Role.ADMIN, handler, arguments_max=1)
