"""What a command registers: its words, who may run it, and its handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

from forebay._generated.errors import console_no_database
from forebay._generated.show import COLUMNS
from forebay.admin.answer import Answer, Table, Value
from forebay.admin.backend import Backend, Refused, Tell


class Role(Enum):
    """Who a console user is: viewers may SHOW, admins may do everything."""

    VIEWER = 1
    ADMIN = 2


Handler = Callable[[Backend, tuple[str, ...]], Coroutine[Any, Any, Answer]]
Telling = Callable[[Backend, tuple[str, ...], Tell], Coroutine[Any, Any, Answer]]
Undo = Callable[[Backend, tuple[str, ...]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A command that waits. undo: what is done where its user does not wait for its end."""

    answer: Coroutine[Any, Any, Answer]
    undo: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the console.

    name: in lower case; `show pools` for a table.
    role: the least role that may run it; stand_in_role: the same where PgBouncer is stood in for, if it is another.
    arguments_max: words that may follow; more is an error.
    waiting: the same where what is to be undone is that one command's alone.
    telling: the handler that also says how far it is, for whoever can hear it.
    undo: it waits; where its user cancels that, it is ended where it stands, and this is done.
    """

    name: str
    role: Role
    handler: Handler
    arguments_max: int = 0
    stand_in_role: Role | None = None
    undo: Undo | None = None
    waiting: Callable[[Backend, tuple[str, ...]], Waiting] | None = None
    telling: Telling | None = None

    async def answer(self, backend: Backend, arguments: tuple[str, ...], tell: Tell) -> Answer:
        """Carries it out."""
        if self.telling is not None:
            return await self.telling(backend, arguments, tell)
        return await self.handler(backend, arguments)

    def begin(self, backend: Backend, arguments: tuple[str, ...], tell: Tell) -> Waiting | None:
        """What is to be carried out, of a command that can be cancelled; None for others."""
        if self.waiting is not None:
            return self.waiting(backend, arguments)
        if self.undo is None:
            return None
        return Waiting(self.answer(backend, arguments, tell), partial(self.undo, backend, arguments))

    def role_for(self, backend: Backend) -> Role:
        """The least role that may run it with this service."""
        return (self.stand_in_role if backend.identity.is_pgbouncer else None) or self.role


def show(
    name: str,
    rows: Callable[[Backend], Awaitable[list[tuple[Value, ...]]]],
    *,
    role: Role,
    stand_in_role: Role | None = None,
) -> Command:
    """A SHOW command: its columns are those of spec/show.toml."""

    async def handler(backend: Backend, _: tuple[str, ...]) -> Answer:
        return Answer("SHOW", Table(COLUMNS[name], await rows(backend)))

    return Command(f"show {name}", role, handler, stand_in_role=stand_in_role)


def known_database(backend: Backend, arguments: tuple[str, ...], verb: str) -> str | None:
    """The database that the command names, or None for all. verb: what the command does with it.

    Raises ForebayError for one that is neither configured nor served by the fallback, and Refused for the console's.
    """
    if not arguments:
        return None
    name = arguments[0]
    if name in ("forebay", "pgbouncer"):
        hint = "It is the console. Name one of SHOW DATABASES, or none for all where the command takes that."
        raise Refused(f"cannot {verb} admin db: {name}", hint=hint)
    if name not in database_names(backend) and backend.config.fallback_database is None:
        raise console_no_database(database=name)
    return name


def required_database(backend: Backend, arguments: tuple[str, ...], verb: str) -> str:
    """The same for a command that is about one database. Raises Refused where none is named."""
    name = known_database(backend, arguments, verb)
    if name is None:
        raise Refused("a database is required", hint="Name one of SHOW DATABASES.")
    return name


def database_names(backend: Backend) -> set[str]:
    """Databases that the configuration lists."""
    return {database.name for database in backend.config.databases}
