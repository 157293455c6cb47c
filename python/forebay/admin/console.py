"""A console statement to an encoded answer: parse, find the command, check the role, run it."""

from __future__ import annotations

import logging
from typing import Final

from forebay._generated.errors import (
    ForebayError,
    console_denied,
    console_refused,
    console_syntax,
    console_unavailable,
    console_unknown,
    internal,
)
from forebay.admin.answer import Answer, Notice, encode_empty, encode_error
from forebay.admin.backend import Backend, Refused
from forebay.admin.registration import Command, Role
from forebay.admin.registry import COMMANDS
from forebay.admin.statement import Statement, Unreadable, parse
from forebay.observe.log import event

# Parameters that drivers set at the beginning of a session; PgBouncer's console takes and ignores them too.
_SET_IGNORED: Final = frozenset(
    (
        "application_name",
        "client_encoding",
        "datestyle",
        "default_transaction_isolation",
        "extra_float_digits",
        "standard_conforming_strings",
        "timezone",
    )
)


class Console:
    """Answers console sessions."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def answer(self, user: str, text: str) -> bytes:
        """Encoded messages up to, not with, ReadyForQuery. Never raises: an exception becomes an ErrorResponse."""
        try:
            return await self._run(user, text)
        except ForebayError as error:
            return encode_error(error)
        except Exception as error:
            event(logging.ERROR, "console_failed", code="FB999", user=user, error=f"{type(error).__name__}: {error}")
            return encode_error(internal(cause=type(error).__name__))

    async def _run(self, user: str, text: str) -> bytes:
        try:
            statement = parse(text)
        except Unreadable as problem:
            raise console_syntax(cause=problem) from None
        if statement is None:
            return encode_empty()
        if statement.command == "set":
            return _set(statement).encode()
        command, arguments = find(statement)
        if command.role is Role.ADMIN and self.role_of(user) is not Role.ADMIN:
            raise console_denied(user=user, command=command.name.upper())
        event(logging.DEBUG, "console", user=user, command=command.name)
        try:
            return (await command.handler(self._backend, arguments)).encode()
        except Refused as refused:
            raise console_refused(command=command.name.upper(), cause=refused.because) from None
        except TimeoutError:
            raise console_unavailable(cause="a worker did not reply in time") from None

    def role_of(self, user: str) -> Role:
        """The role that the configuration in force gives `user`. The engine lets in nobody without one."""
        return Role.ADMIN if user in self._backend.config.console.admins else Role.VIEWER


def find(statement: Statement) -> tuple[Command, tuple[str, ...]]:
    """The command that a statement names, and its arguments. Raises ForebayError."""
    name, arguments = statement.command, statement.arguments
    if name == "show":
        name = f"show {arguments[0].lower()}" if arguments else "show help"
        arguments = arguments[1:]
    command = COMMANDS.get(name)
    if command is None:
        said = (statement.spelled or statement.command, *name.split()[1:])
        raise console_unknown(command=" ".join(said).upper())
    if len(arguments) > command.arguments_max:
        raise console_syntax(cause=f'{name.upper()} does not take "{arguments[command.arguments_max]}"')
    return command, arguments


def _set(statement: Statement) -> Answer:
    name = statement.arguments[0].lower() if statement.arguments else ""
    if name in _SET_IGNORED:
        return Answer("SET", notices=[Notice("SET ignored")])
    raise console_refused(command="SET", cause="change the configuration file, then run RELOAD")
