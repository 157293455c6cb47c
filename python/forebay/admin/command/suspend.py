"""SUSPEND: known, and refused with what does the nearest."""

from __future__ import annotations

from forebay.admin.answer import Answer
from forebay.admin.backend import Backend, Refused
from forebay.admin.registration import Command, Role


async def handler(_backend: Backend, _arguments: tuple[str, ...]) -> Answer:
    """It served online restarts, which work otherwise here."""
    raise Refused("SUSPEND is not supported by this version; PAUSE holds requests once transactions have ended")


COMMAND = Command("suspend", Role.ADMIN, handler)
