"""Amazon's clusters behind a running forebay: the servers are PostgreSQL's, with Amazon's functions made in SQL.

No server of Amazon's runs here. Those that stand for Aurora's refuse what Aurora refuses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.clusters.conftest import Trio
from tests.conftest import Start
from tests.harness import postgres
from tests.harness.certificates import Authority
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres, free_port
from tests.harness.standby import caught_up, standby_of
from tests.harness.toxi import Toxi

# Members are 127.0.0.1 and so on, by the first word of what Amazon calls them.
SOURCE = "aurora://shop.cluster-abc123.eu-west-1.rds.amazonaws.com?members=127.0.0.*"
MULTI_AZ = """
create schema rds_tools;
grant usage on schema rds_tools to app;
create function rds_tools.show_topology(caller text default 'x') returns table (id text, endpoint text, port int)
  language sql as $$values {members}$$;
create function rds_tools.dbi_resource_id() returns text language sql as $$select 'db-' || current_setting('port')$$;
create function rds_tools.multi_az_db_cluster_source_dbi_resource_id() returns text language sql security definer
  as $$select case when pg_is_in_recovery()
    then 'db-' || substring(current_setting('primary_conninfo') from 'port=''?([0-9]+)') end$$;
"""
AURORA = """
create table public.told (server_id text, session_id text, durable_lsn bigint, current_read_lsn bigint,
  last_update_timestamp timestamptz, replica_lag_in_msec float4);
grant select on public.told to app;
insert into public.told values ('1', 'MASTER_SESSION_ID', 900, null, null, null), ('2', '3c6b', 900, 880, null, 12.5);
create function pg_catalog.aurora_replica_status() returns setof public.told language sql as 'table public.told';
revoke execute on function pg_current_wal_lsn(), pg_current_wal_insert_lsn(), pg_last_wal_replay_lsn(),
  pg_control_checkpoint(), pg_control_recovery(), pg_control_system(), pg_control_init(),
  pg_logical_emit_message(boolean, text, text, boolean) from public;
revoke select on pg_stat_wal_receiver from public;
"""


def execute(server: Postgres, sql: str) -> None:
    """As Amazon would."""
    with server.target.connect(user="postgres", dbname="app", autocommit=True) as admin:
        admin.execute(sql.encode())


def roles(forebay: Forebay, database: str = "app") -> dict[str, str]:
    """SHOW ENDPOINTS."""
    rows = forebay.console("show endpoints")
    return {str(row["endpoint"]): str(row["role"]) for row in rows if row["database"] == database}


def are(forebay: Forebay, **expected: str) -> None:
    """Waits until these are roles of endpoints, p12001 for 127.0.0.1:12001 and h2 for 127.0.0.2."""

    def found() -> dict[str, str]:
        by_name = {}
        for endpoint, role in roles(forebay).items():
            host, _, port = endpoint.rpartition(":")
            by_name |= {f"p{port}": role, f"h{host.rpartition('.')[2]}": role}
        return {name: by_name.get(name, "none") for name in expected}

    until(lambda: found() == expected, within_s=40, what=f"endpoints are {expected}")


def promote(server: Postgres) -> None:
    """Makes it the writer."""
    with server.target.connect(user="postgres", autocommit=True) as admin:
        assert admin.execute("select pg_promote()").fetchone() == (True,)


@pytest.mark.variants("epoll-2")
def test_a_multi_az_cluster_is_followed_through_the_loss_of_its_writer(
    trio: Trio, variant: Variant, start: Start
) -> None:
    """One address is enough: members are told, and whoever is left tells of the next writer."""
    primary = trio[0]
    # The one that is asked before the new writer, where all else is equal, goes on after the lost one, and names that.
    stale, heir = sorted(trio[1:], key=lambda one: str(one.port))
    ports = [one.port for one in (primary, stale, heir)]
    members = ", ".join(f"('db-{port}', '1.abc123.eu-west-1.rds.amazonaws.com', {port})" for port in ports)
    execute(primary, MULTI_AZ.format(members=members))
    for each in (stale, heir):
        caught_up(primary, each)
    database = {
        "endpoints": [f"127.0.0.1:{primary.port}"], "topology": "aurora", "topology_source": SOURCE,
        "poll_user": "app", "server_check_delay": "0s",
    }  # fmt: skip
    forebay = start(configuration(primary, variant, databases={"app": database}))
    are(forebay, **{f"p{ports[0]}": "primary", f"p{ports[1]}": "replica", f"p{ports[2]}": "replica"})
    assert {row["source"] for row in forebay.console("show endpoints")} == {"aurora"}
    assert not forebay.events("topology_source_away")
    with forebay.target.connect(autocommit=True) as client:
        client.execute("insert into ledger values (1, 1)")
        caught_up(primary, heir)
        primary.kill()
        are(forebay, **{f"p{ports[0]}": "down", f"p{ports[1]}": "replica", f"p{ports[2]}": "replica"})
        promote(heir)
        client.execute("insert into ledger values (2, 1)")
        assert client.execute("select key from ledger order by 1").fetchall() == [(1,), (2,)]
    are(forebay, **{f"p{ports[0]}": "down", f"p{ports[2]}": "primary"})


@pytest.fixture
def aurora(authority: Authority) -> Iterator[tuple[Postgres, Postgres, int]]:
    """A writer and a reader that stand for Aurora's, at one port of 127.0.0.1 and of 127.0.0.2."""
    port = free_port()
    with postgres.running(18, authority) as writer, standby_of(writer) as reader:
        execute(writer, AURORA)
        caught_up(writer, reader)
        with Toxi(writer.port, port), Toxi(reader.port, port, "127.0.0.2"):
            yield writer, reader, port


