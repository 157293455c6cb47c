"""`forebay-pgbouncer` as those run it who ran PgBouncer: command line, files, log."""

from __future__ import annotations

import grp
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from forebay.control.service import WATCH_S

from tests.harness import account, drop_in
from tests.harness.deadline import until
from tests.harness.drop_in import Make
from tests.harness.postgres import Postgres
from tests.harness.processes import is_alive, listening_sockets
from tests.harness.wire import query, startup


@pytest.fixture
def make(server: Postgres) -> Iterator[Make]:
    with drop_in.maker(server) as make:
        yield make


def test_what_happens_is_logged_in_pgbouncers_lines(make: Make) -> None:
    """Alerts, pgBadger and people read them."""
    running = make(stats_period="0.3", databases={"gone": "port=1"})
    running.start("-q")
    with running.target.connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    running.says("closing because: client close request (age=0s)")
    with pytest.raises(psycopg.OperationalError, match="no such database: nowhere"):
        running.target.at(dbname="nowhere").connect()
    with pytest.raises(psycopg.OperationalError, match='"trust" authentication failed'):
        running.target.at(user="unknown").connect()
    running.says('closing because: "trust" authentication failed (age=0s)')
    log = running.log()
    assert re.search(
        r"C-0x[0-9a-f]+: app/app@127\.0\.0\.1:\d+ login attempt: db=app user=app tls=no replication=no\n", log
    )
    assert re.search(
        r"S-0x[0-9a-f]+: app/app@127\.0\.0\.1:\d+ new connection to server \(from 127\.0\.0\.1:\d+\)\n", log
    )
    assert re.search(r"WARNING C-0x[0-9a-f]+: nowhere/app@[\d.]+:\d+ pooler error: no such database: nowhere\n", log)
    assert "closing because: no such database: nowhere (age=0s)\n" in log
    running.says("stats: ")
    assert re.search(
        r"LOG stats: \d+ xacts/s, \d+ queries/s, in \d+ B/s, out \d+ B/s, xact \d+ us, query", running.log()
    )
    assert "LOG process up: PgBouncer 1.25.2 (forebay " in log
    assert (running.folder / "stderr").read_text() == "", "-q"


def test_lines_that_are_not_wanted_are_left_out(make: Make) -> None:
    running = make(
        log_connections="0", log_disconnections="0", log_pooler_errors="0", log_stats="0", stats_period="0.2"
    )
    running.start()
    with running.target.wire() as wire:
        assert wire.value("select 1") == "1"
    with pytest.raises(psycopg.OperationalError):
        running.target.at(dbname="nowhere").connect()
    until(lambda: running.console("show stats")[0]["total_xact_count"] == "1", within_s=5, what="it is counted")
    for text in ("login attempt", "closing because", "pooler error", "stats:", "new connection"):
        assert text not in running.log()
    assert "process up" in (running.folder / "stderr").read_text(), "standard error, where it is not quiet"


def test_it_goes_to_the_background_once_it_serves(make: Make) -> None:
    """A script that starts it and connects must find it."""
    running = make()
    done = running.run("-d")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pid = int((running.folder / "pgbouncer.pid").read_text())
    try:
        assert os.getsid(pid) != os.getsid(0)
        with running.target.connect() as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        again = running.run("-d")
        assert again.returncode == 1
        assert "unix socket is in use, cannot continue" in again.stderr
        running.write(unix_socket_dir="")
        again = running.run("-d")
        assert again.returncode == 1
        assert f"process {pid} runs" in again.stderr
    finally:
        os.kill(pid, signal.SIGTERM)
    until(lambda: not is_alive(pid), within_s=15, what="it ends")
    assert not (running.folder / "pgbouncer.pid").exists()


def test_a_start_in_the_background_that_fails_is_told(make: Make) -> None:
    """Else nobody would look before the first client complains."""
    running = make()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", running.port))
        taken.listen()
        done = running.run("-d")
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{running.port}" in done.stderr
    assert not (running.folder / "pgbouncer.pid").exists()


@pytest.mark.parametrize(("lacking", "words"), [("pidfile", "-d needs a PID file"), ("logfile", "-d needs a log")])
def test_the_background_needs_a_pid_file_and_a_log(make: Make, lacking: str, words: str) -> None:
    done = make(**{lacking: ""}).run("-d")
    assert (done.returncode, words in done.stderr) == (1, True)


def test_a_stale_pid_file_is_replaced(make: Make) -> None:
    """After a crash it must start again without a hand."""
    running = make()
    path = running.folder / "pgbouncer.pid"
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    path.write_text(f"{gone.pid}\n")
    running.start()
    assert running.process is not None
    assert path.read_text() == f"{running.process.pid}\n"


