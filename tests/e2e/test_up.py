"""`forebay up`: from nothing to a database one can use, and back."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.e2e.command import forebay, server_process, state_folder, up
from tests.harness.deadline import until
from tests.harness.postgres import Postgres
from tests.harness.processes import listening_sockets


@pytest.fixture
def state() -> Iterator[Path]:
    """A state folder that is removed at the end."""
    with state_folder() as folder:
        yield folder


def test_a_first_start_serves_and_a_second_finds_the_data(state: Path) -> None:
    """The README's first two minutes."""
    with up(state) as first:
        banner = first.text[first.text.index("forebay is up") :]
        assert len(banner[: banner.index("Ctrl-C")].splitlines()) < 10
        with psycopg.connect(first.dsn) as connection:
            connection.execute("create table kept (a int)")
            connection.execute("insert into kept values (7)")
        with urllib.request.urlopen(first.printed("metrics"), timeout=10) as metrics:
            assert b"forebay_" in metrics.read()
        with psycopg.connect(first.printed("console"), autocommit=True, cursor_factory=psycopg.ClientCursor) as console:
            assert "forebay" in str(console.execute("SHOW VERSION").fetchone())
        assert first.interrupt() == 0
        assert server_process(state) is None, "Ctrl-C stops the server too"
        assert "Traceback" not in first.text
    with up(state) as second, psycopg.connect(second.dsn) as connection:
        assert connection.execute("select a from kept").fetchall() == [(7,)]


def test_secrets_are_private_and_not_in_the_dsn(state: Path) -> None:
    """The DSN ends up in shell histories and issue reports."""
    with up(state) as running:
        password = (state / "password").read_text().strip()
        assert password not in running.text
        for name in ("password", "passfile"):
            assert stat.S_IMODE((state / name).stat().st_mode) == 0o600


def test_the_embedded_server_listens_on_no_network_address(state: Path) -> None:
    """A demo must not open a door."""
    with up(state):
        server = server_process(state)
        assert server is not None
        assert not listening_sockets(server)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root switches users")
def test_root_runs_the_server_as_another_user(state: Path) -> None:
    """PostgreSQL refuses to be root, and root's other files are none of its business."""
    state.parent.chmod(0o711)
    with up(state):
        server = server_process(state)
        assert server is not None
        assert Path(f"/proc/{server}").stat().st_uid != 0
    assert stat.S_IMODE(state.parent.stat().st_mode) == 0o711, "a folder that is not ours keeps its mode"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root switches users")
def test_a_folder_that_the_servers_user_cant_enter_is_refused(state: Path) -> None:
    """And not opened: it is private for a reason."""
    state.parent.chmod(0o700)
    done = forebay("up", "--port", "0", "--metrics-port", "0", "--data", str(state))
    assert done.returncode == 1
    assert f"may not enter {state.parent}" in done.stderr
    assert "hint:" in done.stderr
    assert stat.S_IMODE(state.parent.stat().st_mode) == 0o700


def test_a_kill_stops_the_server_too_and_the_next_start_finds_the_data(state: Path) -> None:
    """kill -9, or the out-of-memory killer: a server that nobody knows of would hold its memory for ever."""
    with up(state) as first:
        with psycopg.connect(first.dsn, autocommit=True) as connection:
            connection.execute("create table kept (a int)")
        assert server_process(state) is not None
        first.process.kill()
        first.process.wait()
        until(lambda: server_process(state) is None, within_s=30, what="the server stops when forebay is killed")
    assert "database system is shut down" in (state / "postgres.log").read_text(), "in order, with nothing to recover"
    with up(state) as second, psycopg.connect(second.dsn) as connection:
        assert connection.execute("select count(*) from kept").fetchone() == (0,)
        assert "left running" not in second.text


def test_a_start_right_after_a_kill_waits_for_the_server_that_still_stops(state: Path) -> None:
    """A supervisor restarts at once."""
    with up(state) as first:
        with psycopg.connect(first.dsn, autocommit=True) as connection:
            connection.execute("create table kept as select generate_series(1, 100000)")
        first.process.kill()
        first.process.wait()
        with up(state) as second, psycopg.connect(second.dsn) as connection:
            assert connection.execute("select count(*) from kept").fetchone() == (100000,)


