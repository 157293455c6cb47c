"""A connection of ours to a server, kept for the next question, and how a question on it is waited for, and left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import psycopg

T = TypeVar("T")

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class Unanswered(Exception):
    """Nobody waits for the question any more. was_connected: it may have reached the server."""

    def __init__(self, *, was_connected: bool) -> None:
        super().__init__()
        self.was_connected = was_connected


class Kept:
    """It, once it is open. One question is under way at a time; one that nobody waits for any more ends with it."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self._left: set[asyncio.Future[Any]] = set()

    async def open(self, parameters: dict[str, Any]) -> Connection:
        """To where libpq's parameters say. Part of a question: it is left with it."""
        self.connection = await psycopg.AsyncConnection.connect(**parameters, autocommit=True, prepare_threshold=None)
        return self.connection

    async def answer(self, question: Coroutine[Any, Any, T], limit_s: float) -> T:
        """What comes of it. Raises what it raises, and Unanswered where it has not ended within its limit."""
        with self.asking(question) as asked:
            done, _ = await asyncio.wait({asked}, timeout=limit_s)
            if not done:
                raise Unanswered(was_connected=self.connection is not None)
        return asked.result()

    @contextlib.contextmanager
    def asking(self, question: Coroutine[Any, Any, T]) -> Iterator[asyncio.Task[T]]:
        """It, under way. It is left where it has not ended with the block, or the block fails or is cancelled."""
        asked = asyncio.ensure_future(question)
        is_waited_for = False
        try:
            yield asked
            is_waited_for = asked.done()
        finally:
            if not is_waited_for:
                self._leave(asked)

    def hang_up(self) -> None:
        """Ends the connection, without a word to a server that may not read it. No question is under way."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.pgconn.finish()

    def _leave(self, asked: asyncio.Task[Any]) -> None:
        """The connection is the question's alone from here on; where there is none, it is being opened.

        Not closed before the question has ended: while the event loop watches a descriptor, its number must not become
        another connection's, which would then fail, or be watched no more. Not cancelled either: the driver would ask a
        server that may not answer to cancel it.
        """
        connection, self.connection = self.connection, None
        self._left.add(asked)
        asked.add_done_callback(self._forget)
        if connection is None:
            asked.cancel()
            return
        asked.add_done_callback(lambda _asked: connection.pgconn.finish())
        with contextlib.suppress(OSError, psycopg.Error), _shared(connection) as line:
            line.shutdown(socket.SHUT_RDWR)

    def _forget(self, asked: asyncio.Task[Any]) -> None:
        self._left.discard(asked)
        if not asked.cancelled():
            # Read, so that it is not told as one that nobody looked at.
            asked.exception()


def _shared(connection: Connection) -> socket.socket:
    """The connection's socket by another descriptor."""
    return socket.socket(fileno=os.dup(connection.pgconn.socket))
