"""RESUME [database]: undoes PAUSE and KILL."""

from __future__ import annotations

from forebay.admin.answer import Answer
from forebay.admin.backend import Backend
from forebay.admin.registration import Command, Role, known_database


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """Answers when it is carried out."""
    await backend.resume(known_database(backend, arguments))
    return Answer("RESUME")


COMMAND = Command("resume", Role.ADMIN, handler, arguments_max=1)
