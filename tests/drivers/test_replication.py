"""Programs that replicate, through forebay: the same streams as from the server, while others write through it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extras
import pytest

from tests.conftest import Start
from tests.harness import account, postgres
from tests.harness.certificates import Authority, Pair
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres, free_port
from tests.harness.target import Target

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

# Programs for physical replication ask for a database of this name; it leads to the same server.
DATABASES: dict[str, dict[str, Any]] = {"app": {"pool_size": 3}, "replication": {"pool_size": 1}}
WAIT_S = 90.0


@pytest.fixture(scope="module", params=[15, 18])
def publisher(request: pytest.FixtureRequest, authority: Authority) -> Iterator[Postgres]:
    """A server that logs enough for logical decoding, with pgbench's tables."""
    # What is not flushed is neither streamed nor told to the witness.
    settings = {"wal_level": "logical", "wal_keep_size": "1GB", "synchronous_commit": "on"}
    with postgres.running(request.param, authority, **settings) as running:
        run(running, "pgbench", "-i", "-q", "-s", "1", running.target.at(dbname="app").dsn())
        yield running


@pytest.fixture(params=["plain", "tls"])
def pooled(
    request: pytest.FixtureRequest, publisher: Postgres, start: Start, variant: Variant, tls: tuple[Pair, object]
) -> Target:
    """forebay in front of it, with TLS on both sides or on none."""
    return begin(publisher, start, variant, tls[0] if request.param == "tls" else None)


def begin(publisher: Postgres, start: Start, variant: Variant, pair: Pair | None) -> Target:
    listen = {"tls.certificate": pair.certificate, "tls.key": pair.key, "tls.mode": "require"} if pair else {}
    defaults = {"tls.mode": "require" if pair else "disable"}
    sections = configuration(publisher, variant, databases=DATABASES, listen=listen, server_defaults=defaults)
    return start(sections).target.at(user="postgres", name="tls" if pair else "plain")


def dsn(target: Target, **options: Any) -> str:
    if target.name == "tls":
        # Servers run as a user who may not look for a certificate in the home folder of the one who started them.
        return target.dsn(sslmode="require", sslcert="/nonexistent", **options)
    return target.dsn(**options)


