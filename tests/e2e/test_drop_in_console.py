"""The console of `forebay-pgbouncer`, and what its clients are told: PgBouncer's commands, columns and texts."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import psycopg
import pytest

from tests.harness import account, drop_in
from tests.harness.deadline import until
from tests.harness.drop_in import DropIn, Make
from tests.harness.postgres import Postgres
from tests.harness.wire import query, startup


@pytest.fixture
def make(server: Postgres) -> Iterator[Make]:
    with drop_in.maker(server) as make:
        yield make


def setting(running: DropIn, name: str) -> dict[str, str | None]:
    """A row of SHOW CONFIG."""
    return next(row for row in running.console("show config") if row["key"] == name)


def pool_size(running: DropIn) -> str | None:
    """What a pool of `app` may have."""
    return next(row["pool_size"] for row in running.console("show databases") if row["name"] == "app")


def refusal(running: DropIn, sql: str, *, user: str = "ops") -> str:
    """The words with which the console refuses a command."""
    with running.target.at(user=user, dbname="pgbouncer").wire() as wire:
        (error,) = [frame.fields for frame in wire.ask(query(sql)) if frame.tag == "E"]
        return error["M"]


def test_set_holds_until_a_reload_finds_the_setting_in_the_file(make: Make) -> None:
    """An operator's quick change must not outlive the file that says otherwise."""
    running = make()
    running.start()
    assert (pool_size(running), setting(running, "default_pool_size")["value"]) == ("20", "20")
    running.console("SET default_pool_size = 7")
    assert (pool_size(running), setting(running, "default_pool_size")["value"]) == ("7", "7")
    running.console("SET min_pool_size TO '1'")
    assert pool_size(running) == "7", "one SET keeps what another gave"
    running.console("RELOAD")
    assert pool_size(running) == "7", "the file says nothing of it"
    running.write(default_pool_size="9")
    assert pool_size(running) == "7"
    running.console("RELOAD")
    assert (pool_size(running), setting(running, "min_pool_size")["value"]) == ("9", "1")
    assert refusal(running, "SET default_pool_size = many") == "SET failed"
    assert refusal(running, "SET listen_port = 1") == "SET failed"
    assert refusal(running, "SET no_such = 1") == "SET failed"
    assert refusal(running, "SET default_pool_size = 1", user="watcher") == "admin access needed"
    assert pool_size(running) == "9"


def test_set_changes_what_the_process_does(make: Make) -> None:
    """The log's settings are as much a matter of SET as those of pools."""
    running = make()
    running.start()
    running.console("SET log_connections = 0")
    before = until(lambda: running.log().count("login attempt"), within_s=10, what="the console's own login is told")
    running.console("SET verbose = 1")
    running.says(" DEBUG ")
    with running.target.wire() as wire:
        assert wire.value("select 1") == "1"
    # The client's last line comes after all others of it.
    end = re.compile(r" C-\w+: app/app@\S+ closing because")
    until(lambda: end.search(running.log()), within_s=10, what="the client's end is told")
    assert running.log().count("login attempt") == before


def test_reload_tells_no_more_than_that_it_failed(make: Make) -> None:
    """Why is in the log, as with PgBouncer; nothing of the file is applied."""
    running = make()
    running.start()
    running.write(default_pool_size="5", pool_mode="sometimes")
    assert refusal(running, "RELOAD") == "RELOAD failed, see logs for additional details"
    assert "FBC014" in running.log()
    assert pool_size(running) == "20"


def test_another_file_can_be_named_for_the_next_reload(make: Make) -> None:
    running = make()
    running.start()
    other = running.folder / "other.ini"
    other.write_text(running.path.read_text() + "default_pool_size = 4\n")
    account.give(other)
    assert setting(running, "conffile")["value"] == str(running.path), "where one looks for what runs"
    running.console(f"SET conffile = '{other}'")
    assert setting(running, "conffile")["value"] == str(other)
    assert pool_size(running) == "20"
    running.console("RELOAD")
    assert pool_size(running) == "4"


