"""auth_query: asks a database for a user's secret, by a query that returns a row (name, secret).

One connection for each database asked, opened when it is first needed and kept; questions to one database follow each
other. The connections go to the endpoints directly, not through a pool, so that a full pool never stops logins: to the
first of them that answers, the primary before its replicas where roles are known. A question that a kept connection to
another one could answer is not asked there: it may be a primary that was deposed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg.rows import tuple_row

from forebay.config.draft import CONSOLE_NAMES
from forebay.config.resolve import FALLBACK
from forebay.config.resolve import AuthQuery as Settings
from forebay.config.resolved import EngineConfig
from forebay.control.endpoint import own_connection
from forebay.control.secrets import LookupFailed

CONNECTIONS_MAX: Final = 64
# libpq gives each address no less.
CONNECT_MIN_S: Final = 2

# Endpoints of a database, in the order to try them in. Takes its name, and those of the configuration.
Endpoints = Callable[[str, Sequence[str]], Sequence[str]]


class AuthQuery:
    """Asks with the settings and the resolved configuration of one reload; the next makes another."""

    def __init__(
        self,
        settings: Settings | None,
        own: Mapping[str, Settings],
        engine: EngineConfig,
        *,
        timeout_s: float,
        endpoints: Endpoints = lambda _, listed: listed,
    ) -> None:
        """own: of databases that have some of their own, by name; settings: of all others."""
        self._settings = settings
        self._own = own
        self._engine = engine
        self._databases = {each.name: each for each in engine.databases}
        self._timeout_s = timeout_s
        self._endpoints = endpoints
        self._lines: dict[tuple[str, str], _Line] = {}

    async def secret(self, database: str, user: str) -> str | None:
        """The secret that the query returns for the user; None for no row or a null secret.

        Raises LookupFailed when the database can't be reached, takes too long or answers something else.
        """
        settings = self._settings_of(database)
        name = settings.dbname or database if settings else database
        if settings is None or not self._is_known(name):
            return None
        key = (name, settings.user)
        if key not in self._lines:
            if len(self._lines) >= CONNECTIONS_MAX:
                raise LookupFailed(f"{CONNECTIONS_MAX} databases are connected already; set auth.dbname")
            self._lines[key] = _Line()
        line, parameters = self._lines[key], self._parameters(name, settings)
        try:
            async with asyncio.timeout(self._timeout_s):
                row = await line.ask(parameters, settings.query, user)
        except TimeoutError:
            raise LookupFailed(f"no answer within {self._timeout_s:g} s") from None
        except psycopg.Error as error:
            sqlstate = f" ({error.sqlstate})" if error.sqlstate else ""
            raise LookupFailed(f"{type(error).__name__}{sqlstate}") from error
        if row is None:
            return None
        if len(row) < 2 or not isinstance(row[1], str | None):
            raise LookupFailed("the query must return two columns: name and secret, both texts")
        secret: str | None = row[1]
        return secret or None

    async def close(self) -> None:
        """Closes the connections."""
        lines, self._lines = self._lines, {}
        for line in lines.values():
            await line.close()

    def _settings_of(self, database: str) -> Settings | None:
        """Its own; those of the fallback database where that serves it; or those of all."""
        own = database if database in self._databases or database in CONSOLE_NAMES else FALLBACK
        return self._own.get(own, self._settings)

    def _is_known(self, name: str) -> bool:
        """Whether there is such a database. The console is none: its users are asked where `dbname` says."""
        return name in self._databases or (self._engine.fallback_database is not None and name not in CONSOLE_NAMES)

    def _parameters(self, name: str, settings: Settings) -> dict[str, Any]:
        database = self._databases.get(name)
        dbname = name if database is None else database.dbname
        database = database or self._engine.fallback_database
        if database is None:
            raise LookupFailed(f"there is no database {name}")
        tls = self._engine.server_tls[database.tls]
        endpoints = self._endpoints(database.name, database.endpoints)
        if not endpoints:
            raise LookupFailed(f"no endpoint of {database.name} may be asked: SHOW ENDPOINTS tells why")
        return {
            **own_connection(endpoints, dbname, settings.user, settings.secret, tls),
            "application_name": "forebay auth_query",
            "connect_timeout": max(CONNECT_MIN_S, int(self._timeout_s / len(endpoints))),
        }


class _Line:
    """One connection, used by one question at a time."""

    def __init__(self) -> None:
        self._parameters: dict[str, Any] = {}
        self._lock = asyncio.Lock()
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None

    async def ask(self, parameters: dict[str, Any], query: str, user: str) -> tuple[Any, ...] | None:
        async with self._lock:
            if parameters != self._parameters:
                await self.close()
                self._parameters = parameters
            was_kept = self._connection is not None
            try:
                return await self._run(query, user)
            except psycopg.OperationalError:
                # A kept connection may have died since it was last used; that says nothing about the database.
                if not was_kept:
                    raise
                return await self._run(query, user)

    async def _run(self, query: str, user: str) -> tuple[Any, ...] | None:
        try:
            if self._connection is None:
                self._connection = await psycopg.AsyncConnection.connect(
                    **self._parameters, autocommit=True, row_factory=tuple_row
                )
            cursor = psycopg.AsyncRawCursor(self._connection)
            await cursor.execute(query.encode(), (user,))
            return await cursor.fetchone()
        except BaseException:
            # Also when the deadline cancels us: what is left of the answer must not meet the next question.
            await self.close()
            raise

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                await connection.close()