def run(server: Postgres, program: str, *arguments: str) -> str:
    done = subprocess.run(
        [server.programs.path(program), *arguments], capture_output=True, text=True, timeout=100,
        env=server.programs.environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextlib.contextmanager
def running(server: Postgres, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A program that goes on until it is told to end, as its users end it."""
    process = subprocess.Popen(
        [server.programs.path(program), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=server.programs.environment,
    )  # fmt: skip
    try:
        yield process
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 0, said
    finally:
        process.kill()
        process.communicate()


def admin(server: Postgres, sql: str) -> Any:
    with server.target.connect(user="postgres", dbname="app", autocommit=True) as connection:
        cursor = connection.execute(sql)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def bench(server: Postgres, target: Target, transactions: int) -> None:
    """Writes through the pool in transaction mode, from more clients than it has servers."""
    run(server, "pgbench", "-n", "-c", "6", "-t", str(transactions // 6), dsn(target))


def test_pg_receivewal_writes_what_the_server_wrote(publisher: Postgres, pooled: Target, tmp_path: Path) -> None:
    """A segment that differs by one byte ends a recovery there."""
    arguments = ["-D", str(tmp_path), "-d", dsn(pooled), "--no-loop", "--synchronous", "-S", "receiver"]
    run(publisher, "pg_receivewal", *arguments, "--create-slot")
    try:
        with running(publisher, "pg_receivewal", *arguments):
            slot = "select active from pg_replication_slots where slot_name = 'receiver'"
            until(lambda: admin(publisher, slot) == [(True,)], within_s=WAIT_S, what="it streams")
            bench(publisher, pooled, 300)
            ((segment,),) = admin(publisher, "select pg_walfile_name(pg_switch_wal())")
            received = tmp_path / segment
            until(received.exists, within_s=WAIT_S, what="a whole segment has come")
        ours = received.read_bytes()
        assert ours == (publisher.folder / "data" / "pg_wal" / segment).read_bytes()
    finally:
        drop_slot(publisher, "receiver")


def drop_slot(server: Postgres, name: str) -> None:
    """As soon as nobody uses it: a server sees late that its client has left."""
    find = f"select active from pg_replication_slots where slot_name = '{name}'"
    until(lambda: (True,) not in admin(server, find), within_s=WAIT_S, what=f"slot {name} is free")
    admin(server, f"select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{name}'")


def test_a_base_backup_becomes_a_standby_that_follows(
    publisher: Postgres, pooled: Target, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Backup and stream both come through forebay; the standby is known to the server by its own name."""
    folder = Path(publisher.folder.parent) / f"standby-{pooled.port}"
    folder.mkdir()
    data = folder / "data"
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            bench(publisher, pooled, 60)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        name = dsn(pooled, application_name="follower")
        run(publisher, "pg_basebackup", "-D", str(data), "-d", name, "-c", "fast", "-X", "stream", "-R")
    finally:
        stop.set()
        writer.join()
    run(publisher, "pg_verifybackup", str(data))
    standby = Postgres(publisher.programs, folder, free_port(), authority)
    with (data / "postgresql.conf").open("a") as conf:
        conf.write(f"port = {standby.port}\nunix_socket_directories = '{folder}'\n")
    for path in (folder, *folder.rglob("*")):
        account.give(path)
    standby.start()
    try:
        following = "select state from pg_stat_replication where application_name = 'follower'"
        until(lambda: admin(publisher, following) == [("streaming",)], within_s=WAIT_S, what="the standby streams")
        bench(publisher, pooled, 120)
        sums = "select sum(abalance), count(*) from pgbench_accounts"
        until(lambda: admin(standby, sums) == admin(publisher, sums), within_s=WAIT_S, what="the standby has all of it")
    finally:
        standby.stop(signal.SIGQUIT)


def test_pg_recvlogical_decodes_every_change(publisher: Postgres, pooled: Target, tmp_path: Path) -> None:
    """The stream through forebay is what the server itself tells of the same changes."""
    out = tmp_path / "changes"
    arguments = ["-d", dsn(pooled), "-S", "decoder"]
    plugin = ["-P", "test_decoding", "-o", "skip-empty-xacts=1", "-o", "include-xids=0"]
    run(publisher, "pg_recvlogical", *arguments, "--create-slot", "-P", "test_decoding")
    admin(publisher, "select pg_create_logical_replication_slot('witness', 'test_decoding')")
    try:
        with running(publisher, "pg_recvlogical", *arguments, *plugin, "--start", "-f", str(out), "-F", "0"):
            bench(publisher, pooled, 300)
            told = witnessed(publisher)
            assert len(told) >= 300 * 6
            until(lambda: out.exists() and len(lines(out)) >= len(told), within_s=WAIT_S, what="all changes have come")
        assert lines(out) == told
    finally:
        drop_slot(publisher, "decoder")
        drop_slot(publisher, "witness")


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def witnessed(server: Postgres) -> list[str]:
    """What the server itself tells of all changes since the slot was made."""
    options = "'skip-empty-xacts', '1', 'include-xids', '0'"
    rows = admin(server, f"select data from pg_logical_slot_peek_changes('witness', null, null, {options})")
    return [data for (data,) in rows]


def test_psycopg2_streams_while_others_write(publisher: Postgres, pooled: Target) -> None:
    """Both directions at once: its confirmations reach the server, which lets go of what was confirmed."""
    factory = psycopg2.extras.LogicalReplicationConnection
    connection = psycopg2.connect(dsn(pooled, application_name="streamer"), connection_factory=factory)
    cursor = connection.cursor()
    cursor.execute("IDENTIFY_SYSTEM")
    assert cursor.fetchall()[0][3] == "app"
    cursor.create_replication_slot("streamer", output_plugin="test_decoding")
    admin(publisher, "select pg_create_logical_replication_slot('witness', 'test_decoding')")
    try:
        confirmed = "select confirmed_flush_lsn from pg_replication_slots where slot_name = 'streamer'"
        before = admin(publisher, confirmed)
        options = {"skip-empty-xacts": 1, "include-xids": 0}
        cursor.start_replication(slot_name="streamer", decode=True, options=options)
        writer = threading.Thread(target=bench, args=(publisher, pooled, 300))
        writer.start()
        received: list[str] = []

        def take() -> bool:
            while message := cursor.read_message():
                received.append(message.payload)
                message.cursor.send_feedback(flush_lsn=message.data_start, force=True)
            return not writer.is_alive() and len(received) >= len(witnessed(publisher))

        until(take, within_s=WAIT_S, what="all changes have come")
        writer.join()
        assert received == witnessed(publisher)
        until(lambda: admin(publisher, confirmed) != before, within_s=WAIT_S, what="what it confirmed is known")
    finally:
        connection.close()
        drop_slot(publisher, "streamer")
        drop_slot(publisher, "witness")


def test_a_subscription_copies_and_follows(publisher: Postgres, pooled: Target, server: Postgres) -> None:
    """PostgreSQL's own subscriber: it copies the table by COPY within a snapshot, then streams."""
    admin(publisher, "create publication everything for table pgbench_accounts")
    here = server.target.at(dbname="elsewhere", user="postgres")

    def ask(sql: str) -> Any:
        with here.connect(autocommit=True) as connection:
            cursor = connection.execute(sql)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    ask("create table pgbench_accounts (aid int primary key, bid int, abalance int, filler char(84))")
    ask(f"create subscription ours connection '{dsn(pooled)}' publication everything")
    try:
        sums = "select sum(abalance), count(*) from pgbench_accounts"

        def is_equal() -> bool:
            return bool(ask(sums) == admin(publisher, sums))

        until(is_equal, within_s=WAIT_S, what="the table is copied")
        bench(publisher, pooled, 300)
        until(is_equal, within_s=WAIT_S, what="the changes have followed")
    finally:
        ask("drop subscription ours")
        ask("drop table pgbench_accounts")
        admin(publisher, "drop publication everything")


Check = Callable[[], bool]


def test_what_replicates_is_shown_and_leaves_nothing(
    publisher: Postgres, start: Start, variant: Variant, tmp_path: Path
) -> None:
    """A server of its own, beside the pool, gone with its client."""
    sections = configuration(publisher, variant, databases=DATABASES)
    forebay: Forebay = start(sections)
    target = forebay.target.at(user="postgres")
    arguments = ["-d", dsn(target), "-S", "shown"]
    run(publisher, "pg_recvlogical", *arguments, "--create-slot", "-P", "test_decoding")
    try:
        with running(publisher, "pg_recvlogical", *arguments, "--start", "-f", str(tmp_path / "out")):
            active = "select active from pg_replication_slots where slot_name = 'shown'"
            until(lambda: admin(publisher, active) == [(True,)], within_s=WAIT_S, what="it streams")
            for table in ("clients", "servers"):
                kinds = [row["replication"] for row in forebay.console(f"show {table}") if row["database"] == "app"]
                assert kinds == ["logical"], table
            (pool,) = [row for row in forebay.console("show pools") if row["database"] == "app"]
            assert (pool["pool_mode"], pool["cl_active"], pool["sv_active"]) == ("replication", "1", "1")
        none_left: Check = lambda: forebay.console("show servers") == []  # noqa: E731
        until(none_left, within_s=10, what="its server has left")
        assert [row["current_connections"] for row in forebay.console("show databases")] == ["0", "0"]
    finally:
        drop_slot(publisher, "shown")
