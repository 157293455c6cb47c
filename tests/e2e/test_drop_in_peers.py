"""`forebay-pgbouncer` beside PgBouncer itself, as peers: each passes on what is the other's."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.harness import account, drop_in
from tests.harness.deadline import until
from tests.harness.drop_in import Make
from tests.harness.postgres import Postgres, free_port
from tests.harness.target import Target
from tests.harness.wire import Wire, cancel, query

# A real one to run beside it; on PATH, or named by the environment.
PGBOUNCER = os.environ.get("PGBOUNCER") or shutil.which("pgbouncer")


@pytest.fixture
def make(server: Postgres) -> Iterator[Make]:
    with drop_in.maker(server) as make:
        yield make


@contextlib.contextmanager
def pgbouncer(server: Postgres, own: int, peers: str) -> Iterator[Target]:
    """A PgBouncer with this peer_id and these lines of [peers]."""
    port = free_port()
    with drop_in.folder() as folder:
        path, users, log = (folder / name for name in ("pgbouncer.ini", "users.txt", "log"))
        users.write_text('"app" ""\n')
        path.write_text(
            f"[databases]\napp = host=127.0.0.1 port={server.port} dbname=app\n[peers]\n{peers}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n"
            f"auth_file = {users}\npool_mode = transaction\npeer_id = {own}\nlogfile = {log}\n"
        )
        account.give(path)
        account.give(users)
        assert PGBOUNCER is not None, "there is no pgbouncer: PGBOUNCER names one"
        process = subprocess.Popen([PGBOUNCER, "-q", str(path)], **account.process_options())
        try:
            until(lambda: log.exists() and "process up" in log.read_text(), within_s=10, what="PgBouncer is up")
            yield Target("pgbouncer", "127.0.0.1", port)
        finally:
            process.terminate()
            process.wait(10)


def is_cancelled_through(client: Wire, way: Target, direct: Target) -> bool:
    """Whether a cancel of a client's query arrives that is sent to a pooler."""
    client.send(query("select pg_sleep(30)"))
    sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and usename = 'app'"
    with direct.wire() as watcher:
        until(lambda: watcher.value(sleeping) == "1", within_s=10, what="it sleeps")
    with way.dial() as canceller:
        canceller.send(cancel(*client.key))
        assert canceller.ends()
    return [frame.fields["C"] for frame in client.ready() if frame.tag == "E"] == ["57014"]


@pytest.mark.slow
def test_pgbouncer_and_forebay_pass_cancels_on_to_each_other(make: Make, server: Postgres, direct: Target) -> None:
    """A fleet is changed over process by process."""
    port = free_port()
    with pgbouncer(server, 9, f"300 = host=127.0.0.1 port={port}") as theirs:
        ours = make(peer_id="300")
        ours.port = port
        ours.write()
        ours.path.write_text(ours.path.read_text() + f"[peers]\n9 = host=127.0.0.1 port={theirs.port}\n")
        ours.start()
        with theirs.wire() as of_theirs, ours.target.wire() as of_ours:
            assert is_cancelled_through(of_theirs, ours.target, direct), "theirs, through us"
            assert is_cancelled_through(of_ours, theirs, direct), "ours, through them"
            assert is_cancelled_through(of_ours, ours.target, direct)


def test_two_that_share_a_port_pass_cancels_on(make: Make, direct: Target) -> None:
    """so_reuseport: whichever the system hands the request to, it arrives; over Unix sockets as well as over TCP."""
    first, second = make(so_reuseport="1"), make(so_reuseport="1")
    second.port = first.port
    for own, running, other in ((1, first, second), (2, second, first)):
        running.write(peer_id=str(own))
        peer = f"{3 - own} = host={other.folder} port={other.port}"
        running.path.write_text(f"{running.path.read_text()}[peers]\n{peer}\n")
        running.start()
    assert first.console("SHOW PEERS")
    for running in (first, second):
        with running.target.at(host=str(running.folder)).wire() as client:
            assert {is_cancelled_through(client, first.target, direct) for _ in range(5)} == {True}
