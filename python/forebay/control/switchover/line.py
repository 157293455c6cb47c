"""A connection to one endpoint, as the user that asks for its role: where it has written, what it has replayed."""

from __future__ import annotations

from typing import Any, Final

import psycopg

from forebay.admin.backend import Refused
from forebay.config.topology import Topology
from forebay.control.console_link import first_line
from forebay.control.endpoint import own_connection
from forebay.control.kept import Kept, Unanswered

# Of one question: a server that hangs must not hold a switchover for longer. One that is slow says so itself before.
ANSWER_S: Final = 3
SILENCE_S: Final = 4.0
# Commits that were acknowledged before they were written out (synchronous_commit = off) are, once a later one is.
_FLUSH: Final = "SELECT pg_catalog.pg_logical_emit_message(true, 'forebay', 'switchover')"
_WRITTEN: Final = "SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(), '0/0')::pg_catalog.int8"
_REPLAYED: Final = (
    "SELECT pg_catalog.pg_wal_lsn_diff(COALESCE(pg_catalog.pg_last_wal_replay_lsn(), '0/0'), '0/0')::pg_catalog.int8"
)
_STATE: Final = (
    "SELECT r.is_in, r.is_in AND pg_catalog.pg_is_wal_replay_paused(),"
    " pg_catalog.has_function_privilege('pg_catalog.pg_promote(boolean, integer)', 'EXECUTE')"
    " FROM (SELECT pg_catalog.pg_is_in_recovery()) AS r(is_in)"
)
# A transaction that is under way is known by its number to whoever replays it. Its record is sent with the next commit.
_MARK: Final = (
    "BEGIN; SELECT pg_catalog.pg_logical_emit_message(true, 'forebay', 'switchover');"
    " SELECT pg_catalog.txid_current()::pg_catalog.int8"
)
_UNMARK: Final = f"ROLLBACK; {_FLUSH}"
# The number may be beyond all that a replica has heard of: asked for as it is, that is an error.
_MARKED: Final = (
    "SELECT CASE WHEN {mark} < pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot())"
    " THEN pg_catalog.txid_status({mark}) END"
)


class Line:
    """Asks the server at an endpoint. What fails is Refused, in the server's words."""

    def __init__(self, topology: Topology, endpoint: str) -> None:
        self.endpoint = endpoint
        self.user = topology.user
        self.dbname = topology.dbname
        self._parameters = {
            **own_connection((endpoint,), topology.dbname, topology.user, topology.secret, topology.tls),
            "application_name": "forebay switchover",
            "options": "-c search_path=pg_catalog,pg_temp -c default_transaction_read_only=off"
            f" -c synchronous_commit=local -c statement_timeout={ANSWER_S}s -c idle_in_transaction_session_timeout=0",
            "connect_timeout": ANSWER_S,
        }
        self._kept = Kept()

    async def mark(self) -> int:
        """Begins a transaction, which is under way until `unmark`. Its number."""
        return int((await self._ask(_MARK, at=2))[0])

    async def unmark(self) -> None:
        """Rolls it back."""
        await self._ask(_UNMARK, at=1)

    async def standing(self, mark: int) -> str | None:
        """How it is with a transaction, as far as it has replayed: in progress, aborted; None: it knows of none."""
        said: str | None = (await self._ask(_MARKED.format(mark=mark)))[0]
        return said

    async def flushed(self) -> int:
        """Up to where it has written, with all that was acknowledged before."""
        await self._ask(_FLUSH)
        return int((await self._ask(_WRITTEN))[0])

    async def replayed(self) -> int:
        """Up to where it has replayed."""
        return int((await self._ask(_REPLAYED))[0])

    async def state(self) -> tuple[bool, bool, bool]:
        """Whether it is in recovery; whether replay is paused; whether our user may promote it."""
        is_in_recovery, is_paused, may_promote = await self._ask(_STATE)
        return bool(is_in_recovery), bool(is_paused), bool(may_promote)

    async def can_write(self) -> bool | None:
        """Whether it has been promoted; None: it does not say."""
        try:
            return not (await self.state())[0]
        except Refused:
            self.close()
            return None

    async def promote(self) -> bool | None:
        """Asks it to be promoted; None: nobody knows whether it will be. Raises Refused where it will not."""
        try:
            return bool((await self._ask("SELECT pg_catalog.pg_promote(false)"))[0])
        except _Lost:
            return None

    async def _ask(self, sql: str, *, at: int = 0) -> tuple[Any, ...]:
        """The row of the statement at this place."""
        try:
            return await self._kept.answer(self._run(sql, at), SILENCE_S)
        except Unanswered as silence:
            fault = _Lost if silence.was_connected else Refused
            raise fault(f"{self.endpoint}: no answer within {SILENCE_S:g} s") from None
        except psycopg.Error as error:
            # Who ends it, or is past its time, may have done it all the same.
            is_lost = self._kept.connection is not None and (error.sqlstate is None or error.sqlstate.startswith("57"))
            self.close()
            raise (_Lost if is_lost else Refused)(f"{self.endpoint}: {first_line(error)}") from None

    async def _run(self, sql: str, at: int) -> tuple[Any, ...]:
        connection = self._kept.connection or await self._kept.open(self._parameters)
        cursor = await connection.execute(sql.encode())
        for _ in range(at):
            cursor.nextset()
        row = await cursor.fetchone()
        if row is None:
            raise Refused(f"{self.endpoint}: no row was answered")
        return row

    def close(self) -> None:
        """Ends the connection."""
        self._kept.hang_up()


class _Lost(Refused):
    """The connection was, with a question under way."""
