"""RECONNECT [database]: replaces servers as they come free."""

from __future__ import annotations

from forebay.admin.answer import Answer
from forebay.admin.backend import Backend
from forebay.admin.registration import Command, Role, known_database


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """Answers when it is carried out."""
    await backend.reconnect(known_database(backend, arguments, "reconnect"))
    return Answer("RECONNECT")


COMMAND = Command("reconnect", Role.ADMIN, handler, arguments_max=1)
