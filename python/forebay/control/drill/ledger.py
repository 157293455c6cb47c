"""The table that clients of a drill write to: made before, compared with what they were told, and dropped."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from forebay.control.console_link import driver, first_line, limited
from forebay.control.drill.client import Outcome
from forebay.failure import Exit, Failure

SCHEMA: Final = "forebay_drill"
# The service may be away when the drill is over; where it has not come back in time, nobody waits for it any more.
AGAIN_S: Final = 60.0
LATE_S: Final = 5.0
CONNECT_S: Final = 10.0
PAUSE_S: Final = 0.2
BYTES_MAX: Final = 1 << 30
_WORDS: Final = ("prod", "live")
# Whoever may not read all statistics sees of other users' sessions nothing but the user: what kind they are is NULL.
_SIGNS: Final = """
SELECT pg_catalog.pg_database_size(pg_catalog.current_database()),
    (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = pg_catalog.current_database()
        AND pid <> pg_catalog.pg_backend_pid() AND usename <> CURRENT_USER
        AND COALESCE(backend_type, 'client backend') = 'client backend'
        AND COALESCE(application_name, '') NOT LIKE 'forebay %')
"""
# Of a transaction, so that it is the primary's.
_PLACE: Final = """
BEGIN; SELECT pg_catalog.pg_backend_pid(), (SELECT system_identifier FROM pg_catalog.pg_control_system()),
    EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time())::pg_catalog.float8; COMMIT
"""
# The same: a replica may follow the old primary, and has nothing of what was written since.
_THERE: Final = "BEGIN; SELECT client, number, count(*) FROM forebay_drill.ledger GROUP BY client, number; COMMIT"


class Place(NamedTuple):
    """A session of the primary: its process, as its machine has it, which system that is of, and since when it runs."""

    pid: int
    system: int
    started: float


@dataclass(frozen=True, slots=True)
class Truth:
    """What of the clients' writes is wrong, by (client, number).

    lost: acknowledged, and not there. doubled: there more than once. risen: refused for good, and there all the same.
    unknown: neither acknowledged nor refused for good: 08007, or the connection was lost. is_known: whether anybody
    could be asked what is there.
    """

    lost: tuple[tuple[int, int], ...]
    doubled: tuple[tuple[int, int], ...]
    risen: tuple[tuple[int, int], ...]
    unknown: int
    is_known: bool = True

    @property
    def is_kept(self) -> bool:
        """What clients were told is true."""
        return self.is_known and not (self.lost or self.doubled or self.risen)


class Ledger:
    """parameters: libpq's, of the database under load."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = {"application_name": "forebay drill", **parameters}

    def signs_of_production(self) -> list[str]:
        """Why the target should be left alone, in words; empty: nothing is known against it."""
        signs = [
            f'it is called "{value}"'
            for key in ("host", "dbname")
            if any(word in (value := str(self._parameters.get(key, ""))).lower() for word in _WORDS)
        ]
        ((size, others),) = self._once(_SIGNS)
        if size > BYTES_MAX:
            signs.append(f"the database has {size >> 20} MiB")
        if others:
            signs.append(f"{others} sessions of other users are there")
        return signs

    def create(self) -> None:
        """Raises Failure; then nothing was made."""
        try:
            self._once(
                f"CREATE SCHEMA {SCHEMA}; CREATE TABLE {SCHEMA}.ledger (client int NOT NULL, number int NOT NULL);"
                # Not unique: it must be able to hold what was written twice.
                f" CREATE INDEX ON {SCHEMA}.ledger (client, number)",
                has_rows=False,
            )
        except driver().errors.DuplicateSchema:
            hint = f"A drill runs already, or one was killed: then DROP SCHEMA {SCHEMA} CASCADE."
            raise Failure(f"there is a schema {SCHEMA} already", hint=hint) from None

    def compare(self, outcomes: Sequence[Outcome], *, is_back: bool = True) -> Truth:
        """What the clients were told with what is there.

        Raises Failure where nobody can say, though service is back.
        """
        writes = [each for each in outcomes if each.is_write]
        acknowledged = {(each.client, each.number) for each in writes if each.error is None}
        unknown = {(each.client, each.number) for each in writes if each.error in ("08007", "lost")}
        try:
            rows = self._patiently(_THERE, at=1, within_s=AGAIN_S if is_back else LATE_S)
        except Failure:
            if is_back:
                raise
            return Truth((), (), (), len(unknown), is_known=False)
        there = {(client, number): count for client, number, count in rows}
        return Truth(
            lost=tuple(sorted(acknowledged - there.keys())),
            doubled=tuple(sorted(key for key, count in there.items() if count > 1)),
            risen=tuple(sorted(there.keys() - acknowledged - unknown)),
            unknown=len(unknown),
        )

    def drop(self, *, within_s: float = AGAIN_S) -> None:
        """Raises Failure."""
        self._patiently(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE", has_rows=False, within_s=within_s)

    def place(self, *, within_s: float = AGAIN_S) -> Place:
        """Where the primary is."""
        ((pid, system, started),) = self._once(_PLACE, at=1, within_s=within_s)
        return Place(int(pid), int(system), float(started))

    def _patiently(self, sql: str, *, within_s: float, has_rows: bool = True, at: int = 0) -> list[Any]:
        psycopg, deadline = driver(), time.monotonic() + within_s
        while True:
            try:
                left_s = max(PAUSE_S, deadline - time.monotonic())
                return self._once(sql, has_rows=has_rows, at=at, within_s=left_s)
            except psycopg.Error as error:
                if time.monotonic() > deadline:
                    hint = f"When the database is back: DROP SCHEMA {SCHEMA} CASCADE."
                    raise Failure(f"the database can't be asked: {first_line(error)}", hint=hint) from None
            time.sleep(PAUSE_S)

    def _once(self, sql: str, *, has_rows: bool = True, at: int = 0, within_s: float = AGAIN_S) -> list[Any]:
        psycopg = driver()
        patience = {"connect_timeout": max(1, round(min(CONNECT_S, within_s)))}
        try:
            connection = psycopg.connect(**{**patience, **self._parameters}, autocommit=True)
        except psycopg.OperationalError as error:
            if error.sqlstate is not None or self._is_known:
                raise
            hint = "Name the database as its clients reach it, through forebay."
            raise Failure(f"can't reach it: {first_line(error)}", hint=hint, exit=Exit.CANNOT_REACH) from None
        with connection, limited(connection, within_s):
            self._is_known = True
            cursor = connection.execute(sql)
            for _ in range(at):
                cursor.nextset()
            return list(cursor.fetchall()) if has_rows else []

    # Whether somebody has answered: then it is a drill that keeps us away.
    _is_known = False
