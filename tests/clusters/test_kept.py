"""Connections of forebay's own, and questions on them that nobody waits for any more."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import psycopg
import pytest
from forebay.control.kept import Kept, Unanswered

from tests.harness.postgres import Postgres

# Until a question has reached its server, or a connection is being opened.
UNDER_WAY_S = 0.2


def parameters(server: Postgres) -> dict[str, Any]:
    """Of libpq's, for a connection to it."""
    return dict(psycopg.conninfo.conninfo_to_dict(server.target.dsn()))


async def sleep_on(kept: Kept) -> str:
    """A question that takes a minute. How it ended."""
    assert kept.connection is not None
    with contextlib.suppress(psycopg.OperationalError):
        await kept.connection.execute("select pg_sleep(60)")
        return "answered"
    return "cut"


async def past_its_limit(kept: Kept, question: Coroutine[Any, Any, Any]) -> None:
    """Nobody waits for it because it takes too long."""
    with pytest.raises(Unanswered) as silence:
        await kept.answer(question, UNDER_WAY_S)
    assert silence.value.was_connected


async def cancelled(kept: Kept, question: Coroutine[Any, Any, Any]) -> None:
    """Nobody waits for it because who asked is cancelled."""
    waiting = asyncio.ensure_future(kept.answer(question, 60))
    await asyncio.sleep(UNDER_WAY_S)
    waiting.cancel()
    await asyncio.wait({waiting}, timeout=30)
    assert waiting.cancelled()


async def cut_short(kept: Kept, question: Coroutine[Any, Any, Any]) -> None:
    """Nobody waits for it because of something else."""
    with kept.asking(question):
        await asyncio.sleep(UNDER_WAY_S)


Way = Callable[[Kept, Coroutine[Any, Any, Any]], Awaitable[None]]
WAYS: tuple[Way, ...] = (past_its_limit, cancelled, cut_short)


@pytest.mark.parametrize("leave", WAYS)
def test_a_descriptor_is_nobody_elses_while_it_is_watched(leave: Way, server: Postgres) -> None:
    """Whoever connects next fails, or is never told that its answer is there."""

    async def story() -> None:
        kept, ended = Kept(), asyncio.Event()
        connection = await kept.open(parameters(server))
        watched, outcomes = connection.pgconn.socket, list[str]()

        async def question() -> None:
            outcomes.append(await sleep_on(kept))
            ended.set()

        began = time.monotonic()
        await leave(kept, question())
        assert kept.connection is None
        assert outcomes == []
        with socket.socket() as next_one:
            assert next_one.fileno() != watched
            os.fstat(watched)
            await asyncio.wait_for(ended.wait(), 30)
        assert outcomes == ["cut"]
        await asyncio.sleep(0)
        assert connection.closed
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(watched)
        assert time.monotonic() - began < 30, "it has not slept to the end"

    asyncio.run(story())


@pytest.mark.parametrize("leave", [cancelled, cut_short])
def test_one_that_is_being_opened_ends(leave: Way) -> None:
    """It would be nobody's."""

    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            kept, ended = Kept(), asyncio.Event()

            async def question() -> None:
                try:
                    await kept.open({"host": "127.0.0.1", "port": silent.getsockname()[1], "connect_timeout": 60})
                finally:
                    ended.set()

            await leave(kept, question())
            await asyncio.wait_for(ended.wait(), 30)
            assert kept.connection is None

    asyncio.run(story())


def test_a_limit_tells_whether_the_server_was_asked() -> None:
    """Of a promotion that was never sent, nobody may say that it may have been done."""

    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            kept = Kept()
            opening = kept.open({"host": "127.0.0.1", "port": silent.getsockname()[1], "connect_timeout": 60})
            with pytest.raises(Unanswered) as silence:
                await kept.answer(opening, UNDER_WAY_S)
            assert not silence.value.was_connected

    asyncio.run(story())


def test_a_connection_is_kept_for_the_next_question_until_it_is_hung_up(server: Postgres) -> None:
    """Each question would log in."""

    async def story() -> None:
        kept = Kept()

        async def backend() -> int:
            connection = kept.connection or await kept.open(parameters(server))
            row = await (await connection.execute("select pg_backend_pid(), 1 / 1")).fetchone()
            assert row is not None
            return int(row[0])

        async def fail() -> None:
            assert kept.connection is not None
            await kept.connection.execute("select 1 / 0")

        first = await kept.answer(backend(), 30)
        with pytest.raises(psycopg.errors.DivisionByZero):
            await kept.answer(fail(), 30)
        assert await kept.answer(backend(), 30) == first
        connection = kept.connection
        kept.hang_up()
        assert connection is not None
        assert connection.closed
        assert await kept.answer(backend(), 30) != first
        kept.hang_up()

    asyncio.run(story())


def test_a_question_that_fails_after_it_was_left_is_nobodys_news(server: Postgres) -> None:
    """The log would have a trace for each probe that came too late."""

    async def story() -> None:
        told = list[dict[str, Any]]()
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
        kept, ended = Kept(), asyncio.Event()
        connection = await kept.open(parameters(server))

        async def question() -> None:
            try:
                await connection.execute("select pg_sleep(60)")
            finally:
                ended.set()

        await past_its_limit(kept, question())
        await asyncio.wait_for(ended.wait(), 30)
        await asyncio.sleep(0)
        gc.collect()
        assert told == []

    asyncio.run(story())


def test_a_connection_is_closed_though_its_question_had_ended_when_it_was_left(server: Postgres) -> None:
    """Whoever asks next would be answered what was asked before, or the server would keep it for ever."""

    async def story() -> None:
        kept = Kept()
        connection = await kept.open(parameters(server))

        async def fail() -> None:
            with kept.asking(connection.execute("select 1")) as asked:
                await asked
                raise LookupError

        with pytest.raises(LookupError):
            await fail()
        assert kept.connection is None
        await asyncio.sleep(0)
        assert connection.closed

    asyncio.run(story())
