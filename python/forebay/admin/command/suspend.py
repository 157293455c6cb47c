"""SUSPEND: writes what was read, and reads nothing more, until RESUME."""

from __future__ import annotations

from forebay.admin.answer import Answer
from forebay.admin.backend import Backend, Refused
from forebay.admin.registration import Command, Role


async def handler(backend: Backend, _arguments: tuple[str, ...]) -> Answer:
    """Answers when all is written; the console goes on."""
    held = await backend.snapshot()
    if held.is_suspended or (backend.identity.is_pgbouncer and "*" in held.paused):
        raise Refused("already suspended/paused")
    await backend.suspend()
    return Answer("SUSPEND")


COMMAND = Command("suspend", Role.ADMIN, handler)
