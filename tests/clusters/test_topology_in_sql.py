"""Topology out of SQL functions of Amazon's, which a PostgreSQL here has under the same names and with their columns.

No Aurora runs here: what the functions return is what Amazon's user guides say of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import psycopg
import pytest
from forebay.config import load_text
from forebay.config.secret import Secret
from forebay.control.discover import registry
from forebay.control.discover.asking import Asking
from forebay.control.discover.member import Member, Role, Sighting, SourceFailed
from forebay.control.discover.registration import Means, Query

from tests.harness.postgres import Postgres, free_port

T = TypeVar("T")

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
    """One of its own with these functions, and a connection to it."""
    with server.target.connect(user="postgres", autocommit=True) as admin:
        admin.execute(f"create database {name}")  # type: ignore[arg-type]
        try:
            dsn = server.target.dsn(user="postgres", dbname=name)
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
                if sql:
                    await connection.execute(sql)  # type: ignore[arg-type]
                yield connection
        finally:
            admin.execute(f"drop database {name} with (force)")  # type: ignore[arg-type]


async def look(*endpoints: str, dbname: str, cluster: str = CLUSTER, user: str = "postgres", **more: Any) -> Sighting:
    """One look at a cluster by the way of these servers, in turn."""
    config = load_text(
        f"[databases.app]\nendpoints = ['{endpoints[0]}']\ndbname = '{dbname}'\ntopology = 'aurora'\n"
        f"topology_source = '{cluster}'\npoll_user = '{user}'\ntls.mode = 'disable'\n[users.{user}]\n",
        environ={},
    ).config
    assert config is not None
    (topology,) = config.topologies
    source = registry.build(cluster, Means(servers=lambda: Asking(replace(topology, **more), lambda: endpoints)))
    try:
        return await source.look()
    finally:
        await source.close()


def at(server: Postgres) -> str:
    """Its endpoint."""
    return f"127.0.0.1:{server.port}"


def test_aurora_tells_its_writer_and_its_readers(server: Postgres) -> None:
    """Writes go to the writer; a reader that was deleted is asked no more."""

    async def story() -> None:
        async with database(server, "like_aurora", AURORA + PLANTED) as connection:
            seen = await look(at(server), dbname="like_aurora")
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
            assert seen.asked == at(server)
            failing_over = (
                "update told set session_id = case server_id when 'shop-1' then 'x' else 'MASTER_SESSION_ID' end, "
                "last_update_timestamp = now() where server_id in ('shop-1', 'shop-2')"
            )
            await connection.execute(failing_over)
            seen = await look(at(server), dbname="like_aurora", cluster=f"{CLUSTER}:6000?members=*.db.example.com")
            assert [(each.host, each.port) for each in seen.primaries] == [("shop-2.db.example.com", 6000)]
            seen = await look(at(server), dbname="like_aurora", cluster="aurora://db?members=a-*:7000")
            assert [(each.host, each.port) for each in seen.primaries] == [("a-shop-2", 7000)]

    asyncio.run(story())


def test_a_multi_az_cluster_tells_its_writer_from_either_side(server: Postgres) -> None:
    """The function that names the writer has nothing to say at the writer itself."""
    change = """
    create or replace function rds_tools.multi_az_db_cluster_source_dbi_resource_id() returns text
      language sql as $$select 'db-B'$$"""

    async def story() -> None:
        async with database(server, "like_rds", RDS) as connection:
            roles = {each.name: each.role for each in (await look(at(server), dbname="like_rds")).members}
            assert roles == {"db-A": Role.PRIMARY, "db-B": Role.REPLICA}
            await connection.execute(change)
            seen = await look(at(server), dbname="like_rds")
            assert seen.primaries == (
                Member(host=f"shop-2.{SUFFIX}", port=5433, role=Role.PRIMARY, source="aurora", name="db-B"),
            )
            seen = await look(at(server), dbname="like_rds", cluster=f"{CLUSTER}?members=*.db.example.com")
            assert [(each.host, each.port) for each in seen.primaries] == [("shop-2.db.example.com", 5433)]

    asyncio.run(story())


def test_a_server_that_is_not_amazons_or_fails_is_told(server: Postgres) -> None:
    """With what to do about it."""
    broken = "create function pg_catalog.aurora_replica_status() returns text language sql as $$select 'x'$$"
    gone = f"127.0.0.1:{free_port()}"

    async def story() -> None:
        async with database(server, "like_none", "") as connection:
            with pytest.raises(SourceFailed, match="neither Aurora's nor of a Multi-AZ cluster") as failed:
                await look(at(server), dbname="like_none")
            assert "CREATE EXTENSION rds_tools" in str(failed.value.hint)
            await connection.execute(broken)
            with pytest.raises(SourceFailed, match=rf'{at(server)}: column "server_id" does not exist'):
                await look(at(server), dbname="like_none", cluster=f"aurora://{gone}?members=*")
            with pytest.raises(SourceFailed, match=f"the cluster gave no answer .*{gone}: .*refused"):
                await look(gone, dbname="like_none", cluster=f"aurora://{gone}?members=*")
            with pytest.raises(SourceFailed, match="password authentication failed") as failed:
                await look(at(server), dbname="like_none", cluster=f"aurora://{at(server)}?members=*", user="lookup",
                           secret=Secret("wrong"))  # fmt: skip
            assert "Check poll_user" in str(failed.value.hint)

    asyncio.run(story())


def test_who_may_not_ask_is_told_what_to_grant(server: Postgres) -> None:
    """Amazon's extension is for nobody but administrators until it is granted."""

    async def story() -> None:
        async with database(server, "like_granted", RDS) as connection:
            cluster = f"aurora://{at(server)}?members=*"
            with pytest.raises(SourceFailed, match="permission denied for schema rds_tools") as failed:
                await look(at(server), dbname="like_granted", cluster=cluster, user="app")
            assert "GRANT USAGE ON SCHEMA rds_tools" in str(failed.value.hint)
            await connection.execute("grant usage on schema rds_tools to app")
            assert len((await look(at(server), dbname="like_granted", cluster=cluster, user="app")).members) == 2

    asyncio.run(story())


def test_a_lost_writer_blinds_nobody(server: Postgres) -> None:
    """Another member answers, and one that says nothing is not waited for until its time is over."""

    async def story() -> None:
        async with database(server, "like_half", RDS):
            # Connections are taken, and nothing is ever said.
            with socket.create_server(("127.0.0.1", 0)) as silent:
                mute, gone = f"127.0.0.1:{silent.getsockname()[1]}", f"127.0.0.1:{free_port()}"
                seen = await look(gone, mute, at(server), dbname="like_half", timeout_s=30.0)
                assert seen.asked == at(server)
                with pytest.raises(SourceFailed, match=rf"{mute}: no answer within 0\.1 s"):
                    await look(mute, dbname="like_half", cluster=f"aurora://{mute}?members=*", timeout_s=0.1)

    asyncio.run(story())


def test_rows_of_another_form_are_no_topology() -> None:
    """Whatever a server says to the question."""

    class Other:
        async def ask(self, question: Callable[[Query], Awaitable[T]], beside: str) -> tuple[str, T]:
            async def query(_: str) -> Sequence[Sequence[Any]]:
                return [("one",)]

            return beside, await question(query)

        def close(self) -> None: ...

    async def story() -> None:
        with pytest.raises(SourceFailed, match="rows of another form"):
            await registry.build(CLUSTER, Means(servers=Other)).look()

    asyncio.run(story())
