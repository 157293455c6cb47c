"""Log lines in PgBouncer's form: what pgBadger and alerts read."""

from __future__ import annotations

import logging
import os
import re
import socket
from pathlib import Path

import pytest
from forebay.observe.log import Log, Syslog, event
from forebay.observe.pgbouncer_log import Lines, PgBouncerFormatter

# How pgBadger takes a line apart: time, process, level, connection, and what is said of it.
PGBADGER = re.compile(
    r"^(\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2})\.\d+(?: [A-Z\+\-\d]{3,6})? \[(\d+)\] ([^\s]+) (.\-0x[0-9a-f]+): "
    r"([\w\[\].\-]*)/([\w\[\].\-]*)@([a-zA-Z0-9\-.]+|[0-9a-fA-F:]+)?[:\d]* (.*)"
)
STATS = re.compile(
    r"stats: (\d+) xacts/s, (\d+) queries/s, in (\d+) B/s, out (\d+) B/s, xact (\d+) us, query (\d+) us, wait (\d+) us$"
)
CLIENT = {"worker": 0, "client": 1187, "user": "app", "database": "shop", "address": "10.0.0.9", "port": 5000}
SERVER = {"worker": 0, "pool": "shop/app", "server": 7, "endpoint": "10.0.0.5:5432"}


def line(name: str, level: int = logging.INFO, formatter: PgBouncerFormatter | None = None, **fields: object) -> str:
    """An event as a line."""
    record = logging.LogRecord("forebay", level, "", 0, name, (), None)
    record.fields = fields
    return (formatter or PgBouncerFormatter()).format(record)


def test_an_unknown_user_is_told_with_the_refusal_as_well() -> None:
    """With log_disconnections = 0 there is no other line, and a wrong name looks like a wrong password."""
    held, formatter = Lines(), PgBouncerFormatter()

    def said(name: str, **fields: object) -> str | None:
        record = logging.LogRecord("forebay", logging.WARNING, "", 0, name, (), None)
        record.fields = fields
        return formatter.format(record) if held.filter(record) else None

    assert said("login_refused", client=1187, code="FB601", reason="no such user") is None
    refused = said("client_refused", **{**CLIENT, "reason": "password authentication failed"})
    assert refused is not None
    assert refused.endswith("pooler error: password authentication failed (no such user)")
    other = said("client_refused", **{**CLIENT, "client": 3, "reason": "password authentication failed"})
    assert other is not None
    assert other.endswith("password authentication failed")


@pytest.mark.parametrize(
    ("name", "level", "fields", "found"),
    [
        ("login_attempt", logging.INFO, {**CLIENT, "tls": "", "replication": "none"},
         ("LOG", "C-0x4a3", "shop", "app", "10.0.0.9", "login attempt: db=shop user=app tls=no replication=no")),
        ("login_attempt", logging.INFO, {**CLIENT, "tls": "TLSv1.3/TLS_AES_256_GCM_SHA384", "replication": "logical"},
         ("LOG", "C-0x4a3", "shop", "app", "10.0.0.9",
          "login attempt: db=shop user=app tls=TLSv1.3/TLS_AES_256_GCM_SHA384 replication=database")),
        ("client_refused", logging.WARNING, {**CLIENT, "reason": "no such database: shop", "code": "FB602"},
         ("WARNING", "C-0x4a3", "shop", "app", "10.0.0.9", "pooler error: no such database: shop")),
        ("client_disconnected", logging.INFO, {**CLIENT, "reason": "terminate", "age_s": 3},
         ("LOG", "C-0x4a3", "shop", "app", "10.0.0.9", "closing because: client close request (age=3s)")),
        ("client_disconnected", logging.INFO, {**CLIENT, "address": "unix", "port": 0, "reason": "query timeout",
                                               "age_s": 0},
         ("LOG", "C-0x4a3", "shop", "app", "unix", "closing because: query timeout (age=0s)")),
        ("server_opened", logging.INFO, SERVER,
         ("LOG", "S-0x7", "shop", "app", "10.0.0.5", "new connection to server")),
        ("server_closed", logging.INFO, {**SERVER, "reason": "closed by the server", "age_s": 9},
         ("LOG", "S-0x7", "shop", "app", "10.0.0.5", "closing because: server conn crashed? (age=9s)")),
    ],
)  # fmt: skip
def test_pgbadger_reads_the_line(name: str, level: int, fields: dict[str, object], found: tuple[str, ...]) -> None:
    match = PGBADGER.match(line(name, level, **fields))
    assert match is not None
    assert match.groups()[2:] == found
    assert match[2] == str(os.getpid())


def test_pgbadger_reads_the_figures() -> None:
    figures = {"xacts": 1, "queries": 2, "received": 3, "sent": 4, "xact_us": 5, "query_us": 6, "wait_us": 7}
    match = STATS.search(line("stats", **figures))
    assert match is not None
    assert match.groups() == tuple("1234567")


