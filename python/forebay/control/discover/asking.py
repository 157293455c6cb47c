"""Asks servers of a cluster in SQL what they know of it: one after the other, until one answers.

The connections are forebay's own, as the user that polls: what they call is pg_catalog's, and they write nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import psycopg

from forebay.config.source_address import MEMBERS_MAX
from forebay.config.topology import Topology
from forebay.control.console_link import first_line
from forebay.control.discover.http import NoAnswer
from forebay.control.discover.registration import Query
from forebay.control.discover.turns import Turns
from forebay.control.endpoint import own_connection
from forebay.control.kept import Kept, Unanswered

T = TypeVar("T")

KIND: Final = "the cluster"
CONNECT_S: Final = 2
LOGIN_HINT: Final = "Check poll_user and its secret, and that each member lets it in from here."
# Lets nobody ask what is in the extension rds_tools.
_NO_RIGHT: Final = "42501"
_RIGHTS_HINT: Final = (
    "GRANT USAGE ON SCHEMA rds_tools TO poll_user, and GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA rds_tools TO poll_user."
)


class Asking:
    """Of one database. best: its endpoints as they are known, the one first that knows best."""

    def __init__(self, topology: Topology, best: Callable[[], Sequence[str]]) -> None:
        self._topology = topology
        self._best = best
        self._lines: dict[str, Kept] = {}

    async def ask(self, question: Callable[[Query], Awaitable[T]], beside: str) -> tuple[str, T]:
        """Who answered, and what. beside: an address of the cluster, after those that are known to serve.

        Raises SourceFailed where nobody answers within the time that each has.
        """
        endpoints = list(dict.fromkeys((*self._best(), beside, *self._topology.endpoints)))[:MEMBERS_MAX]
        for gone in self._lines.keys() - set(endpoints):
            self._lines.pop(gone).hang_up()
        turns = Turns(endpoints, kind=KIND, timeout_s=self._topology.timeout_s, login_hint=LOGIN_HINT)
        return await turns.ask(lambda endpoint: self._ask(endpoint, question))

    def close(self) -> None:
        """Ends the connections. No question is under way."""
        for line in self._lines.values():
            line.hang_up()
        self._lines.clear()

    async def _ask(self, endpoint: str, question: Callable[[Query], Awaitable[T]]) -> T:
        line = self._lines.setdefault(endpoint, Kept())
        try:
            return await line.answer(self._run(line, endpoint, question), self._topology.timeout_s)
        except Unanswered:
            raise NoAnswer(f"no answer within {self._topology.timeout_s:g} s") from None
        except psycopg.Error as error:
            line.hang_up()
            words, hint = first_line(error), _RIGHTS_HINT if error.sqlstate == _NO_RIGHT else None
            # Of a login, libpq tells no SQLSTATE.
            status = 403 if error.sqlstate is None and "FATAL" in str(error) and "system is" not in words else None
            raise NoAnswer(words, status=status, hint=hint) from None
        except OSError as error:
            line.hang_up()
            raise NoAnswer(str(error)) from None

    async def _run(self, line: Kept, endpoint: str, question: Callable[[Query], Awaitable[T]]) -> T:
        before = line.connection
        try:
            return await self._put(line, endpoint, question)
        except psycopg.OperationalError:
            # A kept connection may have ended with a server that has long been up again; one that was left is no more.
            if before is None or before is not line.connection:
                raise
            line.hang_up()
            return await self._put(line, endpoint, question)

    async def _put(self, line: Kept, endpoint: str, question: Callable[[Query], Awaitable[T]]) -> T:
        connection = line.connection or await line.open(parameters(self._topology, endpoint, "topology"))

        async def query(sql: str) -> Sequence[Sequence[Any]]:
            return await (await connection.execute(sql.encode())).fetchall()

        return await question(query)


def parameters(topology: Topology, endpoint: str, purpose: str) -> dict[str, Any]:
    """Of a connection by which an endpoint is asked, and nothing else is done."""
    return {
        **own_connection((endpoint,), topology.dbname, topology.user, topology.secret, topology.tls),
        "application_name": f"forebay {purpose}",
        "options": "-c search_path=pg_catalog,pg_temp -c default_transaction_read_only=on",
        "connect_timeout": CONNECT_S,
    }
