"""WAIT_CLOSE [database]: waits until what RECONNECT has marked is closed."""

from __future__ import annotations

from forebay.admin.answer import Answer
from forebay.admin.backend import Backend
from forebay.admin.registration import Command, Role, known_database


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """Answers when no such server is left."""
    await backend.wait_close(known_database(backend, arguments, "wait_close"))
    return Answer("WAIT_CLOSE")


async def undo(_backend: Backend, _arguments: tuple[str, ...]) -> None:
    """It holds nothing: what RECONNECT has marked is closed all the same."""


COMMAND = Command("wait_close", Role.ADMIN, handler, arguments_max=1, undo=undo)