@pytest.mark.variants("uring-1")
def test_aurora_is_followed_and_nobody_reads_less_than_they_wrote(
    aurora: tuple[Postgres, Postgres, int], variant: Variant, start: Start, tmp_path: Path
) -> None:
    """Its members tell no positions: who has written stays with the writer, and a new writer deposes nobody."""
    writer, reader, port = aurora
    database = {
        "endpoints": [f"127.0.0.1:{port}"], "topology": "aurora", "topology_source": f"{SOURCE}:{port}",
        "poll_user": "app", "read_write_split": True, "server_check_delay": "0s", "canary_interval": "100ms",
    }  # fmt: skip
    clusters, listen = {"file": str(tmp_path / "clusters.json")}, {"port": free_port(), "address": ["127.0.0.1"]}
    forebay = start(configuration(writer, variant, databases={"app": database}, clusters=clusters, listen=listen))
    are(forebay, h1="primary", h2="replica")
    for row in forebay.console("show endpoints"):
        assert (row["timeline"], row["lsn"], row["lag"], row["canary"], row["error"]) == (None,) * 5, row
        assert row["lag_ms"] == ("12" if str(row["endpoint"]).startswith("127.0.0.2:") else None)
    with contextlib.ExitStack() as stack:
        reading, writing = (stack.enter_context(forebay.target.connect(autocommit=True)) for _ in range(2))
        until(lambda: place(reading) == reader.port, within_s=20, what="reads go to the reader")
        writing.execute("insert into ledger values (1, 1)")
        # The reader is asked anew several times meanwhile.
        for _ in range(20):
            assert place(writing) == writer.port
            with contextlib.suppress(AssertionError):
                until(lambda: False, within_s=0.1, what="time passes")
        assert place(reading) == reader.port
        forebay.upgrade()
        assert [place(writing) for _ in range(20)] == [writer.port] * 20
        until(lambda: place(reading) == reader.port, within_s=20, what="reads go to the reader again")
        writing.execute("set forebay.read_consistency = 'eventual'")
        assert place(writing) == reader.port
        with (
            forebay.target.at(dbname="forebay", user="ops").connect(autocommit=True) as console,
            pytest.raises(psycopg.Error, match="Aurora changes its writer itself"),
        ):
            console.execute("switchover app")
        caught_up(writer, reader)
        writer.kill()
        are(forebay, h1="down", h2="replica")
        promote(reader)
        execute(reader, "update told set session_id = case server_id when '2' then 'MASTER_SESSION_ID' else 'x' end")
        are(forebay, h1="down", h2="primary")
        writing.execute("insert into ledger values (2, 1)")
        assert writing.execute("select key from ledger order by 1").fetchall() == [(1,), (2,)]
    assert not forebay.events("failover_loss_unknown")
    assert not forebay.events("canary_refused")


def place(client: psycopg.Connection[tuple[object, ...]]) -> int:
    """The port of the server that serves a read."""
    row = client.execute("select current_setting('port')::int").fetchone()
    assert row is not None
    return int(str(row[0]))
