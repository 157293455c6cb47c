"""`forebay run`: signals, reload, log, and what it says when it can't start."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import Start
from tests.e2e.command import forebay
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration, document
from tests.harness.postgres import Postgres, free_port
from tests.harness.target import Target
from tests.harness.wire import query

pytestmark = pytest.mark.variants("epoll-2")


def ended(running: Forebay, *, within_s: float) -> int:
    """Waits for the process to end by itself."""
    process = running.process
    assert process is not None
    code = process.wait(timeout=within_s)
    running.process = None
    return code


def test_term_lets_a_transaction_end_and_refuses_new_clients(start: Start, server: Postgres, variant: Variant) -> None:
    """A rolling restart must lose nothing."""
    running = start(configuration(server, variant, limits={"drain_timeout": "60s"}))
    with running.target.connect() as connection:
        connection.execute("select 1")
        running.send_signal(signal.SIGTERM)
        until(lambda: running.events("stopping"), within_s=10, what="it begins to stop")
        assert connection.execute("select 2").fetchone() == (2,)
        with pytest.raises(psycopg.OperationalError):
            running.target.connect(connect_timeout=5).close()
        connection.commit()
    assert ended(running, within_s=10) == 0
    assert running.events("drained")


def test_term_cuts_what_is_left_at_the_deadline(start: Start, server: Postgres, variant: Variant) -> None:
    """An open transaction must not hold up a deploy for ever."""
    running = start(configuration(server, variant, limits={"drain_timeout": "300ms"}))
    with running.target.connect() as connection:
        connection.execute("select 1")
        running.send_signal(signal.SIGTERM)
        assert ended(running, within_s=10) == 0
        assert running.events("drain_cut")
        with pytest.raises(psycopg.errors.AdminShutdown, match="shutting down"):
            connection.execute("select 2")


@pytest.mark.parametrize(
    "signals", [(signal.SIGTERM, signal.SIGQUIT), (signal.SIGINT, signal.SIGINT), (signal.SIGQUIT,)]
)
def test_a_stop_can_be_hurried(
    start: Start, server: Postgres, variant: Variant, signals: tuple[signal.Signals, ...]
) -> None:
    """The second Ctrl-C means now."""
    running = start(configuration(server, variant, limits={"drain_timeout": "60s"}))
    connection = running.target.connect()
    connection.execute("select 1")
    running.send_signal(signals[0])
    until(lambda: running.events("stopping"), within_s=10, what="it begins to stop")
    for number in signals[1:]:
        running.send_signal(number)
    assert ended(running, within_s=5) == 0
    connection.close()


@pytest.mark.parametrize("stop", [(signal.SIGTERM, signal.SIGQUIT), (signal.SIGINT, signal.SIGINT), (signal.SIGQUIT,)])
def test_what_a_cut_drain_leaves_is_told_and_cancelled(
    start: Start, server: Postgres, variant: Variant, direct: Target, stop: tuple[signal.Signals, ...]
) -> None:
    """A statement that ran on for nobody would hold its locks long after the pooler is gone."""
    running = start(configuration(server, variant, limits={"drain_timeout": "60s"}))
    asleep = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and usename = 'app'"
    with direct.wire() as watcher, running.target.wire() as busy, running.target.wire() as open_one:
        open_one.ask(query("begin"))
        busy.send(query("select pg_sleep(600)"))
        until(lambda: watcher.value(asleep) == "1", within_s=5, what="it runs")
        for number in stop:
            running.send_signal(number)
            until(lambda: running.events("stopping"), within_s=10, what="it begins to stop")
        for wire in (busy, open_one):
            assert [frame.fields["C"] for frame in wire.rest() if frame.tag == "E"] == ["57P01"]
        until(lambda: watcher.value(asleep) == "0", within_s=2, what="it is cancelled")
        assert ended(running, within_s=5) == 0


def test_hup_applies_a_changed_file_and_logs_the_difference(start: Start, server: Postgres, variant: Variant) -> None:
    """Operators check the log for what a reload did."""
    running = start(configuration(server, variant))
    with running.target.connect() as connection:
        changed = configuration(server, variant, databases={"app": {}, "blog": {"dbname": "app"}})
        changed = {**changed, "metrics": running.sections["metrics"]}
        assert running.reload(changed)["event"] == "reload"
        lines = [line["change"] for line in running.events("setting_changed")]
        assert lines == ["databases.blog: added"]
        assert connection.execute("select 1").fetchone() == (1,), "clients stay"
    with running.target.at(dbname="blog").connect() as connection:
        assert connection.execute("select current_database()").fetchone() == ("app",)


def test_a_broken_file_changes_nothing_and_says_why(start: Start, server: Postgres, variant: Variant) -> None:
    """By signal in the log, on the console in the error."""
    running = start(configuration(server, variant))
    running.path.write_text(running.path.read_text() + '[databases.blog]\nendpoint = ["127.0.0.1:1"]\n')
    running.send_signal(signal.SIGHUP)
    refused = until(lambda: running.events("reload_refused"), within_s=10, what="the reload is refused")[0]
    assert re.search(r"forebay\.toml:\d+:\d+: error FBC\d+", str(refused["because"]))
    findings = [line["message"] for line in running.events("config_finding") if line["level"] == "error"]
    assert any("endpoint" in str(message) for message in findings)
    with pytest.raises(AssertionError, match="RELOAD was refused"):
        running.console("RELOAD")
    with running.target.connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="blog"):
        running.target.at(dbname="blog").connect().close()


def test_settings_read_at_the_start_wait_for_the_next_one(start: Start, server: Postgres, variant: Variant) -> None:
    """The rest of the file is applied, and the log says what waits."""
    running = start(configuration(server, variant))
    changed = configuration(server, variant, databases={"app": {}, "blog": {"dbname": "app"}})
    changed["listen"] = {**changed["listen"], "backlog": 77}
    assert running.reload(changed)["event"] == "reload"
    lines = " ".join(str(line["change"]) for line in running.events("setting_changed"))
    assert re.search(r"listen\.backlog: 1024 -> 77 \(takes effect at the next start\)", lines)
    with running.target.at(dbname="blog").connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_usr1_opens_a_rotated_log_anew(start: Start, server: Postgres, variant: Variant, tmp_path: Path) -> None:
    """logrotate's postrotate."""
    running = start(configuration(server, variant))
    path = tmp_path / "forebay.log"
    sections = {**running.sections, "log": {**running.sections["log"], "file": str(path)}}
    running.write(sections)
    running.send_signal(signal.SIGHUP)
    until(lambda: path.exists() and "reload" in path.read_text(), within_s=10, what="the log goes to the file")
    path.rename(tmp_path / "forebay.log.1")
    running.send_signal(signal.SIGUSR1)
    until(lambda: path.exists() and "log_reopened" in path.read_text(), within_s=10, what="the file is made anew")
    running.send_signal(signal.SIGTERM)
    assert ended(running, within_s=10) == 0
    assert '"event":"stop"' in path.read_text()


