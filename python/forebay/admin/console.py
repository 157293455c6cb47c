"""A console statement to an encoded answer: parse, find the command, check the role, run it."""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from forebay._generated.errors import (
    ForebayError,
    console_cancelled,
    console_denied,
    console_refused,
    console_syntax,
    console_unavailable,
    console_unknown,
    internal,
)
from forebay._generated.show import COLUMNS
from forebay.admin.answer import Answer, Column, Notice, encode_description, encode_empty, encode_error, encode_notice
from forebay.admin.backend import Backend, Refused
from forebay.admin.command.set import IGNORED
from forebay.admin.registration import Command, Role
from forebay.admin.registry import COMMANDS
from forebay.admin.statement import Statement, Unreadable, parse
from forebay.observe.log import event

# How alike a command must be to one that is not there, for it to have been meant.
_ALIKE: Final = 0.8
# What PgBouncer says of them when they fail.
_FAILED: Final = {"reload": "RELOAD failed, see logs for additional details", "set": "SET failed"}

Step = Literal["query", "describe", "execute"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A statement of a console session, and what of its answer is wanted.

    is_own: it comes from the user that forebay runs as, who may do everything.
    step: all of the answer as text; its columns only, and nothing is run; all but the columns.
    formats: of columns, as Bind gives them.
    is_called_off: its user waits for the answer no longer.
    tell: sends encoded messages before the answer.
    """

    user: str
    text: str
    is_own: bool = False
    step: Step = "query"
    formats: Sequence[int] = ()
    is_called_off: asyncio.Event = field(default_factory=asyncio.Event, compare=False)
    tell: Callable[[bytes], None] = field(default=lambda _: None, compare=False)


class Console:
    """Answers console sessions."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def answer(self, asked: Asked) -> bytes:
        """Encoded messages up to, not with, ReadyForQuery. Never raises: an exception becomes an ErrorResponse."""
        try:
            return await self._run(asked)
        except ForebayError as error:
            return encode_error(error, in_pgbouncers_words=self._backend.identity.is_pgbouncer)
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            event(logging.ERROR, "console_failed", code="FB999", user=asked.user, error=words)
            return encode_error(internal(cause=type(error).__name__))

    async def _run(self, asked: Asked) -> bytes:
        try:
            statement = parse(asked.text)
        except Unreadable as problem:
            raise console_syntax(cause=problem) from None
        if statement is None:
            return encode_description(None, ()) if asked.step == "describe" else encode_empty()
        command, arguments = find(statement, asked.text if self._backend.identity.is_pgbouncer else None)
        if (
            command.role_for(self._backend) is Role.ADMIN
            and self.role_of(asked) is not Role.ADMIN
            and not _is_ignored(command, arguments)
        ):
            raise console_denied(user=asked.user, command=command.name.upper())
        if asked.step == "describe":
            return encode_description(columns_of(command), asked.formats)
        self._tell_log(command, arguments, asked)
        try:
            answer = await self._carried_out(command, arguments, asked)
        except Refused as refused:
            raise self._refused(command, refused) from None
        except TimeoutError:
            raise console_unavailable(cause="a worker did not reply in time") from None
        return answer.encode(asked.formats, is_described=asked.step == "execute")

    def _tell_log(self, command: Command, arguments: tuple[str, ...], asked: Asked) -> None:
        """Who has changed what. A value that SET gives may be a secret, and what SHOW is given a client's text."""
        if command.name.startswith("show ") or _is_ignored(command, arguments):
            event(logging.DEBUG, "console", user=asked.user, command=command.name)
            return
        said = arguments[:1] if command.name == "set" else arguments
        event(logging.INFO, "console", user=asked.user, command=command.name, arguments=" ".join(said) or None)

    async def _carried_out(self, command: Command, arguments: tuple[str, ...], asked: Asked) -> Answer:
        """The command's answer. Raises ForebayError where its user does not wait for it."""

        def tell(words: str, detail: str | None) -> None:
            asked.tell(encode_notice(Notice(words, detail)))

        waiting = command.begin(self._backend, arguments, tell)
        if waiting is None:
            return await command.answer(self._backend, arguments, tell)
        answering = asyncio.ensure_future(waiting.answer)
        called_off = asyncio.ensure_future(asked.is_called_off.wait())
        try:
            await asyncio.wait({answering, called_off}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                return answering.result()
        finally:
            answering.cancel()
            called_off.cancel()
        event(logging.WARNING, "console_cancelled", user=asked.user, command=command.name)
        await waiting.undo()
        raise console_cancelled(command=command.name.upper())

    def role_of(self, asked: Asked) -> Role:
        """The role that the configuration in force gives who asks. The engine lets in nobody without one."""
        is_admin = asked.is_own or asked.user in self._backend.config.console.admins
        return Role.ADMIN if is_admin else Role.VIEWER

    def _refused(self, command: Command, refused: Refused) -> ForebayError:
        error = console_refused(command=command.name.upper(), cause=refused.because)
        if refused.hint:
            error.hint = f"{refused.hint} ({error.code})"
        # PgBouncer tells of these no more than that they failed; the detail says why.
        if (words := _FAILED.get(command.name)) and self._backend.identity.is_pgbouncer:
            error.pgbouncer, error.detail = words, refused.because
        return error


def columns_of(command: Command) -> Sequence[Column] | None:
    """The columns that a command answers with, or None where it answers without rows."""
    return COLUMNS.get(command.name.removeprefix("show ")) or None


def find(statement: Statement, spelled: str | None = None) -> tuple[Command, tuple[str, ...]]:
    """The command that a statement names, and its arguments. Raises ForebayError.

    spelled: what to call a statement that names none.
    """
    name, arguments = statement.command, statement.arguments
    if name == "show":
        name = f"show {arguments[0].lower()}" if arguments else "show help"
        arguments = arguments[1:]
    command = COMMANDS.get(name)
    if command is None:
        said = (statement.spelled or statement.command, *name.split()[1:])
        error = console_unknown(command=spelled or " ".join(said).upper())
        if meant := _meant(name, arguments):
            error.hint = f"Did you mean {meant.upper()}? {error.hint}"
        raise error
    if len(arguments) > command.arguments_max:
        raise console_syntax(cause=f'{name.upper()} does not take "{arguments[command.arguments_max]}"')
    return command, arguments


def _meant(name: str, arguments: tuple[str, ...]) -> str | None:
    """The command that is spelled nearly so, if any: a letter or two are wrong, or SHOW is missing."""
    written = (name, " ".join((name, *arguments[:1])), f"show {name}")
    for text in dict.fromkeys(text.lower() for text in written):
        if near := difflib.get_close_matches(text, COMMANDS, n=1, cutoff=_ALIKE):
            return near[0]
    return None


def _is_ignored(command: Command, arguments: tuple[str, ...]) -> bool:
    """Whether it is a SET that does nothing, which drivers send for everybody."""
    return command.name == "set" and bool(arguments) and arguments[0].lower() in IGNORED
