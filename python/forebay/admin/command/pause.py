"""PAUSE [database] [TIMEOUT seconds]: holds new requests and waits until no server is in use."""

from __future__ import annotations

import re

from forebay._generated.errors import console_syntax
from forebay.admin.answer import Answer
from forebay.admin.backend import Backend, Refused
from forebay.admin.command.suspend import HELD
from forebay.admin.registration import Command, Role, Waiting, known_database


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """Answers when it is carried out."""
    return await _held(backend, arguments, object())


def waiting(backend: Backend, arguments: tuple[str, ...]) -> Waiting:
    """The same; undone, what it holds goes on, unless another command holds it too."""
    by = object()

    async def undo() -> None:
        await backend.unpause(known_database(backend, _limit(arguments)[0], "resume"), by)

    return Waiting(_held(backend, arguments, by), undo)


async def _held(backend: Backend, arguments: tuple[str, ...], by: object) -> Answer:
    arguments, limit_s = _limit(arguments)
    database = known_database(backend, arguments, "pause")
    held = await backend.snapshot()
    if held.is_suspended or (database is None and backend.identity.is_pgbouncer and "*" in held.paused):
        raise Refused("already suspended/paused", hint=HELD)
    await backend.pause(database, limit_s, by)
    return Answer("PAUSE")


def _limit(arguments: tuple[str, ...]) -> tuple[tuple[str, ...], float | None]:
    """What stands before TIMEOUT, and the seconds behind it. Raises ForebayError."""
    at = next((at for at, word in enumerate(arguments) if word.upper() == "TIMEOUT"), None)
    # A database may have that name.
    if at is None or (at == 0 and len(arguments) == 1):
        if len(arguments) > 1:
            raise console_syntax(cause=f'PAUSE does not take "{arguments[1]}"')
        return arguments, None
    written = arguments[at + 1 :]
    if len(written) != 1 or at > 1 or not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", written[0], re.ASCII):
        raise console_syntax(cause="TIMEOUT takes a number of seconds")
    return arguments[:at], float(written[0])


COMMAND = Command("pause", Role.ADMIN, handler, arguments_max=3, waiting=waiting)
