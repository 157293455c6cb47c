"""SHOW HELP: a notice, as PgBouncer gives it."""

from __future__ import annotations

import textwrap
from typing import Final

from forebay._generated.show import USAGE
from forebay.admin.answer import Answer, Notice
from forebay.admin.backend import Backend
from forebay.admin.registration import Command, Role

# Beyond the tab; most terminals have 100 columns or more.
WIDTH: Final = 92
COLUMN: Final = 30


async def handler(_backend: Backend, _arguments: tuple[str, ...]) -> Answer:
    """Lists every command with what it does."""
    detail = "\n".join(line for usage, about in USAGE for line in _lines(usage, about))
    return Answer("SHOW", notices=[Notice("Console usage", f"\n{detail}")])


def _lines(usage: str, about: str) -> list[str]:
    """A long usage has a line, or two, of its own, so that all fits into a terminal."""
    told = textwrap.wrap(about, WIDTH - COLUMN)
    if len(usage) <= COLUMN - 2:
        first, told = [f"\t{usage:<{COLUMN}}{told[0]}"], told[1:]
    else:
        first = [f"\t{line}" for line in textwrap.wrap(usage, WIDTH, subsequent_indent="    ")]
    return [*first, *(f"\t{'':<{COLUMN}}{line}" for line in told)]


COMMAND = Command("show help", Role.VIEWER, handler)
