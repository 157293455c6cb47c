"""DISABLE database: lets no new client in to a database."""

from __future__ import annotations

from forebay.admin.answer import Answer
from forebay.admin.backend import Backend
from forebay.admin.registration import Command, Role, required_database


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """Answers when it is carried out."""
    await backend.disable(required_database(backend, arguments, "disable"))
    return Answer("DISABLE")


COMMAND = Command("disable", Role.ADMIN, handler, arguments_max=1)