@pytest.mark.skipif(not account.is_root(), reason="only root is refused for being root")
def test_root_is_refused_and_may_become_another(make: Make) -> None:
    running = make()
    command = [part for part in running.command() if part not in ("-u", account.UNPRIVILEGED)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=running.environment())
    assert done.returncode == 1
    assert "does not run as root" in done.stderr
    for by_file in (False, True):
        if by_file:
            running.write(user=account.UNPRIVILEGED)
            running.command = lambda *_: command  # type: ignore[method-assign]
        running.start()
        assert running.process is not None
        status = Path(f"/proc/{running.process.pid}/status").read_text()
        assert f"Uid:\t{running.path.stat().st_uid}\t" in status
        running.close()


def test_what_a_client_writes_into_its_startup_is_not_repeated_in_the_log(make: Make) -> None:
    """It may hold a secret by mistake, or a line that looks like one of ours."""
    running = make()
    running.start()
    forged = "x\n2026-01-01 00:00:00.000 UTC [1] LOG C-0x1: app/app@10.0.0.1:1 login attempt"
    for parameters in ({"replication": forged}, {"options": f"-x {forged}"}):
        with running.target.dial() as wire:
            wire.send(startup(user="app", database="app", **parameters))
            assert [frame.tag for frame in wire.rest()] == ["E"]
    running.says("something that it asks for at its start")
    until(lambda: running.log().count(" closing because: ") >= 2, within_s=5, what="both ends are told")
    assert "2026-01-01" not in running.log()


def test_quiet_and_verbose_are_about_standard_error_and_decisions(make: Make) -> None:
    """A supervisor that keeps standard error has all lines there, unless they were not wanted twice."""
    for given, lines, decisions in ((("-q",), False, False), (("-v",), True, True), ((), True, False)):
        running = make()
        running.start(*given)
        with running.target.wire() as wire:
            assert wire.value("select 1") == "1"
        running.console("show version")
        running.says("closing because: ")
        running.close()
        stderr = (running.folder / "stderr").read_text()
        assert ("process up: " in stderr) == lines, given
        assert (" DEBUG " in running.log()) == decisions, given


def test_what_the_file_leaves_out_to_pgbouncers_default_is_said(make: Make) -> None:
    """Its defaults are weaker than what forebay starts with by itself."""
    running = make()
    running.start()
    said = set(re.findall(r"code=FBC084 .*?message=\"?'?(\w+) is not set", running.log()))
    assert said == {"client_tls_sslmode"}, "auth_type and server_tls_sslmode are set"


def test_clients_behind_a_load_balancer_have_their_own_addresses(make: Make) -> None:
    """PgBouncer has no such setting: the environment gives it."""
    running = make()
    running.start(environment={"FOREBAY_LISTEN_PROXY_FROM": "127.0.0.0/8, ::1"})
    with running.target.dial() as wire:
        wire.send(b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 6432\r\n" + startup(user="app", database="app"))
        wire.read_until("Z")
    running.says(": app/app@192.0.2.1:4711 login attempt: db=app user=app")
    running.says(": app/app@192.0.2.1:4711 closing because: client unexpected eof")
    with running.target.dial() as wire:
        wire.send(startup(user="app", database="app"))
        assert [frame.tag for frame in wire.rest()] == ["E"]
    running.says("pooler error: the PROXY protocol's header is refused: it is missing")


def test_a_successor_shares_the_port_and_takes_over(make: Make) -> None:
    """PgBouncer's way of an online restart: so_reuseport, a successor, SIGTERM; who connects after it is served."""
    old, new = make(so_reuseport="1"), make(so_reuseport="1")
    old.start()
    new.port = old.port
    new.write()
    new.start()
    with old.target.at(host=str(old.folder)).wire() as kept:
        assert kept.value("select 1") == "1"
        for running in (old, new):
            running.log_path.write_text("")
        old.send_signal(signal.SIGTERM)
        old.says("stopping")
        assert old.process is not None
        pid = old.process.pid
        until(lambda: not listening_sockets(pid), within_s=5, what="the old one's port is closed")
        assert listening_sockets(new.process.pid if new.process else 0)
        for _ in range(40):
            with new.target.wire() as wire:
                assert wire.value("select 1") == "1"
        assert kept.value("select 2") == "2"
    new.says("login attempt")


def test_reboot_takes_over_clients_and_the_pid_file(make: Make) -> None:
    """-R: who is in a transaction goes on in it, and the old process is gone."""
    running = make()
    running.start()
    old = running.process
    assert old is not None
    with running.target.wire() as wire:
        wire.ask(query("begin"))
        pid = wire.value("select pg_backend_pid()")
        running.start("-R")
        assert old.wait(timeout=15) == 0
        assert running.process is not None
        assert (running.folder / "pgbouncer.pid").read_text().strip() == str(running.process.pid)
        assert wire.value("select pg_backend_pid()") == pid
    assert running.log().count(f"listening on 127.0.0.1:{running.port}, {running.folder}") == 2
    assert "drain cut" not in running.log(), "nobody was cut: all have moved"
    with running.target.at(host=str(running.folder)).wire() as beside:
        assert beside.value("select 1") == "1"
    running.send_signal(signal.SIGQUIT)
    assert running.ended() == 0
    assert not (running.folder / "pgbouncer.pid").exists()


def test_reboot_goes_on_where_the_pid_file_cannot_be_written(make: Make) -> None:
    """By then clients are the new process's: they are not cut for a file."""
    running = make()
    running.start()
    old = running.process
    assert old is not None
    path = running.folder / "pgbouncer.pid"
    with running.target.wire() as wire:
        wire.ask(query("begin"))
        path.unlink()
        path.mkdir()
        running.start("-R")
        assert old.wait(timeout=15) == 0
        running.says("pgbouncer.pid")
        assert wire.value("select 'still here'") == "still here"
    path.rmdir()


def test_reboot_takes_over_from_no_pgbouncer(make: Make) -> None:
    """Nobody must believe that clients were handed over; what helps instead is said."""
    running = make()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(running.folder / f".s.PGSQL.{running.port}"))
        other.listen()
        (running.folder / f".s.PGSQL.{running.port}").chmod(0o777)
        done = running.run("-R")
    assert done.returncode == 1
    assert "-R takes over from no PgBouncer" in done.stderr
    assert "so_reuseport" in done.stderr


