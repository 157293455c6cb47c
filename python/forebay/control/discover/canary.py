"""The write canary: now and then the primary commits a message, which needs no table, for nobody to read.

A probe that reads says nothing of the disk below the WAL, or of a synchronous standby: a commit does. Whatever comes of
it, no endpoint loses its role: that of one which answers is for whoever promotes to take.

| a canary | is | then |
|---|---|---|
| is answered | `confirmed` | |
| is not, within canary_timeout | `late` | it is told, with what its server waits for; it is waited for on |
| ends with an error | `failed` | it is told |
| may not be sent: no right, no room, no such function | `refused` | it is told once for each reason |
| is lost with its connection | nothing | another one is sent |

Late, failed and lost ones are a suspicion: all endpoints are asked at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import psycopg

from forebay.config.topology import Topology
from forebay.control.console_link import first_line
from forebay.control.endpoint import own_connection
from forebay.control.kept import Kept, Unanswered
from forebay.observe.log import event

# A wait that ends so much later than it should was kept from running: it says nothing of the server.
STALLED_S: Final = 0.25
# For who asks what a canary's server waits for.
WHY_S: Final = 2
CONNECT_S: Final = 2
_SONG: Final = b"SELECT pg_catalog.pg_logical_emit_message(true, 'forebay', 'canary')"
_WHY: Final = "SELECT wait_event_type, wait_event FROM pg_catalog.pg_stat_activity WHERE pid OPERATOR(pg_catalog.=) {}"
# No right, no such function, not offered. What is no error of writing.
_REFUSALS: Final = ("42501", "42883", "0A000")
# It is in recovery: its role is about to be known for another one.
_READ_ONLY: Final = "25006"
# The server has ended the connection.
_ENDED: Final = ("57", "08")


class Canary:
    """Of one database. suspect: has all endpoints asked. told: the endpoint, and whether it confirms writes."""

    def __init__(
        self, topology: Topology, suspect: Callable[[], None], told: Callable[[str, bool | None], None]
    ) -> None:
        self._topology = topology
        self._suspect = suspect
        self._told = told
        # Which takes writes, and which the connection is to.
        self._endpoint: str | None = None
        self._at: str | None = None
        self._has_moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._kept = Kept()
        # The one by which it is asked what the kept one's server waits for.
        self._beside = Kept()
        self._state: str | None = None
        self._because: str | None = None
        self._confirmed_at: float | None = None

    def start(self) -> None:
        """Begins, if one is wanted."""
        if self._topology.canary_s:
            self._task = asyncio.ensure_future(self._run())

    def follow(self, primary: str | None) -> None:
        """Which endpoint takes writes; it is sent one at once."""
        if primary != self._endpoint:
            if self._endpoint is not None:
                self._told(self._endpoint, None)
            if primary is not None:
                self._told(primary, None)
            self._endpoint, self._state, self._because, self._confirmed_at = primary, None, None, None
            self._has_moved.set()

    def of(self, endpoint: str) -> tuple[str | None, float | None]:
        """How it stands with an endpoint's, and for how long none was confirmed."""
        if endpoint != self._endpoint or self._state is None:
            return None, None
        words = self._state if self._because is None else f"{self._state}: {self._because}"
        return words, None if self._confirmed_at is None else time.monotonic() - self._confirmed_at

    async def close(self) -> None:
        """Sends no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._kept.hang_up()

    async def _run(self) -> None:
        while True:
            self._has_moved.clear()
            self._hang_up_unless(self._endpoint)
            if self._endpoint is not None:
                try:
                    await self._send(self._endpoint)
                except Exception as error:
                    # One that fails unforeseen must not end all that follow.
                    self._kept.hang_up()
                    event(logging.ERROR, "canary_unsent", code="FB999", error=f"{type(error).__name__}: {error}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._has_moved.wait(), self._topology.canary_s)

    async def _send(self, endpoint: str) -> None:
        """One, until it has ended or another endpoint takes writes."""
        began, limit_s = time.monotonic(), self._topology.canary_timeout_s
        moving = asyncio.ensure_future(self._has_moved.wait())
        try:
            with self._kept.asking(self._write(endpoint)) as sending:
                while not sending.done() and not moving.done():
                    waits = time.monotonic()
                    await asyncio.wait({sending, moving}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
                    is_late = time.monotonic() - waits <= limit_s + STALLED_S
                    if not sending.done() and not moving.done() and is_late:
                        because = await self._why(endpoint)
                        if not sending.done():
                            self._is_late(endpoint, because, time.monotonic() - began)
                if sending.done() and not moving.done():
                    self._has_ended(endpoint, sending, time.monotonic() - began)
        finally:
            moving.cancel()

    async def _write(self, endpoint: str) -> None:
        if self._kept.connection is not None:
            try:
                await self._kept.connection.execute(_SONG)
                return
            except psycopg.OperationalError:
                # A kept connection may have ended with a server that has long been up again.
                if not self._kept.connection or not self._kept.connection.closed:
                    raise
                self._kept.hang_up()
        connection = await self._kept.open(self._parameters(endpoint, 0))
        await connection.execute(_SONG)

    def _has_ended(self, endpoint: str, sending: asyncio.Future[None], took_s: float) -> None:
        is_sent = self._kept.connection is not None
        error = sending.exception()
        if error is None:
            self._confirmed_at = time.monotonic()
            self._becomes(endpoint, "confirmed", None, logging.INFO, took_s)
            return
        self._kept.hang_up()
        if not isinstance(error, psycopg.Error):
            raise error
        state, words = error.sqlstate or "", first_line(error)
        if state in _REFUSALS or (not is_sent and "FATAL" in str(error)):
            self._becomes(endpoint, "refused", words, logging.WARNING, took_s)
        elif not is_sent or not state or state[:2] in _ENDED or state == _READ_ONLY:
            # That of an endpoint that is gone, or is no primary any more: asking tells.
            self._suspect()
        else:
            self._becomes(endpoint, "failed", words, logging.ERROR, took_s)

    def _is_late(self, endpoint: str, because: str, waited_s: float) -> None:
        self._becomes(endpoint, "late", because, logging.ERROR, waited_s)

    def _becomes(self, endpoint: str, state: str, because: str | None, level: int, took_s: float) -> None:
        """Tells of it unless it was told already."""
        before = self._state, self._because
        self._state, self._because = state, because
        self._told(endpoint, {"confirmed": True, "refused": None}.get(state, False))
        if (state, because) == before:
            return
        if state in ("late", "failed") and before[0] != state:
            self._suspect()
        # A first one that is confirmed is no news.
        if state != "confirmed" or before[0] not in (None, "confirmed"):
            event(level, f"canary_{state}", database=self._topology.database, endpoint=endpoint, because=because,
                  took_ms=round(took_s * 1000))  # fmt: skip

    async def _why(self, endpoint: str) -> str:
        """What the canary's server waits for, as that is told over another connection."""
        if self._kept.connection is None:
            return "no connection to it"
        pid = self._kept.connection.info.backend_pid
        try:
            kind, name = await self._beside.answer(self._ask_why(endpoint, pid), WHY_S) or (None, None)
        except Unanswered:
            return "its server does not say what it waits for"
        except psycopg.Error as error:
            return f"what it waits for can't be asked: {first_line(error)}"
        finally:
            self._beside.hang_up()
        if name == "SyncRep":
            return "no synchronous standby confirms what was committed (SyncRep)"
        return f"its server waits for {kind}/{name}" if name else "its server does not say what it waits for"

    async def _ask_why(self, endpoint: str, pid: int) -> tuple[Any, ...] | None:
        connection = await self._beside.open(self._parameters(endpoint, WHY_S))
        return await (await connection.execute(_WHY.format(pid).encode())).fetchone()

    def _parameters(self, endpoint: str, limit_s: int) -> dict[str, Any]:
        topology = self._topology
        return {
            **own_connection((endpoint,), topology.dbname, topology.user, topology.secret, topology.tls),
            "application_name": "forebay canary",
            # A time-out of the server's would end its wait for a standby, and call committed what may not be there.
            "options": "-c search_path=pg_catalog,pg_temp -c default_transaction_read_only=off"
            f" -c synchronous_commit=on -c statement_timeout={limit_s}s",
            "connect_timeout": CONNECT_S,
            # Nothing comes while a commit waits: who is gone is noticed by this alone.
            "keepalives_idle": 5,
            "keepalives_interval": 1,
            "keepalives_count": 3,
        }

    def _hang_up_unless(self, endpoint: str | None) -> None:
        """What was connected to is not what is written to any more."""
        if self._at != endpoint:
            self._kept.hang_up()
        self._at = endpoint
