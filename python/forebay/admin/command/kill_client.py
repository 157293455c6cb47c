"""KILL_CLIENT id: drops one client."""

from __future__ import annotations

from forebay._generated.errors import console_no_client
from forebay.admin.answer import Answer
from forebay.admin.backend import Backend, Refused
from forebay.admin.registration import Command, Role


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """Takes the id (a number) or the ptr (0x…) of SHOW CLIENTS."""
    try:
        client = int(arguments[0], 0)
    except (IndexError, ValueError):
        raise console_no_client() from None
    try:
        await backend.kill_client(client)
    except Refused:
        hint = "It may have left. SHOW CLIENTS has the id and the ptr of those that are there."
        raise Refused("client not found", hint=hint) from None
    return Answer("KILL_CLIENT")


COMMAND = Command("kill_client", Role.ADMIN, handler, arguments_max=1)