def test_a_server_that_refuses_a_login_is_quoted() -> None:
    """The words after FATAL are what the alert is about."""
    text = line("server_open_failed", logging.WARNING, **SERVER, cause="28P01 password authentication failed")
    assert text.endswith("shop/app@10.0.0.5:5432 server login failed: FATAL password authentication failed")
    cause = "connect to 10.0.0.5:5432: Connection refused (os error 111)"
    assert cause in line("server_open_failed", logging.WARNING, **SERVER, cause=cause)
    assert "closing because: connect failed (age=0s)" in line("server_closed", **SERVER, reason=cause, age_s=0)
    assert "closing because: login failed (age=0s)" in line("server_closed", **SERVER, reason="28P01 no", age_s=0)


def test_an_unknown_user_reads_as_such_in_the_log_alone() -> None:
    """Clients are told what a wrong password is told."""
    lines, fields = Lines(), {**CLIENT, "reason": "password authentication failed", "age_s": 0}

    def pass_on(name: str, **fields: object) -> str | None:
        record = logging.LogRecord("forebay", logging.INFO, "", 0, name, (), None)
        record.fields = fields
        return PgBouncerFormatter().format(record) if lines.filter(record) else None

    assert pass_on("login_refused", code="FB601", client=1187, reason="no such user") is None
    assert "closing because: no such user (age=0s)" in (pass_on("client_disconnected", **fields) or "")
    assert pass_on("login_refused", code="FB601", client=1187, reason="wrong password") is None
    assert "closing because: password authentication failed" in (pass_on("client_disconnected", **fields) or "")
    assert "the vault is down" in (pass_on("login_refused", code="FB603", client=1, reason="the vault is down") or "")


def test_what_pgbouncer_has_no_line_for_is_its_name_and_fields() -> None:
    """Nothing is lost."""
    text = line("checkout_timeout", logging.WARNING, client=3, user="app", waited_ms=5)
    assert text.endswith(" WARNING checkout timeout client=3 user=app waited_ms=5")


def test_a_line_end_in_a_name_makes_no_line() -> None:
    """Whoever names a database may not forge the log, nor write to the terminal of who reads it."""
    control = "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0))))
    for name in ("reason", "database", "user"):
        text = line("client_refused", logging.WARNING, **{"reason": "no", **CLIENT, name: f"a{control}2026 LOG forged"})
        assert f"a{' ' * len(control)}2026 LOG forged" in text
        assert text.isprintable()
    text = line("server_closed", **{**SERVER, "pool": "shop\n/app\r"}, reason="lifetime", age_s=0)
    assert "S-0x7: shop /app @10.0.0.5:5432 closing because: server lifetime over" in text


def test_what_another_line_tells_is_left_out() -> None:
    record = logging.LogRecord("forebay", logging.INFO, "", 0, "client_connected", (), None)
    assert not Lines().filter(record)


def test_the_log_goes_to_a_file_and_to_syslog_at_once(log: Log, tmp_path: Path) -> None:
    """Syslog has time, process and level itself; a facility is how rules there tell programs apart."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(tmp_path / "log"))
        daemon.settimeout(5)
        syslog = Syslog("pooler", "local3", address=str(tmp_path / "log"))
        log.configure(level=1, form="pgbouncer", sinks=[tmp_path / "pgbouncer.log", syslog])
        event(logging.WARNING, "resume_ignored")
        # local3 is 19, a warning 4.
        words = f"<{19 * 8 + 4}>pooler[{os.getpid()}]: got SIGUSR2 while shutting down, ignoring"
        assert daemon.recv(4096).decode() == words
        text = (tmp_path / "pgbouncer.log").read_text()
        assert re.fullmatch(r"[\d-]+ [\d:.]+ \S+ \[\d+\] WARNING got SIGUSR2 while shutting down, ignoring\n", text)
        log.configure(level=1, form="pgbouncer", sinks=[tmp_path / "pgbouncer.log"])
        event(logging.INFO, "stop")
        daemon.setblocking(False)
        with pytest.raises(BlockingIOError):
            daemon.recv(4096)


def test_a_repeated_warning_is_counted_once_for_all_places(log: Log, tmp_path: Path) -> None:
    """Two places must not halve the limit, nor hold back in one what the other prints."""
    paths = [tmp_path / "a.log", tmp_path / "b.log"]
    log.configure(level=1, form="text", sinks=paths)
    for _ in range(15):
        event(logging.WARNING, "sick")
    assert [path.read_text().count("event=sick") for path in paths] == [10, 10]


def test_syslog_that_is_not_there_costs_nothing_but_its_lines(
    log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A container has none."""
    log.configure(level=1, form="pgbouncer", sinks=[Syslog("x", "daemon", address=str(tmp_path / "none"))])
    event(logging.INFO, "stop")
    assert capsys.readouterr().err == ""
