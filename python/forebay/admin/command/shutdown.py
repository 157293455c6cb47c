"""SHUTDOWN [WAIT_FOR_CLIENTS | WAIT_FOR_SERVERS]: stops forebay."""

from __future__ import annotations

from forebay.admin.answer import Answer, ConsoleError
from forebay.admin.backend import Backend
from forebay.admin.registration import Command, Role

_WAITS = ("WAIT_FOR_CLIENTS", "WAIT_FOR_SERVERS")


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """Answers at once and stops then; with a WAIT word the transactions under way are let through first."""
    if arguments and arguments[0].upper() not in _WAITS:
        raise ConsoleError(sqlstate="42601", message=f'SHUTDOWN does not take "{arguments[0]}"', hint=" | ".join(_WAITS))
    backend.shutdown(drain=bool(arguments))
    return Answer("SHUTDOWN")


COMMAND = Command("shutdown", Role.ADMIN, handler, arguments_max=1)
