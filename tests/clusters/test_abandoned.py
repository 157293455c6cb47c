"""Questions to servers that nobody waits for any more."""

from __future__ import annotations

import asyncio
import os
import socket
import time

import psycopg
import pytest
from forebay.control.abandoned import Abandoned

from tests.harness.postgres import Postgres


def test_a_descriptor_is_nobody_elses_while_it_is_watched(server: Postgres) -> None:
    """Whoever connects next fails, or is never told that its answer is there."""

    async def story() -> None:
        connection = await psycopg.AsyncConnection.connect(server.target.dsn(), autocommit=True)
        watched = connection.pgconn.socket
        asking = asyncio.ensure_future(connection.execute("select pg_sleep(60)"))
        await asyncio.sleep(0.2)
        left, began = Abandoned(), time.monotonic()
        left.leave(asking, connection)
        with socket.socket() as next_one:
            assert next_one.fileno() != watched
            os.fstat(watched)
            with pytest.raises(psycopg.OperationalError):
                await asking
        await asyncio.sleep(0)
        assert connection.closed
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(watched)
        assert time.monotonic() - began < 30, "it has not slept to the end"

    asyncio.run(story())


def test_one_that_is_being_opened_ends(server: Postgres) -> None:
    """It would be nobody's."""

    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            asking = asyncio.ensure_future(
                psycopg.AsyncConnection.connect(host="127.0.0.1", port=port, user="app", connect_timeout=60)
            )
            await asyncio.sleep(0.2)
            Abandoned().leave(asking, None)
            await asyncio.wait({asking}, timeout=30)
            assert asking.cancelled()

    asyncio.run(story())
