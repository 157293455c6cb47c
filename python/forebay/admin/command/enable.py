"""ENABLE database: undoes DISABLE."""

from __future__ import annotations

from forebay.admin.answer import Answer
from forebay.admin.backend import Backend
from forebay.admin.registration import Command, Role, required_database


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """Answers when it is carried out."""
    await backend.enable(required_database(backend, arguments, "enable"))
    return Answer("ENABLE")


COMMAND = Command("enable", Role.ADMIN, handler, arguments_max=1)
