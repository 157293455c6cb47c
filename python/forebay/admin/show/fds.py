"""SHOW FDS: known, and refused."""

from __future__ import annotations

from forebay.admin.answer import Answer
from forebay.admin.backend import Backend, Refused
from forebay.admin.registration import Command, Role


async def handler(_backend: Backend, _arguments: tuple[str, ...]) -> Answer:
    """It would show secrets to whoever takes over."""
    raise Refused("SHOW FDS is not supported: sockets are not handed over to another process by this version")


COMMAND = Command("show fds", Role.ADMIN, handler)
