"""Answers the engine's question for a user's secret: users' functions first, then auth_query, then "no such user"."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from forebay.api.secret_source import SecretRequest
from forebay.control.console_link import first_line
from forebay.control.hooks import Hook, HookFailed, HookRunner
from forebay.observe.log import event


class SecretQuery(Protocol):
    """A database that can be asked."""

    async def secret(self, database: str, user: str) -> str | None:
        """The secret; None: no such user. Raises LookupFailed."""


class LookupFailed(Exception):
    """No source could answer; the text is for the log and holds no secret."""


class Secrets:
    """The sources, in the order in which they are asked."""

    def __init__(
        self, *, runner: HookRunner, hooks: Sequence[Hook], query: SecretQuery | None, ask_timeout_s: float
    ) -> None:
        self._runner = runner
        self._hooks = hooks
        self._query = query
        self._ask_timeout_s = ask_timeout_s

    async def find(self, database: str, user: str) -> str | None:
        """The user's secret; None: every source that answered does not know the user.

        Raises LookupFailed when nobody knew the user and at least one source failed: then "no such user" might be
        wrong, and must not be remembered.
        """
        failures = []
        for hook in self._hooks:
            try:
                found = await self._ask(hook, SecretRequest(database=database, user=user))
            except HookFailed as failed:
                failures.append(f"{hook.name}: {failed}")
                event(logging.WARNING, "secret_source_failed", source=hook.name, database=database, user=user,
                      because=str(failed), kind=_kind(failed))  # fmt: skip
                continue
            if found is not None:
                event(logging.DEBUG, "secret_found", source=hook.name, database=database, user=user)
                return found
        if self._query is not None:
            try:
                return await self._query.secret(database, user)
            except LookupFailed as failed:
                failures.append(f"auth_query: {failed}")
                # The client hears less of it: the server's words are for who runs it.
                words = first_line(failed.__cause__) if isinstance(failed.__cause__, Exception) else None
                event(logging.WARNING, "auth_query_failed", database=database, user=user, because=str(failed),
                      error=words)  # fmt: skip
        if failures:
            raise LookupFailed("; ".join(failures))
        return None

    async def _ask(self, hook: Hook, request: SecretRequest) -> str | None:
        found = await self._runner.call(hook, request, deadline_s=self._ask_timeout_s)
        if found is not None and not isinstance(found, str):
            raise HookFailed(f"it returned {type(found).__name__}, not a text or None")
        if found == "":
            raise HookFailed("it returned an empty text; a user it does not know is None")
        return found


def _kind(failed: HookFailed) -> str | None:
    """The text of the exception is the user's own and might hold a secret; its class does not."""
    return type(failed.__cause__).__name__ if failed.__cause__ is not None else None
