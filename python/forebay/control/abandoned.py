"""Questions to servers that nobody waits for any more."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any

import psycopg


class Abandoned:
    """Those whose connections end with them."""

    def __init__(self) -> None:
        self._asked: set[asyncio.Future[Any]] = set()

    def leave(self, asking: asyncio.Future[Any], connection: psycopg.AsyncConnection[Any] | None) -> None:
        """connection: what it asks on, and nobody else any more; None: it is being opened.

        Not closed before the question has ended: while the event loop watches a descriptor, its number must not become
        another connection's, which would then fail, or be watched no more. Not cancelled either: the driver would ask a
        server that may not answer to cancel it.
        """
        self._asked.add(asking)
        asking.add_done_callback(self._forget)
        if connection is None:
            asking.cancel()
            return
        asking.add_done_callback(lambda _asked: connection.pgconn.finish())
        with contextlib.suppress(OSError, psycopg.Error), _shared(connection) as line:
            line.shutdown(socket.SHUT_RDWR)

    def _forget(self, asked: asyncio.Future[Any]) -> None:
        self._asked.discard(asked)
        if not asked.cancelled():
            # Read, so that it is not told as one that nobody looked at.
            asked.exception()


def _shared(connection: psycopg.AsyncConnection[Any]) -> socket.socket:
    """The connection's socket by another descriptor."""
    return socket.socket(fileno=os.dup(connection.pgconn.socket))
