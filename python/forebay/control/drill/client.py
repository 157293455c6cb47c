"""One client of the load: a connection that asks one statement after the other, and notes what came of each.

It drives libpq itself, without ever waiting: one thread has to keep hundreds of them busy.

| state | waits for |
|---|---|
| connecting | its login |
| idle | its turn |
| asking | the answer |
| closed | the moment at which it may connect again |
"""

from __future__ import annotations

import time
from enum import Enum
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import pq

# After a login that failed.
AGAIN_S: Final = 0.05

WRITE: Final = b"INSERT INTO forebay_drill.ledger (client, number) VALUES ($1, $2)"
READ: Final = b"SELECT count(*) FROM forebay_drill.ledger WHERE client = $1 AND number = $2"


class State(Enum):
    """See the module's head."""

    CONNECTING = "connecting"
    IDLE = "idle"
    ASKING = "asking"
    CLOSED = "closed"


class Outcome(NamedTuple):
    """What came of a statement. Times are of the monotonic clock; error: its SQLSTATE, "lost" without one."""

    client: int
    number: int
    is_write: bool
    sent: float
    ended: float
    error: str | None


class Client:
    """conninfo: libpq's."""

    def __init__(self, conninfo: bytes, key: int) -> None:
        self.key = key
        self.state = State.CLOSED
        self.due = 0.0
        self.logins_failed = 0
        self._conninfo = conninfo
        self._connection: Any = None
        self._numbers = 0
        self._asked = (0, False, 0.0)
        self._error: str | None = None
        self._has_result = False

    def connect(self) -> None:
        """Begins to."""
        self._connection = pq.PGconn.connect_start(self._conninfo)
        self.state = State.CONNECTING

    def fileno(self) -> int:
        """Of its socket."""
        return int(self._connection.socket)

    def goes_on_connecting(self) -> bool:
        """Returns whether it waits to write; otherwise it waits to read, unless its state has changed."""
        status = self._connection.connect_poll()
        if status == pq.PollingStatus.OK:
            self._connection.nonblocking = 1
            self.state = State.IDLE
        elif status == pq.PollingStatus.FAILED:
            self.logins_failed += 1
            self.close()
            self.due = time.monotonic() + AGAIN_S
        return bool(status == pq.PollingStatus.WRITING)

    def ask(self, is_write: bool, now: float) -> Outcome | None:
        """Sends a statement; what came of it, where it could not even be sent."""
        if is_write:
            self._numbers += 1
        self._asked, self._error, self._has_result = (self._numbers, is_write, now), None, False
        self.state = State.ASKING
        sql, values = (WRITE if is_write else READ), [b"%d" % self.key, b"%d" % self._numbers]
        try:
            self._connection.send_query_params(sql, values)
            # Statements are short: they never fill a socket.
            self._connection.flush()
        except psycopg.Error:
            return self._lost()
        return None

    def hear(self) -> Outcome | None:
        """Takes what has come; the outcome once that is all."""
        try:
            self._connection.consume_input()
            while not self._connection.is_busy():
                result = self._connection.get_result()
                if result is None:
                    return self._ended()
                self._note(result)
        except psycopg.Error:
            return self._lost()
        return None

    def is_there(self) -> bool:
        """Whether an idle connection is not lost, of which something has come."""
        try:
            self._connection.consume_input()
        except psycopg.Error:
            self.close()
            return False
        return True

    def close(self) -> None:
        """Ends the connection."""
        if self._connection is not None:
            self._connection.finish()
        self._connection = None
        self.state = State.CLOSED

    def unasked(self) -> Outcome | None:
        """The outcome of a statement that nobody has answered when all is over."""
        return self._lost() if self.state is State.ASKING else None

    def _note(self, result: Any) -> None:
        self._has_result = True
        if result.status == pq.ExecStatus.FATAL_ERROR:
            code = result.error_field(pq.DiagnosticField.SQLSTATE)
            self._error = code.decode() if code else "lost"

    def _ended(self) -> Outcome:
        is_gone = self._connection.status != pq.ConnStatus.OK
        outcome = self._outcome(self._error if self._has_result else "lost")
        if is_gone:
            self.close()
        else:
            self.state = State.IDLE
        return outcome

    def _lost(self) -> Outcome:
        outcome = self._outcome(self._error or "lost")
        self.close()
        return outcome

    def _outcome(self, error: str | None) -> Outcome:
        number, is_write, sent = self._asked
        return Outcome(self.key, number, is_write, sent, time.monotonic(), error)
