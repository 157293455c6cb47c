"""Topology out of SQL functions of Amazon's, which a PostgreSQL here has under the same names and with their columns.

No Aurora runs here: what the functions return is what Amazon's user guides say of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg
import pytest
from forebay.control.discover import registry
from forebay.control.discover.member import Member, Role, Sighting, SourceFailed
from forebay.control.discover.registration import Means

from tests.harness.postgres import Postgres

CLUSTER = "aurora://shop.cluster-abc123.eu-west-1.rds.amazonaws.com"
SUFFIX = "abc123.eu-west-1.rds.amazonaws.com"
# The server asked, as of 13.9, has no time of its own; one that was deleted is listed for a while.
AURORA = """
create table public.told (server_id text, session_id text, durable_lsn bigint, highest_lsn_rcvd bigint,
  current_read_lsn bigint, last_update_timestamp timestamptz, replica_lag_in_msec float4);
insert into public.told values
  ('shop-1', 'MASTER_SESSION_ID', 900, null, null, now() - '1 hour'::interval, null),
  ('shop-2', '3c6b1d2e', 900, 890, 880, now(), 12.5),
  ('shop-3', '9f0a7711', 900, 850, 840, null, 40),
  ('shop-4', '11aa22bb', 100, 100, 100, now() - '1 day'::interval, 0);
create function pg_catalog.aurora_replica_status() returns setof public.told language sql as 'table public.told';
"""
RDS = """
create schema rds_tools;
create function rds_tools.show_topology(caller text default 'x') returns table (id text, endpoint text, port int)
  language sql as $$values ('db-A', 'shop-1.abc123.eu-west-1.rds.amazonaws.com', 5432),
                           ('db-B', 'shop-2.abc123.eu-west-1.rds.amazonaws.com', 5433)$$;
create function rds_tools.dbi_resource_id() returns text language sql as $$select 'db-A'$$;
create function rds_tools.multi_az_db_cluster_source_dbi_resource_id() returns text
  language sql as $$select null::text$$;
"""
# A function that is in the way of the true one, as any user may make it.
PLANTED = "create function public.aurora_replica_status() returns setof text language sql as $$select 'evil'$$;"


@contextlib.asynccontextmanager
async def database(server: Postgres, name: str, sql: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """One of its own with these functions, and a control connection to it."""
    with server.target.connect(user="postgres", autocommit=True) as admin:
        admin.execute(f"create database {name}")  # type: ignore[arg-type]
        try:
            options = {"user": "postgres", "dbname": name, "options": "-csearch_path=pg_catalog,pg_temp"}
            dsn = server.target.dsn(**options)
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
                if sql:
                    await connection.execute(sql)  # type: ignore[arg-type]
                yield connection
        finally:
            admin.execute(f"drop database {name} with (force)")  # type: ignore[arg-type]


async def look(connection: psycopg.AsyncConnection[Any]) -> Sighting:
    """One look through the connection."""

    async def query(sql: str) -> Sequence[Sequence[Any]]:
        return await (await connection.execute(sql)).fetchall()  # type: ignore[arg-type]

    return await registry.build(CLUSTER, Means(query=query)).look()


def test_aurora_tells_its_writer_and_its_readers(server: Postgres) -> None:
    """Writes go to the writer; a reader that was deleted is asked no more."""

    async def story() -> None:
        async with database(server, "like_aurora", AURORA + PLANTED) as connection:
            seen = await look(connection)
            assert seen.members == (
                Member(host=f"shop-1.{SUFFIX}", port=5432, role=Role.PRIMARY, source="aurora", name="shop-1", lsn=900),
                Member(
                    host=f"shop-2.{SUFFIX}", port=5432, role=Role.REPLICA, source="aurora", name="shop-2",
                    lsn=880, lag_s=0.0125,
                ),
                Member(
                    host=f"shop-3.{SUFFIX}", port=5432, role=Role.REPLICA, source="aurora", name="shop-3",
                    lsn=840, lag_s=0.04,
                ),
            )  # fmt: skip
            assert seen.asked == "shop.cluster-abc123.eu-west-1.rds.amazonaws.com:5432"
            failing_over = (
                "update told set session_id = case server_id when 'shop-1' then 'x' else 'MASTER_SESSION_ID' end, "
                "last_update_timestamp = now() where server_id in ('shop-1', 'shop-2')"
            )
            await connection.execute("set search_path = public")
            await connection.execute(failing_over)
            await connection.execute("set search_path = pg_catalog, pg_temp")
            assert [each.name for each in (await look(connection)).primaries] == ["shop-2"]

    asyncio.run(story())


def test_a_multi_az_cluster_tells_its_writer_from_either_side(server: Postgres) -> None:
    """The function that names the writer has nothing to say at the writer itself."""
    change = """
    create or replace function rds_tools.multi_az_db_cluster_source_dbi_resource_id() returns text
      language sql as $$select 'db-B'$$"""

    async def story() -> None:
        async with database(server, "like_rds", RDS) as connection:
            roles = {each.name: each.role for each in (await look(connection)).members}
            assert roles == {"db-A": Role.PRIMARY, "db-B": Role.REPLICA}
            await connection.execute(change)
            seen = await look(connection)
            assert seen.primaries == (
                Member(host=f"shop-2.{SUFFIX}", port=5433, role=Role.PRIMARY, source="aurora", name="db-B"),
            )

    asyncio.run(story())


def test_a_server_that_is_not_amazons_or_fails_is_told(server: Postgres) -> None:
    """In words that hold nothing of the connection."""
    broken = "create function pg_catalog.aurora_replica_status() returns text language sql as $$select 'x'$$"

    async def story() -> None:
        async with database(server, "like_none", "") as connection:
            with pytest.raises(SourceFailed, match="neither Aurora's nor of a Multi-AZ cluster") as failed:
                await look(connection)
            assert "CREATE EXTENSION rds_tools" in str(failed.value.hint)
            await connection.execute(broken)
            with pytest.raises(SourceFailed, match=r"could not be asked \(UndefinedColumn 42703\)"):
                await look(connection)
            await connection.close()
            with pytest.raises(SourceFailed, match=r"could not be asked \(OperationalError\)"):
                await look(connection)

    asyncio.run(story())


def test_a_server_that_says_nothing_costs_the_timeout() -> None:
    """And rows of another form are no topology."""

    async def silent(_: str) -> Sequence[Sequence[Any]]:
        await asyncio.Event().wait()
        raise AssertionError

    async def other(_: str) -> Sequence[Sequence[Any]]:
        return [("one",)]

    async def story() -> None:
        with pytest.raises(SourceFailed, match=r"gave no answer within 0\.1 s"):
            await registry.build(CLUSTER, Means(query=silent, timeout_s=0.1)).look()
        with pytest.raises(SourceFailed, match="rows of another form"):
            await registry.build(CLUSTER, Means(query=other)).look()

    asyncio.run(story())
