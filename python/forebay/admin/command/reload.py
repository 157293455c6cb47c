"""RELOAD: reads the configuration again."""

from __future__ import annotations

from forebay.admin.answer import Answer, Notice
from forebay.admin.backend import Backend
from forebay.admin.registration import Command, Role


async def handler(backend: Backend, _arguments: tuple[str, ...]) -> Answer:
    """Answers when the new configuration is in force, with what changed as a notice."""
    changes = await backend.reload()
    return Answer("RELOAD", notices=[Notice("configuration reloaded", "\n".join(changes) or "nothing changed")])


COMMAND = Command("reload", Role.ADMIN, handler)
