"""psycopg 3 with many connections at once: threads, asyncio, its pool, notifications."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg_pool import AsyncConnectionPool, ConnectionPool

CLIENTS = 24


def run(program: Callable[[], Awaitable[None]]) -> None:
    """One asyncio program."""
    asyncio.run(asyncio.wait_for(program(), 120))


@pytest.fixture
def ledger(conn: psycopg.Connection[Any]) -> Any:
    """A table of accounts."""
    conn.execute("drop table if exists psy_ledger")
    conn.execute("create table psy_ledger (id int primary key, amount int not null)")
    conn.execute("insert into psy_ledger select n, 100 from generate_series(0, 49) n")
    yield conn
    conn.execute("drop table psy_ledger")


def move(conn: psycopg.Connection[Any], number: int) -> None:
    """Moves an amount between two accounts, in the order of their numbers."""
    one, other = sorted((number * 7 % 50, (number * 13 + 1) % 50))
    if one == other:
        return
    with conn.transaction():
        conn.execute("update psy_ledger set amount = amount - %s where id = %s", (number % 9, one))
        conn.execute("update psy_ledger set amount = amount + %s where id = %s", (number % 9, other))


def test_threads_move_money(ledger: Any) -> None:
    def work(thread: int) -> None:
        with psycopg.connect(autocommit=True) as conn:
            conn.execute("select set_config('psy.thread', %s, false)", (str(thread),))
            for number in range(40):
                move(conn, thread * 40 + number)
                assert conn.execute("select current_setting('psy.thread')").fetchone() == (str(thread),)

    with ThreadPoolExecutor(CLIENTS) as executor:
        list(executor.map(work, range(CLIENTS)))
    assert ledger.execute("select sum(amount) from psy_ledger").fetchone() == (5000,)


def test_a_pool_of_threads(ledger: Any) -> None:
    with ConnectionPool("", min_size=4, max_size=12, kwargs={"autocommit": True}, open=True) as pool:
        pool.wait()

        def work(number: int) -> None:
            with pool.connection() as conn:
                move(conn, number)

        with ThreadPoolExecutor(CLIENTS) as executor:
            list(executor.map(work, range(600)))
        assert pool.get_stats().get("requests_errors", 0) == 0
    assert ledger.execute("select sum(amount) from psy_ledger").fetchone() == (5000,)


def test_a_pool_that_checks_and_resets() -> None:
    def reset(conn: psycopg.Connection[Any]) -> None:
        conn.execute("reset all")

    kwargs = {"autocommit": True}
    check = ConnectionPool.check_connection
    with ConnectionPool("", min_size=2, max_size=3, kwargs=kwargs, reset=reset, check=check, open=True) as pool:
        for number in range(60):
            with pool.connection() as conn:
                assert conn.execute("show work_mem").fetchone() == ("4MB",)
                conn.execute(f"set work_mem = '{number + 1}MB'")
                assert conn.execute("show work_mem").fetchone() == (f"{number + 1}MB",)


def test_an_async_pool() -> None:
    async def program() -> None:
        async with AsyncConnectionPool("", min_size=2, max_size=16, open=False) as pool:

            async def work(number: int) -> int:
                async with pool.connection() as conn, conn.transaction():
                    await conn.execute("set local work_mem = '3MB'")
                    cursor = await conn.execute("select %s::int + pg_backend_pid() * 0", (number,))
                    row = await cursor.fetchone()
                    assert row is not None
                    return int(row[0])

            assert await asyncio.gather(*map(work, range(300))) == list(range(300))

    run(program)


def test_async_pipelines_side_by_side() -> None:
    async def program() -> None:
        async def work(number: int) -> None:
            async with await psycopg.AsyncConnection.connect(autocommit=True) as conn, conn.pipeline():
                cursors = [await conn.execute("select %s::int", (number * 100 + n,)) for n in range(50)]
                for n, cursor in enumerate(cursors):
                    assert await cursor.fetchone() == (number * 100 + n,)

        await asyncio.gather(*map(work, range(CLIENTS)))

    run(program)


def test_async_cancel_leaves_a_usable_connection() -> None:
    async def program() -> None:
        async with await psycopg.AsyncConnection.connect(autocommit=True) as conn:
            for _ in range(3):
                task = asyncio.create_task(conn.execute("select pg_sleep(30)"))
                await asyncio.sleep(0.2)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                cursor = await conn.execute("select 1")
                assert await cursor.fetchone() == (1,)

    run(program)


def test_cancels_hit_only_their_own() -> None:
    async def program() -> None:
        async def victim() -> None:
            async with await psycopg.AsyncConnection.connect(autocommit=True) as conn:
                for _ in range(6):
                    task = asyncio.create_task(conn.execute("select pg_sleep(30)"))
                    await asyncio.sleep(0.1)
                    await conn.cancel_safe()
                    with pytest.raises(errors.QueryCanceled):
                        await task

        async def innocent(number: int) -> None:
            async with await psycopg.AsyncConnection.connect(autocommit=True) as conn:
                for n in range(60):
                    cursor = await conn.execute("select pg_sleep(0.002), %s::int", (number + n,))
                    assert (await cursor.fetchone())[1] == number + n  # type: ignore[index]

        await asyncio.gather(victim(), victim(), *(innocent(number) for number in range(8)))

    run(program)


def test_notifications_come_in_order_and_once() -> None:
    heard: list[str] = []
    ready = threading.Event()

    def listen() -> None:
        with psycopg.connect(autocommit=True) as conn:
            conn.execute("listen psy_channel")
            ready.set()
            for notify in conn.notifies(timeout=60):
                heard.append(notify.payload)
                if notify.payload == "99":
                    return

    thread = threading.Thread(target=listen)
    thread.start()
    assert ready.wait(30)
    with psycopg.connect(autocommit=True) as conn:
        for number in range(100):
            conn.execute("select pg_notify('psy_channel', %s)", (str(number),))
    thread.join(60)
    assert heard == [str(number) for number in range(100)]


def test_notifications_of_a_transaction_wait_for_its_commit(connect: Any) -> None:
    listener, speaker = connect(), connect(autocommit=False)
    listener.execute("listen psy_waits")
    speaker.execute("notify psy_waits, 'undone'")
    speaker.rollback()
    speaker.execute("notify psy_waits, 'done'")
    speaker.commit()
    found = [notify.payload for notify in listener.notifies(timeout=20, stop_after=1)]
    assert found == ["done"]
    listener.execute("unlisten *")
    speaker.execute("notify psy_waits, 'unheard'")
    speaker.commit()
    assert list(listener.notifies(timeout=0.5)) == []


def test_one_hears_itself(connect: Any) -> None:
    conn = connect()
    conn.execute("listen psy_own")
    conn.execute("notify psy_own, 'me'")
    found = list(conn.notifies(timeout=20, stop_after=1))
    assert [(notify.channel, notify.payload, notify.pid == conn.info.backend_pid) for notify in found] == [
        ("psy_own", "me", True)
    ]


def test_serialization_failures_can_be_repeated(ledger: Any) -> None:
    failures = 0
    lock = threading.Lock()

    def work(_: int) -> None:
        nonlocal failures
        with psycopg.connect(autocommit=False) as conn:
            conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            for _turn in range(5):
                while True:
                    try:
                        with conn.transaction():
                            conn.execute("select sum(amount) from psy_ledger").fetchone()
                            conn.execute("update psy_ledger set amount = amount + 1 where id = 1")
                        break
                    except (errors.SerializationFailure, errors.DeadlockDetected):
                        with lock:
                            failures += 1

    with ThreadPoolExecutor(6) as executor:
        list(executor.map(work, range(6)))
    assert ledger.execute("select amount from psy_ledger where id = 1").fetchone() == (130,)
