"""KILL [database]: drops clients and servers at once, and pauses."""

from __future__ import annotations

from forebay.admin.answer import Answer
from forebay.admin.backend import Backend
from forebay.admin.registration import Command, Role, known_database


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """Answers when it is carried out."""
    await backend.kill(known_database(backend, arguments, "kill"))
    return Answer("KILL")


COMMAND = Command("kill", Role.ADMIN, handler, arguments_max=1)