def test_systemd_is_told_of_start_reload_and_stop(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path
) -> None:
    """Type=notify-reload: `systemctl reload` waits for it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(10)
        running = start(configuration(server, variant), environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert listener.recv(4096).startswith(b"READY=1\nSTATUS=serving on 127.0.0.1:")
        running.reload()
        assert listener.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert listener.recv(4096).startswith(b"READY=1")
        running.send_signal(signal.SIGTERM)
        assert listener.recv(4096).startswith(b"STOPPING=1")
        assert ended(running, within_s=10) == 0


@pytest.mark.parametrize(
    ("command", "drains"), [("SHUTDOWN", False), ("SHUTDOWN WAIT_FOR_CLIENTS", True)], ids=["now", "waiting"]
)
def test_the_console_stops_it(start: Start, server: Postgres, variant: Variant, command: str, drains: bool) -> None:
    """And its answer still arrives."""
    running = start(configuration(server, variant))
    running.console(command)
    assert ended(running, within_s=10) == 0
    assert running.events("stopping")[0]["how"] == ("drain" if drains else "now")


def test_pause_holds_requests_until_resume(start: Start, server: Postgres, variant: Variant) -> None:
    """The restart of a database without an error for anybody."""
    running = start(configuration(server, variant))
    got: list[Any] = []

    def ask() -> None:
        with running.target.connect() as connection:
            got.append(connection.execute("select 1").fetchone())

    running.console("PAUSE app")
    asking = threading.Thread(target=ask)
    asking.start()
    until(
        lambda: any(row["cl_waiting"] == "1" for row in running.console("SHOW POOLS")),
        within_s=10,
        what="the request waits",
    )
    assert got == []
    assert {"key": "paused", "value": "yes"} in running.console("SHOW STATE")
    running.console("RESUME app")
    asking.join(timeout=10)
    assert got == [(1,)]


def test_a_port_in_use_is_a_sentence_with_a_hint(tmp_path: Path, variant: Variant) -> None:
    """Exit code 1, no traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = tmp_path / "forebay.toml"
        sections = configuration(1, variant, listen={"address": ["127.0.0.1"], "port": port})
        path.write_text(document({name: one for name, one in sections.items() if not name.startswith("users")}))
        done = forebay("run", str(path))
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "metrics.address" in done.stderr.partition("hint:")[2]
    assert "Traceback" not in done.stderr


