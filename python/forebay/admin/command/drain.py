"""DRAIN [OFF]: load balancers see that they are to send nobody here; clients are served all the same."""

from __future__ import annotations

from forebay._generated.errors import console_syntax
from forebay.admin.answer import Answer
from forebay.admin.backend import Backend
from forebay.admin.registration import Command, Role


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """Answers at once: who is there leaves when it likes, or with SHUTDOWN WAIT_FOR_CLIENTS."""
    if arguments and arguments[0].upper() != "OFF":
        raise console_syntax(cause=f'DRAIN does not take "{arguments[0]}", but OFF')
    backend.drain(not arguments)
    return Answer("DRAIN")


COMMAND = Command("drain", Role.ADMIN, handler, arguments_max=1)