def test_a_server_left_on_the_data_is_stopped_and_that_is_said(state: Path) -> None:
    """One that somebody has started by hand, or that outlived its forebay where Linux could not tell it."""
    with up(state) as first:
        server = server_process(state)
        assert server is not None
        command = Path(f"/proc/{server}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        owner = Path(f"/proc/{server}").stat()
        assert first.interrupt() == 0
    switch = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    with subprocess.Popen(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **switch) as left:
        # Once it has said so in its file, it takes part in who may use the data.
        pidfile = state / "postgres-18/postmaster.pid"
        until(lambda: pidfile.exists() and "ready" in pidfile.read_text(), within_s=30, what="it is there")
        with up(state) as second, psycopg.connect(second.dsn) as connection:
            assert left.wait(timeout=30) == 0
            assert server_process(state) != left.pid
            assert "left running on this data has been stopped" in second.text
            assert connection.execute("select 1").fetchone() == (1,)


def test_a_second_one_on_the_same_folder_is_refused(state: Path) -> None:
    """Two servers on one data folder would destroy it."""
    with up(state):
        done = forebay("up", "--port", "0", "--metrics-port", "0", "--data", str(state))
        assert done.returncode == 1
        assert "another `forebay up` is running" in done.stderr


def test_a_port_in_use_is_a_sentence_and_leaves_nothing_running(state: Path) -> None:
    """The commonest failure of all."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = forebay("up", "--port", str(port), "--metrics-port", "0", "--data", str(state))
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
    assert server_process(state) is None


def test_it_stands_before_an_existing_database(state: Path, server: Postgres) -> None:
    """`--server`: the DSN's role and password serve both sides."""
    target = server.target.at(user="scram_user", dbname="app", password="secret of scram_user")
    dsn = f"postgresql://{target.user}:secret%20of%20scram_user@{target.host}:{target.port}/app?sslmode=disable"
    with up(state, "--server", dsn) as running:
        assert "secret of" not in running.text
        with psycopg.connect(running.dsn) as connection:
            assert connection.execute("select current_user, current_database()").fetchone() == ("scram_user", "app")
        assert server_process(state) is None
        refused = running.dsn.partition("?")[0]
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(refused, password="wrong", passfile="/nonexistent").close()
        assert running.interrupt() == 0


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("scram_user:secret%20of%20scram_user", "scram_user:mistyped"), "password authentication failed"),
        (("scram_user:", "not_there:"), 'role "not_there" does not exist'),
        (("/app?", "/not_there?"), 'database "not_there" does not exist'),
    ],
)
def test_a_login_that_the_server_refuses_ends_it(
    wrong: tuple[str, str], told: str, state: Path, server: Postgres
) -> None:
    """It would say that it is up, and no client could do anything."""
    right = f"postgresql://scram_user:secret%20of%20scram_user@{server.target.host}:{server.target.port}/app?"
    done = forebay("up", "--port", "0", "--metrics-port", "0", "--data", str(state),
                   "--server", f"{right.replace(*wrong)}sslmode=disable")  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "does not let forebay in" in done.stderr
    assert told in done.stderr
    assert "hint:" in done.stderr
    assert "forebay is up" not in done.stdout
    assert "mistyped" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_cant_be_reached_is_told_at_once(state: Path) -> None:
    """Exit code 3, so that a script can wait and try again."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        done = forebay("up", "--data", str(state), "--server", f"postgresql://app:x@127.0.0.1:{port}/app")
    assert done.returncode == 3
    assert f"127.0.0.1:{port}" in done.stderr


def test_a_dsn_that_cant_be_read_makes_nothing(state: Path) -> None:
    """Exit code 2, before any folder is made."""
    done = forebay("up", "--data", str(state), "--server", "postgresql://app@db/app?sslmod=require")
    assert done.returncode == 2
    assert 'Did you mean "sslmode"' in done.stderr
    assert not state.exists()


def test_when_the_server_dies_clients_get_an_error_and_a_restart_mends_it(state: Path) -> None:
    """The engine must not go down with it."""
    with up(state) as running:
        server = server_process(state)
        assert server is not None
        os.kill(server, 9)
        until(lambda: server_process(state) is None, within_s=10, what="the server is gone")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(running.dsn, options="", connect_timeout=10).execute("select 1")
        assert running.process.poll() is None
        assert running.interrupt() == 0
    with up(state) as again, psycopg.connect(again.dsn) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