def test_a_log_that_cannot_be_written_is_a_sentence_with_a_hint(tmp_path: Path, variant: Variant) -> None:
    """A folder that packaging forgot; exit code 1, no traceback."""
    path = tmp_path / "forebay.toml"
    sections = configuration(1, variant, log={"file": "missing/forebay.log"})
    path.write_text(document({name: one for name, one in sections.items() if not name.startswith("users")}))
    done = forebay("run", str(path))
    assert done.returncode == 1
    assert f"the log can't be written to {tmp_path}/missing/forebay.log: No such file" in done.stderr
    assert "log.file" in done.stderr.partition("hint:")[2]
    assert "Traceback" not in done.stderr


def test_a_file_that_is_gone_is_told_by_its_name(start: Start, server: Postgres, variant: Variant) -> None:
    """A reload while a deployment swaps the file; no line 0 of it is pointed at."""
    running = start(configuration(server, variant))
    running.path.unlink()
    assert running.reload()["event"] == "reload_refused"
    assert [line["at"] for line in running.events("config_finding")] == [str(running.path)]


def test_a_faulty_configuration_is_told_with_line_and_caret(tmp_path: Path) -> None:
    """The same words as `forebay check`."""
    path = tmp_path / "forebay.toml"
    path.write_text('[listen]\nprot = 6432\n[databases.shop]\nendpoints = ["db:5432"]\n')
    ran, checked = forebay("run", str(path)), forebay("check", str(path))
    assert (ran.returncode, checked.returncode) == (1, 1)
    for text in (ran.stderr, checked.stdout):
        assert f'{path}:2:1: error FBC005: unknown setting "prot" in [listen]' in text
        assert 'did you mean "port"?' in text
    assert "Traceback" not in ran.stderr


def test_a_pause_that_waits_too_long_says_that_it_stands(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path
) -> None:
    """PgBouncer's PAUSE hangs for ever behind an open transaction; ours tells, and goes on holding requests."""
    hurry = tmp_path / "sitecustomize.py"
    hurry.write_text("import forebay.control.backend as backend\nbackend.ORDER_S = 0.3\n")
    running = start(configuration(server, variant), environment={"PYTHONPATH": str(tmp_path)})
    with running.target.connect() as connection:
        connection.execute("select 1")
        with pytest.raises(AssertionError, match="still in use after"):
            running.console("PAUSE app")
        assert {"key": "paused", "value": "yes"} in running.console("SHOW STATE")
        assert connection.execute("select 2").fetchone() == (2,), "what has begun may end"
        connection.commit()
    running.console("RESUME app")


def test_a_pgbouncer_ini_is_run_as_it_is(server: Postgres, tmp_path: Path) -> None:
    """The way in for who has one."""
    (tmp_path / "userlist.txt").write_text('"scram_user" "secret of scram_user"\n')
    (tmp_path / "userlist.txt").chmod(0o600)
    path = tmp_path / "pgbouncer.ini"
    port = free_port()
    path.write_text(
        f"[databases]\napp = host=127.0.0.1 port={server.port} dbname=app\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = scram-sha-256\n"
        "auth_file = userlist.txt\npool_mode = transaction\nadmin_users = scram_user\n"
    )
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "forebay", "run", str(path)], stdout=file, stderr=file)
    try:
        until(lambda: "event=start " in log.read_text() or process.poll() is not None, within_s=20, what="it listens")
        login = {"host": "127.0.0.1", "port": port, "user": "scram_user", "password": "secret of scram_user"}
        with psycopg.connect(**login, dbname="app") as connection:  # type: ignore[arg-type]
            assert connection.execute("select current_user").fetchone() == ("scram_user",)
        with psycopg.connect(**login, dbname="pgbouncer", autocommit=True) as console:  # type: ignore[arg-type]
            assert console.execute("SHOW POOLS").fetchone()[0] == "app"  # type: ignore[index]
    finally:
        process.terminate()
        assert process.wait(timeout=20) == 0, log.read_text()
