"""Builds the sources of secrets that a configuration names."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

from forebay.control.hooks import HookRunner, load_hooks
from forebay.control.secrets import Secrets
from forebay.control.source import Configuration
from forebay.failure import Failure

if TYPE_CHECKING:
    from forebay.control.auth_query import AuthQuery


class Lookup:
    """The sources in force. A reload makes another and closes this one."""

    def __init__(self, secrets: Secrets, query: AuthQuery | None) -> None:
        self.secrets = secrets
        self._query = query

    async def close(self) -> None:
        """Closes connections; lookups under way fail."""
        if self._query is not None:
            await self._query.close()


def build_lookup(configuration: Configuration, runner: HookRunner, load: Sequence[str]) -> Lookup:
    """The sources of `configuration`, after those of `load` (files named on the command line).

    Runs users' files. Raises Failure when one can't be loaded, or when auth.query is set without its driver.
    """
    named = configuration.config.secret_source
    hooks = load_hooks([*load, *([named] if named else [])])
    query = _query(configuration)
    secrets = Secrets(runner=runner, hooks=hooks, query=query, ask_timeout_s=configuration.ask_timeout_s)
    return Lookup(secrets, query)


def _query(configuration: Configuration) -> AuthQuery | None:
    settings = configuration.config.auth_query
    if settings is None:
        return None
    if importlib.util.find_spec("psycopg") is None:
        raise Failure("auth.query needs the driver psycopg", hint="Run pip install 'forebay[auth-query]'.")
    from forebay.control.auth_query import AuthQuery

    return AuthQuery(settings, configuration.config.engine, timeout_s=configuration.ask_timeout_s)
