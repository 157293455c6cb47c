"""FORGET_NODE node: what a node keeps that is gone for good is free."""

from __future__ import annotations

from forebay._generated.errors import console_syntax
from forebay.admin.answer import Answer
from forebay.admin.backend import Backend
from forebay.admin.registration import Command, Role


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """Takes a name of SHOW FLEET."""
    if not arguments:
        raise console_syntax(cause="FORGET_NODE takes the name of a node")
    await backend.forget_node(arguments[0])
    return Answer("FORGET_NODE")


COMMAND = Command("forget_node", Role.ADMIN, handler, arguments_max=1)