def test_every_setting_is_shown_in_the_order_of_its_name(make: Make) -> None:
    running = make(pkt_buf="8192")
    running.start()
    shown = running.console("show config")
    keys = [str(row["key"]) for row in shown]
    assert (keys, len(keys)) == (sorted(keys), 100)
    assert list(shown[0]) == ["key", "value", "default", "changeable"], "exporters count them"
    row = setting(running, "pkt_buf")
    assert (row["value"], row["default"], row["changeable"]) == ("8192", "4096", "no")


def test_whose_process_it_is_needs_no_password_over_the_unix_socket(make: Make, server: Postgres) -> None:
    """Where no admin is configured this is the only way in; over TCP there is none."""
    running = make(admin_users="", stats_users="", auth_type="scram-sha-256")
    running.start()
    psql = [server.programs.path("psql"), "-X", "-w", "-At", "-c", "SHOW VERSION"]
    place = f"port={running.port} user=pgbouncer dbname=pgbouncer"

    def ask(host: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*psql, f"{place} host={host}"], capture_output=True, text=True, check=False, timeout=20,
            env=server.programs.environment, **options,  # type: ignore[call-overload]
        )  # fmt: skip

    done = ask(str(running.folder), **account.process_options())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("PgBouncer 1.25.2 (forebay ")
    assert ask("127.0.0.1").returncode != 0
    if account.is_root():
        assert ask(str(running.folder)).returncode != 0, "another user's process"


@pytest.mark.parametrize(
    ("settings", "sql", "words", "code"),
    [
        ({"query_wait_timeout": "0.3", "default_pool_size": "1"}, "select 1", "query_wait_timeout", "53300"),
        ({"max_client_conn": "1"}, None, "no more connections allowed (max_client_conn)", "53300"),
        ({"max_db_client_connections": "1"}, None, "client connections exceeded (max_db_client_connections)", "53300"),
        ({"pool_mode": "statement"}, "begin", "transaction blocks not allowed in statement pooling mode", "0A000"),
    ],
)
def test_clients_are_told_in_pgbouncers_words(
    make: Make, settings: dict[str, str], sql: str | None, words: str, code: str
) -> None:
    """With SQLSTATEs that drivers act on."""
    running = make(**settings)
    running.start()
    with running.target.wire() as busy:
        if settings.get("pool_mode") != "statement":
            busy.ask(query("begin"))
        with running.target.dial() as late:
            frames = late.first(startup(user="app", database="app"))
            if sql is not None and frames[-1].tag == "Z":
                late.send(query(sql))
                frames = late.read_until("E")
        (error,) = [frame.fields for frame in frames if frame.tag == "E"]
    assert (error["M"], error["C"]) == (words, code)
    assert "(FB" in error["H"], "the hint is forebay's"


def test_a_client_that_waits_is_told_as_by_pgbouncer(make: Make) -> None:
    running = make(query_wait_notify="0.1", default_pool_size="1")
    running.start()
    with running.target.wire() as busy, running.target.wire() as late:
        assert late.value("select 0") == "0"
        busy.ask(query("begin"))
        late.send(query("select 1"))
        words = "No server connection available in postgres backend, client being queued"
        assert late.read().fields["M"] == words


@pytest.mark.slow
def test_a_pause_waits_for_as_long_as_a_transaction_takes(make: Make) -> None:
    """As in PgBouncer: a script that goes on after it relies on that no server is in use."""
    running = make()
    running.start()
    console = running.target.at(user="ops", dbname="pgbouncer")
    with running.target.wire() as busy, console.wire() as operator:
        for wire in (busy, operator):
            wire.socket.settimeout(60)
        busy.ask(query("begin"))
        operator.send(query("PAUSE"))
        # Longer than the engine waits for a console of which it hears nothing.
        busy.ask(query("select pg_sleep(36)"))
        busy.send(query("commit"))
        assert [frame.tag for frame in operator.ready()] == ["C", "Z"]
        assert busy.ready()


def test_a_disabled_database_is_told_in_its_words(make: Make) -> None:
    running = make()
    running.start()
    running.console("DISABLE app")
    with pytest.raises(psycopg.OperationalError, match='database "app" is disabled'):
        running.target.connect()
    running.console("ENABLE app")
    with running.target.connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    until(lambda: 'database "app" is disabled (age=' in running.log(), within_s=5, what="it is in the log")
