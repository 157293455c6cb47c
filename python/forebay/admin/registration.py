"""What a command registers: its words, who may run it, and its handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from forebay._generated.errors import console_no_database
from forebay._generated.show import COLUMNS
from forebay.admin.answer import Answer, Table, Value
from forebay.admin.backend import Backend


class Role(Enum):
    """Who a console user is: viewers may SHOW, admins may do everything."""

    VIEWER = 1
    ADMIN = 2


Handler = Callable[[Backend, tuple[str, ...]], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the console.

    name: in lower case; `show pools` for a table.
    role: the least role that may run it.
    arguments_max: words that may follow; more is an error.
    """

    name: str
    role: Role
    handler: Handler
    arguments_max: int = 0


def show(name: str, rows: Callable[[Backend], Awaitable[list[tuple[Value, ...]]]], *, role: Role) -> Command:
    """A SHOW command: its columns are those of spec/show.toml."""

    async def handler(backend: Backend, _: tuple[str, ...]) -> Answer:
        return Answer("SHOW", Table(COLUMNS[name], await rows(backend)))

    return Command(f"show {name}", role, handler)


def known_database(backend: Backend, arguments: tuple[str, ...]) -> str | None:
    """The database that the command names, or None for all.

    Raises ForebayError for one that is neither configured nor served by the fallback, and for the console's own.
    """
    if not arguments:
        return None
    name = arguments[0]
    is_served = name in database_names(backend) or backend.config.fallback_database is not None
    if name in ("forebay", "pgbouncer") or not is_served:
        raise console_no_database(database=name)
    return name


def database_names(backend: Backend) -> set[str]:
    """Databases that the configuration lists."""
    return {database.name for database in backend.config.databases}
