"""SHUTDOWN [WAIT_FOR_CLIENTS | WAIT_FOR_SERVERS]: stops forebay."""

from __future__ import annotations

from forebay._generated.errors import console_syntax
from forebay.admin.answer import Answer
from forebay.admin.backend import Backend
from forebay.admin.registration import Command, Role

_WAITS = ("WAIT_FOR_CLIENTS", "WAIT_FOR_SERVERS")


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """Answers at once and stops then; with a WAIT word the transactions under way are let through first."""
    if arguments and arguments[0].upper() not in _WAITS:
        raise console_syntax(cause=f'SHUTDOWN does not take "{arguments[0]}", but {" or ".join(_WAITS)}')
    backend.shutdown(drain=bool(arguments))
    return Answer("SHUTDOWN")


COMMAND = Command("shutdown", Role.ADMIN, handler, arguments_max=1)
