"""PAUSE [database]: holds new requests and waits until no server is in use."""

from __future__ import annotations

from forebay.admin.answer import Answer
from forebay.admin.backend import Backend, Refused
from forebay.admin.registration import Command, Role, known_database


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """Answers when it is carried out."""
    database = known_database(backend, arguments, "pause")
    if database is None and backend.identity.is_pgbouncer and "*" in (await backend.snapshot()).paused:
        raise Refused("already suspended/paused")
    await backend.pause(database)
    return Answer("PAUSE")


COMMAND = Command("pause", Role.ADMIN, handler, arguments_max=1)
