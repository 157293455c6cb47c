"""SHOW HELP: a notice, as PgBouncer gives it."""

from __future__ import annotations

from forebay._generated.show import USAGE
from forebay.admin.answer import Answer, Notice
from forebay.admin.backend import Backend
from forebay.admin.registration import Command, Role


async def handler(_backend: Backend, _arguments: tuple[str, ...]) -> Answer:
    """Lists every command with what it does."""
    width = max(len(usage) for usage, _ in USAGE)
    detail = "\n".join(f"\t{usage:<{width}}  {about}" for usage, about in USAGE)
    return Answer("SHOW", notices=[Notice("Console usage", f"\n{detail}")])


COMMAND = Command("show help", Role.VIEWER, handler)