def test_reboot_starts_where_nobody_runs(make: Make) -> None:
    """Scripts give -R whether one runs or not, and PgBouncer starts either way."""
    running = make()
    running.start("-R")
    running.says("old process not found, try to continue normally")
    with running.target.wire() as wire:
        assert wire.value("select 1") == "1"
    running.send_signal(signal.SIGQUIT)
    assert running.ended() == 0


def test_systemd_passes_sockets_and_is_told(make: Make) -> None:
    """Type=notify with a .socket unit: clients wait in the backlog while it starts."""
    running = make(listen_addr="127.0.0.9", pidfile="")
    with socket.socket() as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        manager.bind(str(running.folder / "notify"))
        account.give(running.folder / "notify")
        manager.settimeout(10)
        port = listener.getsockname()[1]
        early = socket.create_connection(("127.0.0.1", port))

        def pass_on() -> None:
            os.dup2(listener.fileno(), 3)
            os.environ["LISTEN_PID"] = str(os.getpid())

        # The environment of the child is made before; the process id is known in it only.
        program = f"import os; os.environ['LISTEN_PID'] = str(os.getpid()); {drop_in.PROGRAM}"
        command = [program if part == drop_in.PROGRAM else part for part in running.command()]
        running.command = lambda *_: command  # type: ignore[method-assign]
        environment = {"LISTEN_FDS": "1", "NOTIFY_SOCKET": str(running.folder / "notify")}
        running.start(environment=environment, preexec_fn=pass_on, pass_fds=(3,))
        assert manager.recv(4096).startswith(b"READY=1\nSTATUS=serving on 127.0.0.1:")
        early.close()
        running.port = port
        with running.target.connect() as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        running.send_signal(signal.SIGHUP)
        assert manager.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert manager.recv(4096).startswith(b"READY=1")
        running.send_signal(signal.SIGTERM)
        assert manager.recv(4096).startswith(b"STOPPING=1")
        assert running.ended() == 0


def test_what_has_no_effect_is_said_at_the_start_and_nothing_else_is(make: Make) -> None:
    running = make(pkt_buf="8192", sbuf_loopcnt="5")
    running.start()
    said = re.findall(r"config finding code=(\w+) at=\S+ message=\"(\w+)\" has no counterpart", running.log())
    assert said == [("FBC070", "pkt_buf"), ("FBC070", "sbuf_loopcnt")]


def test_the_unix_socket_has_the_mode_and_the_group_that_are_set(make: Make) -> None:
    """Who may connect without a network is a matter of file permissions."""
    options = account.process_options()
    group = grp.getgrgid(options.get("group", os.getgid()))
    running = make(unix_socket_mode="0750", unix_socket_group=group.gr_name)
    running.start()
    status = (running.folder / f".s.PGSQL.{running.port}").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o750, group.gr_gid)


def test_a_changed_user_list_is_read_by_itself(make: Make) -> None:
    """Who adds a user to it expects no more to be needed; the ini is not read half edited for that."""
    running = make(auth_type="scram-sha-256")
    running.start()
    users = running.folder / "userlist.txt"
    late = running.target.at(user="late", password="pw")
    with pytest.raises(psycopg.OperationalError, match="SASL authentication failed"):
        late.connect()
    users.write_text(users.read_text() + '"late" "pw"\n')
    running.says("reload changes=1")
    with pytest.raises(psycopg.OperationalError, match="no such database"):
        late.at(dbname="none").connect()
    running.path.write_text(running.path.read_text() + "half = edited\n")
    reloads = running.log().count("reload changes=")
    users.write_text(users.read_text() + '"later" "pw"\n')
    # The watch looks at both files once a period; what it finds is applied, or refused, by the next line.
    until(lambda: running.log().count("reload changes=") > reloads, within_s=10 * WATCH_S, what="the list is read")
    assert "reload refused" not in running.log(), "the ini is nobody's business yet"
    running.send_signal(signal.SIGHUP)
    running.says("reload refused")
