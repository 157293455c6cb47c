"""KILL_CLIENT id: drops one client."""

from __future__ import annotations

from forebay.admin.answer import Answer, ConsoleError
from forebay.admin.backend import Backend
from forebay.admin.registration import Command, Role


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """Takes the id (a number) or the ptr (0x…) of SHOW CLIENTS."""
    try:
        client = int(arguments[0], 0)
    except (IndexError, ValueError):
        raise ConsoleError(
            sqlstate="22023", message="invalid client pointer supplied", hint="Give the id or ptr of SHOW CLIENTS."
        ) from None
    await backend.kill_client(client)
    return Answer("KILL_CLIENT")


COMMAND = Command("kill_client", Role.ADMIN, handler, arguments_max=1)
