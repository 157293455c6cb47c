"""Builds what a configuration names to look secrets up, and to judge passwords."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

from forebay.control.claim import CALLED, Claim
from forebay.control.hooks import HookRunner, load_hooks
from forebay.control.secrets import LookupFailed, Secrets
from forebay.control.source import Configuration
from forebay.failure import Failure

if TYPE_CHECKING:
    from forebay.control.auth_query import AuthQuery, Endpoints
    from forebay.control.verdicts import Verdicts


class Lookup:
    """The sources in force. A reload makes another and closes this one."""

    def __init__(self, secrets: Secrets, query: AuthQuery | None, verdicts: Verdicts | None) -> None:
        self.secrets = secrets
        self._verdicts = verdicts
        self._query = query

    async def is_right(self, claim: Claim) -> bool:
        """Whether a password is right. Raises LookupFailed where nobody says so in time."""
        if self._verdicts is None:
            # A client may hold the number of one that a reload has removed since.
            raise LookupFailed(f"the {CALLED[claim.method]} is not configured any more")
        return await self._verdicts.is_right(claim)

    async def close(self) -> None:
        """Closes connections; lookups under way fail."""
        if self._query is not None:
            await self._query.close()


def build_lookup(configuration: Configuration, runner: HookRunner, load: Sequence[str], endpoints: Endpoints) -> Lookup:
    """The sources of `configuration`, after those of `load` (files named on the command line).

    endpoints: where auth.query asks.

    Runs users' files. Raises Failure when one can't be loaded, or when auth.query is set without its driver.
    """
    named = configuration.config.secret_source
    hooks = load_hooks([*load, *([named] if named else [])])
    query = _query(configuration, endpoints)
    secrets = Secrets(runner=runner, hooks=hooks, query=query, ask_timeout_s=configuration.ask_timeout_s)
    return Lookup(secrets, query, _verdicts(configuration))


def _verdicts(configuration: Configuration) -> Verdicts | None:
    config = configuration.config
    if not config.access.judges:
        return None
    from forebay.control.verdicts import Verdicts

    return Verdicts(config.access, authorities=config.ldap_ca, timeout_s=configuration.ask_timeout_s)


def _query(configuration: Configuration, endpoints: Endpoints) -> AuthQuery | None:
    config = configuration.config
    if config.auth_query is None and not config.auth_queries:
        return None
    if importlib.util.find_spec("psycopg") is None:
        raise Failure("auth.query needs the driver psycopg", hint="Run pip install 'forebay[auth-query]'.")
    from forebay.control.auth_query import AuthQuery

    return AuthQuery(
        config.auth_query, config.auth_queries, config.engine, timeout_s=configuration.ask_timeout_s,
        endpoints=endpoints,
    )  # fmt: skip
