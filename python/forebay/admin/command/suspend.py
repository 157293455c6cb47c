"""SUSPEND: writes what was read, and reads nothing more, until RESUME."""

from __future__ import annotations

from forebay.admin.answer import Answer
from forebay.admin.backend import Backend, Refused
from forebay.admin.registration import Command, Role

HELD = "RESUME ends it; SHOW STATE tells which of both it is."


async def handler(backend: Backend, _arguments: tuple[str, ...]) -> Answer:
    """Answers when all is written; the console goes on."""
    held = await backend.snapshot()
    if held.is_suspended or (backend.identity.is_pgbouncer and "*" in held.paused):
        raise Refused("already suspended/paused", hint=HELD)
    if held.paused:
        hint = f"RESUME first: {', '.join(sorted(held.paused))}."
        raise Refused("cannot suspend with paused databases", hint=hint)
    await backend.suspend()
    return Answer("SUSPEND")


async def undo(backend: Backend, _arguments: tuple[str, ...]) -> None:
    """All goes on: nobody is left who knows that it is to be resumed."""
    await backend.resume(None)


COMMAND = Command("suspend", Role.ADMIN, handler, undo=undo)
