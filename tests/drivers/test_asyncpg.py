"""asyncpg, direct and through forebay: it prepares everything, by names of its own."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from tests.harness.pooler import Forebay
from tests.harness.target import Target

Program = Callable[[asyncpg.Connection], Awaitable[Any]]


async def basics(c: asyncpg.Connection) -> Any:
    row = await c.fetchrow("select $1::int, $2::text, $3::date, $4::int[]", 1, "x", datetime.date(2024, 1, 2), [1, 2])
    return tuple(row), await c.fetchval("select count(*) from people")


async def prepared(c: asyncpg.Connection) -> Any:
    statement = await c.prepare("select name from people where id = $1")
    names = [await statement.fetchval(i) for i in range(1, 6)]
    again = [await c.fetchval("select $1::int + 1", i) for i in range(20)]
    return names, again, [attribute.name for attribute in statement.get_attributes()]


async def transactions(c: asyncpg.Connection) -> Any:
    answers: list[Any] = []
    try:
        async with c.transaction():
            await c.execute("insert into scratch values (910, 'a')")
            answers.append(await c.fetchval("select count(*) from scratch where a = 910"))
            raise ValueError("undo")
    except ValueError:
        answers.append(await c.fetchval("select count(*) from scratch where a = 910"))
    return answers


async def cursors(c: asyncpg.Connection) -> Any:
    async with c.transaction():
        return [row[0] async for row in c.cursor("select generate_series(1, 300)", prefetch=20)]


async def batches(c: asyncpg.Connection) -> Any:
    transaction = c.transaction()
    await transaction.start()
    await c.executemany("insert into scratch values ($1, $2)", [(3000 + i, "m") for i in range(300)])
    found = await c.fetchrow("select count(*), sum(a) from scratch where a >= 3000")
    await transaction.rollback()
    return tuple(found)


async def copies(c: asyncpg.Connection) -> Any:
    transaction = c.transaction()
    await transaction.start()
    tag = await c.copy_records_to_table("scratch", records=[(4000 + i, "c") for i in range(300)])
    found = await c.fetchval("select sum(a) from scratch where a >= 4000")
    await transaction.rollback()
    return tag, found


async def errors(c: asyncpg.Connection) -> Any:
    told = []
    for broken in ("selct 1", "select * from nowhere", "select 1/0"):
        try:
            await c.fetch(broken)
        except asyncpg.PostgresError as error:
            told.append((error.sqlstate, str(error)))
    return told, await c.fetchval("select 'alive'")


async def changed_schema(c: asyncpg.Connection) -> Any:
    await c.execute("create table if not exists reshaped (a int)")
    try:
        await c.fetch("select * from reshaped")
        await c.execute("alter table reshaped add column b text default 'new'")
        await c.execute("insert into reshaped values (1)")
        return [tuple(row) for row in await c.fetch("select a, b from reshaped")]
    finally:
        await c.execute("drop table reshaped")


async def timeouts(c: asyncpg.Connection) -> Any:
    try:
        await c.fetchval("select pg_sleep(10)", timeout=0.2)
    except TimeoutError:
        return await c.fetchval("select 'alive'")


PROGRAMS: list[Program] = [
    basics, prepared, transactions, cursors, batches, copies, errors, changed_schema, timeouts,
]  # fmt: skip


async def run(program: Program, target: Target) -> Any:
    connection = await asyncpg.connect(**target.asyncpg())
    try:
        return await program(connection)
    finally:
        await connection.close()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_an_asyncpg_program_gives_the_same_answers(program: Program, shared: Forebay, direct: Target) -> None:
    """No statement_cache_size=0 is needed."""
    assert asyncio.run(run(program, shared.target)) == asyncio.run(run(program, direct))


def test_a_pool_of_asyncpg_works(shared: Forebay) -> None:
    """Its pool resets a connection with several statements when it is given back."""

    async def work() -> list[int]:
        async with asyncpg.create_pool(**shared.target.at(dbname="wide").asyncpg(), min_size=2, max_size=8) as pool:
            return list(await asyncio.gather(*(pool.fetchval("select $1::int", i) for i in range(100))))

    assert asyncio.run(work()) == list(range(100))
