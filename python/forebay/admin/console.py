"""A console statement to an encoded answer: parse, find the command, check the role, run it."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Final

from forebay.admin.answer import Answer, ConsoleError, Notice, encode_empty
from forebay.admin.backend import Backend, Refused
from forebay.admin.registration import Command, Role
from forebay.admin.registry import COMMANDS
from forebay.admin.statement import Statement, Unreadable, parse
from forebay.observe.log import event

# Parameters that drivers set at the beginning of a session; PgBouncer's console takes and ignores them too.
_SET_IGNORED: Final = frozenset(
    ("application_name", "client_encoding", "datestyle", "default_transaction_isolation", "extra_float_digits")
    + ("standard_conforming_strings", "timezone")
)


class Console:
    """Answers console sessions."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def answer(self, user: str, text: str) -> bytes:
        """Encoded messages up to, not with, ReadyForQuery. Never raises: an exception becomes an ErrorResponse."""
        try:
            return await self._run(user, text)
        except ConsoleError as error:
            return error.encode()
        except Refused as refused:
            message = f"the command was refused: {refused.because}"
            return ConsoleError(sqlstate="55000", message=message).encode()
        except Exception as error:
            event(logging.ERROR, "console_failed", user=user, error=f"{type(error).__name__}: {error}")
            message = f"internal error: {type(error).__name__}"
            return ConsoleError(sqlstate="XX000", message=message, hint="Please report this with the log.").encode()

    async def _run(self, user: str, text: str) -> bytes:
        try:
            statement = parse(text)
        except Unreadable as problem:
            raise ConsoleError(sqlstate="42601", message=f"the console can't read this statement: {problem}") from None
        if statement is None:
            return encode_empty()
        if statement.command == "set":
            return _set(statement).encode()
        command, arguments = find(statement)
        if command.role is Role.ADMIN and self.role_of(user) is not Role.ADMIN:
            name = command.name.upper()
            raise ConsoleError(
                sqlstate="42501",
                message=f'user "{user}" may not run {name}',
                hint="console.admins may run every command, console.viewers SHOW. (FB902)",
            )
        event(logging.DEBUG, "console", user=user, command=command.name)
        return (await command.handler(self._backend, arguments)).encode()

    def role_of(self, user: str) -> Role:
        """The role that the configuration in force gives `user`. The engine lets in nobody without one."""
        admins: Collection[str] = self._backend.resolved["console"]["admins"]
        return Role.ADMIN if user in admins else Role.VIEWER


def find(statement: Statement) -> tuple[Command, tuple[str, ...]]:
    """The command that a statement names, and its arguments. Raises ConsoleError."""
    name, arguments = statement.command, statement.arguments
    if name == "show":
        name = f"show {arguments[0].lower()}" if arguments else "show help"
        arguments = arguments[1:]
    command = COMMANDS.get(name)
    if command is None:
        raise ConsoleError(
            sqlstate="42601",
            message=f"invalid command '{name.upper()}', use SHOW HELP;",
            hint="Run SHOW HELP for the list of commands. (FB903)",
        )
    if len(arguments) > command.arguments_max:
        surplus = arguments[command.arguments_max]
        raise ConsoleError(
            sqlstate="42601",
            message=f'{name.upper()} does not take "{surplus}"',
            hint="Run SHOW HELP for the list of commands.",
        )
    return command, arguments


def _set(statement: Statement) -> Answer:
    name = statement.arguments[0].lower() if statement.arguments else ""
    if name in _SET_IGNORED:
        return Answer("SET", notices=[Notice("SET ignored")])
    raise ConsoleError(
        sqlstate="0A000",
        message="the console does not change settings",
        hint="Change the configuration file, then run RELOAD.",
    )
