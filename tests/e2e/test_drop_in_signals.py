"""What signals do with `forebay-pgbouncer`, and what its log says of them and of the console's commands."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.harness import drop_in
from tests.harness.deadline import until
from tests.harness.drop_in import Make
from tests.harness.postgres import Postgres
from tests.harness.wire import query


@pytest.fixture
def make(server: Postgres) -> Iterator[Make]:
    with drop_in.maker(server) as make:
        yield make


def test_term_waits_for_clients_and_takes_no_new_ones(make: Make) -> None:
    """A rolling restart: those that are connected stay as long as they want."""
    running = make()
    running.start()
    with running.target.wire() as idle:
        assert idle.value("select 1") == "1"
        running.send_signal(signal.SIGTERM)
        running.says("stopping")
        until(lambda: refused(running.port), within_s=5, what="the port is closed")
        assert idle.value("select 2") == "2", "it is served as before"
        assert running.process is not None
        assert running.process.poll() is None
        console = running.target.at(host=str(running.folder), user="ops", dbname="pgbouncer")
        with console.wire() as operator:
            assert operator.rows("show clients")
        with pytest.raises(psycopg.OperationalError, match="pooler is shutting down"):
            running.target.at(host=str(running.folder)).connect()
        running.send_signal(signal.SIGUSR2)
        running.says("got SIGUSR2 while shutting down, ignoring")
    assert running.ended() == 0
    assert not (running.folder / "pgbouncer.pid").exists()


def refused(port: int) -> bool:
    """Whether nobody listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_int_waits_for_servers_only(make: Make) -> None:
    """Transactions end; who is idle does not hold it up, and who asks for a server is sent away."""
    running = make()
    running.start()
    with running.target.wire() as busy, running.target.wire() as idle, running.target.wire() as late:
        for wire in (idle, late, busy):
            assert wire.value("select 1") == "1"
        busy.ask(query("begin"))
        running.send_signal(signal.SIGINT)
        running.says("stopping")
        until(lambda: refused(running.port), within_s=5, what="the port is closed")
        late.send(query("select 2"))
        assert [frame.fields["M"] for frame in late.rest() if frame.tag == "E"] == ["pooler is shutting down"]
        assert busy.value("select 3") == "3"
        assert running.process is not None
        assert running.process.poll() is None
        busy.ask(query("commit"))
        assert running.ended() == 0
        assert [frame.fields["C"] for frame in idle.rest() if frame.tag == "E"] == ["57P01"]


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(make: Make, first: signal.Signals) -> None:
    running = make()
    running.start()
    with running.target.wire() as busy:
        busy.ask(query("begin"))
        running.send_signal(first)
        running.says("stopping")
        running.send_signal(first)
        assert running.ended(within_s=5) == 1


def test_quit_ends_it_at_once_in_order(make: Make) -> None:
    running = make()
    running.start()
    with running.target.wire() as busy:
        busy.ask(query("begin"))
        running.send_signal(signal.SIGQUIT)
        assert running.ended(within_s=5) == 0


def test_quit_while_it_starts_ends_it_in_order(make: Make) -> None:
    """A supervisor that thinks better of it must not find a PID file of nobody."""
    running = make()
    pid_file = running.folder / "pgbouncer.pid"
    wait = "import forebay.control.service as s, time; "
    hang = "s.start_engine = lambda *_: (open('began', 'w').close(), time.sleep(2)); "
    program = f"{wait}{hang}{drop_in.PROGRAM}"
    command = [program if part == drop_in.PROGRAM else part for part in running.command()]
    with subprocess.Popen(command, cwd=running.folder, env=running.environment(), stderr=subprocess.PIPE) as starting:
        until((running.folder / "began").exists, within_s=20, what="it starts")
        assert pid_file.exists()
        starting.send_signal(signal.SIGQUIT)
        assert starting.wait(10) == 0
    assert not pid_file.exists()


def test_usr1_pauses_and_usr2_resumes(make: Make) -> None:
    running = make()
    running.start()
    running.send_signal(signal.SIGUSR1)
    until(lambda: {"key": "paused", "value": "yes"} in running.console("show state"), within_s=5, what="it is paused")
    got: list[Any] = []

    def ask() -> None:
        with running.target.connect() as connection:
            got.append(connection.execute("select 1").fetchone())

    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: any(row["cl_waiting"] == "1" for row in running.console("show pools")), within_s=5, what="it waits")
    assert got == []
    running.send_signal(signal.SIGUSR2)
    asking.join(10)
    assert got == [(1,)]
    running.send_signal(signal.SIGUSR2)
    running.says("got SIGUSR2, but not paused/suspended")
    said = re.findall(r"LOG (got SIGUSR\d, .*)", running.log())
    assert said == [
        "got SIGUSR1, pausing all activity",
        "got SIGUSR2, continuing from PAUSE",
        "got SIGUSR2, but not paused/suspended",
    ]


def test_who_pauses_is_in_the_log(make: Make) -> None:
    """After a night without service, that is what one looks for; what SET gives may be a secret."""
    running = make()
    running.start()
    for sql in ("pause app", "resume app", "set query_timeout = 77", "show state", "reload"):
        running.console(sql)
    running.says("RELOAD command issued")
    assert re.findall(r"LOG (.* command issued.*)", running.log()) == [
        "PAUSE 'app' command issued (by ops)",
        "RESUME 'app' command issued (by ops)",
        "SET 'query_timeout' command issued (by ops)",
        "RELOAD command issued (by ops)",
    ]
    running.send_signal(signal.SIGTERM)
    assert running.ended() == 0
    assert "got SIGTERM, shutting down, waiting for all clients disconnect" in running.log()


def test_hup_reloads_and_opens_the_log_anew(make: Make) -> None:
    """logrotate sends it, and so does whoever changed the file."""
    running = make()
    running.start()
    running.log_path.rename(running.folder / "rotated")
    running.databases["second"] = ""
    running.write(default_pool_size="3")
    running.send_signal(signal.SIGHUP)
    running.says("reload changes=")
    with running.target.at(dbname="second").connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert {row["name"]: row["pool_size"] for row in running.console("show databases")}["app"] == "3"
    running.write(default_pool_size="many")
    running.send_signal(signal.SIGHUP)
    running.says("reload refused")
    assert "setting changed change=default_pool_size: 20 -> 3" in running.log(), "by its name in the file"
    assert "error FBC010: default_pool_size is a whole number, not text" in running.log()
    assert "got SIGHUP, re-reading config" in running.log()
    assert "signal refused" not in running.log(), "the same words twice"
    assert {row["name"]: row["pool_size"] for row in running.console("show databases")}["app"] == "3"
