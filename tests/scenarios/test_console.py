"""The console, by psql's protocol and by drivers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
from typing import Any

import asyncpg
import psycopg
import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, asked, configuration
from tests.harness.postgres import PASSWORD, Postgres
from tests.harness.target import Target
from tests.harness.wire import Frame, Gone, bind, close, describe, execute, function_call, parse, query, row, sync

SHOWS = ("pools", "clients", "servers", "databases", "stats", "config", "version", "help", "lists", "users", "state")


def console(forebay: Forebay, user: str = "ops", dbname: str = "forebay") -> Target:
    """Where the console is."""
    return forebay.target.at(user=user, dbname=dbname, password=PASSWORD.format(user))


def codes(frames: list[Frame]) -> list[str]:
    """SQLSTATEs of errors."""
    return [frame.fields["C"] for frame in frames if frame.tag == "E"]


def tags(frames: list[Frame]) -> str:
    """What was said, by the messages' tags."""
    return "".join(frame.tag for frame in frames)


@pytest.mark.parametrize("name", SHOWS)
def test_every_show_answers(name: str, shared: Forebay) -> None:
    """Exporters and people ask these."""
    with shared.target.wire() as client:
        client.ask(query("select 1"))
        rows = shared.console(f"show {name}")
    assert rows or name in ("help",)


@pytest.mark.parametrize("dbname", ["forebay", "pgbouncer"])
def test_psql_reads_the_console(dbname: str, shared: Forebay, server: Postgres) -> None:
    """Operators type \\x and SHOW POOLS."""
    done = subprocess.run(
        [server.programs.path("psql"), "-X", console(shared, dbname=dbname).dsn(), "-c", "SHOW POOLS", "-c",
         "SHOW VERSION"],
        capture_output=True, text=True, timeout=30, env=server.programs.environment, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "cl_waiting" in done.stdout
    assert "forebay" in done.stdout


def test_the_command_for_pins_reads_the_console(shared: Forebay) -> None:
    """By a connection string; without a pin it says so."""
    done = subprocess.run(
        [sys.executable, "-m", "forebay", "pins", "--dsn", console(shared).dsn()],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "no session holds its server between transactions\n"


def test_a_driver_reads_the_console(shared: Forebay) -> None:
    """psycopg with simple queries."""
    connection = psycopg.connect(console(shared).dsn(), autocommit=True, cursor_factory=psycopg.ClientCursor)
    with connection:
        names = [column.name for column in connection.execute("show databases").description or ()]
        assert names[:2] == ["name", "host"]


def test_the_console_takes_the_extended_protocol(shared: Forebay) -> None:
    """One Describe of either kind, and a statement that is run again; nothing is run by a Describe."""
    with console(shared).wire() as wire:
        frames = wire.ask(parse("", "show version"), describe("S"), bind(), describe("P"), execute(), sync())
        assert "".join(frame.tag for frame in frames) == "1tT2TDCZ"
        assert row(frames[5])[0].startswith("forebay ")  # type: ignore[union-attr]
        assert tags(wire.ask(parse("state", "show state"), bind("p", "state"), execute("p"), sync())) == "12DDDDCZ"
        assert tags(wire.ask(bind("", "state"), execute(), bind("", "state"), execute(), sync())) == "2DDDDC2DDDDCZ"
        assert tags(wire.ask(parse("", "pause app"), describe("S"), sync())) == "1tnZ"
        assert {"key": "paused", "value": "no"} in asked(wire, "show state")
        assert tags(wire.ask(parse("", ""), bind(), describe("P"), execute(), sync())) == "12nIZ"
        assert tags(wire.ask(close("S", "state"), sync())) == "3Z"
        assert codes(wire.ask(bind("", "state"), execute(), sync())) == ["26000"]


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ((parse("", "show nonsense"), bind(), execute(), sync()), "42601"),
        ((parse("", "show pools"), bind(values=[b"1"]), execute(), sync()), "0A000"),
        ((execute("none"), sync()), "34000"),
        ((function_call(1), sync()), "0A000"),
    ],
    ids=["unknown", "parameters", "portal", "function call"],
)
def test_an_error_of_the_extended_protocol_is_told_once(
    messages: tuple[bytes, ...], code: str, shared: Forebay
) -> None:
    """One for each Sync, and the session lives on."""
    with console(shared).wire() as wire:
        for _ in range(2):
            assert codes(wire.ask(*messages)) == [code]
        assert asked(wire, "show version")


def test_asyncpg_reads_the_console(shared: Forebay) -> None:
    """It prepares each statement and asks for values in binary."""

    async def read() -> list[dict[str, Any]]:
        connection = await asyncpg.connect(**console(shared).asyncpg())
        try:
            return [dict(one) for one in await connection.fetch("show databases")]
        finally:
            await connection.close()

    shown = {one["name"]: one for one in asyncio.run(read())}
    assert (shown["wide"]["pool_size"], shown["wide"]["paused"], shown["app"]["database"]) == (4, 0, "app")


def test_psycopg_prepares_a_statement_of_the_console(shared: Forebay) -> None:
    """With values in binary, as its binary cursor asks for them."""
    with psycopg.connect(console(shared).dsn(), autocommit=True) as connection:
        for _ in range(2):
            rows = connection.execute("show lists", prepare=True, binary=True).fetchall()
        assert dict(rows)["peers"] == 0


def test_a_disabled_database_takes_no_new_clients(start: Start, server: Postgres, variant: Variant) -> None:
    """Those that are in go on, until ENABLE lets others in again."""
    forebay = start(configuration(server, variant))
    with forebay.target.wire() as early:
        forebay.console("disable app")
        assert early.value("select 1") == "1"
        with pytest.raises(AssertionError, match="57P03"):
            forebay.target.wire()
        assert forebay.console("show databases")[0]["disabled"] == "1"
        forebay.console("enable app")
        with forebay.target.wire() as late:
            assert late.value("select 2") == "2"


def test_wait_close_waits_for_what_reconnect_has_marked(start: Start, server: Postgres, variant: Variant) -> None:
    """After a change of the server, when does nobody use the old connections any more?"""
    forebay = start(configuration(server, variant))
    with forebay.target.wire() as busy:
        busy.ask(query("begin"))
        forebay.console("wait_close")
        forebay.console("reconnect app")
        waiting = threading.Thread(target=forebay.console, args=("wait_close app",))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        busy.ask(query("commit"))
        waiting.join(5)
        assert not waiting.is_alive()


def test_an_operator_gets_in_where_nobody_else_does(start: Start, server: Postgres, variant: Variant) -> None:
    """Who else should find out why."""
    forebay = start(configuration(server, variant, limits={"max_client_conn": 1}))
    with forebay.target.wire():
        with pytest.raises(AssertionError, match="53300"):
            forebay.target.wire()
        assert len(forebay.console("show clients")) >= 1


def test_what_the_console_does_not_know_is_told(shared: Forebay) -> None:
    """And the session lives on."""
    with console(shared).wire() as wire:
        assert codes(wire.ask(query("select 1"))) == ["42601"]
        assert codes(wire.ask(query("show nonsense"))) == ["42601"]
        assert codes(wire.ask(query("pause no_such_database"))) == ["3D000"]
        assert asked(wire, "show version")


def test_several_console_queries_in_one_write(shared: Forebay) -> None:
    """Answers in order, each with its ReadyForQuery."""
    with console(shared).wire() as wire:
        wire.send(query("show version"), query("nonsense"), query("show pools"), query(""))
        wire.ready(4)


def test_viewers_may_look_but_not_touch(shared: Forebay) -> None:
    """42501."""
    with console(shared, "watcher").wire() as wire:
        assert asked(wire, "show databases")
        for command in ("pause", "kill app", "reload", "shutdown"):
            assert codes(wire.ask(query(command))) == ["42501"]


def test_others_are_not_let_in(shared: Forebay) -> None:
    """Knowing a password of the database is not enough."""
    with pytest.raises(AssertionError, match="42501"):
        console(shared, "app").wire()


def test_pause_holds_requests_and_resume_lets_them_go(start: Start, server: Postgres, variant: Variant) -> None:
    """PAUSE waits for transactions to end; nothing is refused meanwhile."""
    forebay = start(configuration(server, variant))
    with forebay.target.wire() as busy, forebay.target.wire() as late:
        busy.ask(query("begin"))
        pause = threading.Thread(target=forebay.console, args=("pause app",))
        pause.start()
        until(lambda: any(r["paused"] == "1" for r in forebay.console("show databases")), within_s=5, what="PAUSE")
        late.send(query("select 'after'"))
        assert pause.is_alive()
        busy.ask(query("commit"))
        pause.join(5)
        assert not pause.is_alive()
        until(lambda: not forebay.console("show servers"), within_s=5, what="servers are closed")
        forebay.console("resume app")
        assert [row(frame) for frame in late.ready() if frame.tag == "D"] == [["after"]]


def test_kill_ends_the_clients_of_a_database(start: Start, server: Postgres, variant: Variant) -> None:
    """57P01, and what waits for RESUME comes later."""
    forebay = start(configuration(server, variant, databases={"app": {}, "b": {"dbname": "elsewhere"}}))
    with forebay.target.wire() as killed, forebay.target.at(dbname="b").wire() as spared:
        killed.ask(query("begin"))
        forebay.console("kill app")
        assert codes(killed.rest()) == ["57P01"]
        assert spared.value("select 1") == "1"
        forebay.console("resume app")
        with forebay.target.wire() as again:
            assert again.value("select 1") == "1"


def test_kill_client_ends_one(start: Start, server: Postgres, variant: Variant) -> None:
    """By the id that SHOW CLIENTS prints; its transaction is rolled back."""
    forebay = start(configuration(server, variant))
    with forebay.target.wire(application_name="victim") as victim, forebay.target.wire() as spared:
        victim.ask(query("begin"))
        (found,) = [r for r in forebay.console("show clients") if r["application_name"] == "victim"]
        forebay.console(f"kill_client {found['ptr']}")
        assert codes(victim.rest()) == ["57P01"]
        assert spared.value("select 1") == "1"


def test_shutdown_by_the_console_ends_in_order(start: Start, server: Postgres, variant: Variant) -> None:
    """Exit status 0, no error in the log."""
    forebay = start(configuration(server, variant))
    with console(forebay).wire() as wire:
        wire.send(query("shutdown"))
        wire.rest()
    assert forebay.process is not None
    assert forebay.process.wait(timeout=15) == 0
    forebay.process = None


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("moment", ["idle", "in a transaction"])
def test_a_drain_lets_transactions_end(
    moment: str, mode: str, start: Start, server: Postgres, variant: Variant
) -> None:
    """TERM: those between transactions leave at once, others when they are done; a server of one's own is no reason."""
    databases = {"app": {"pool_mode": mode}}
    forebay = start(configuration(server, variant, databases=databases, limits={"drain_timeout": "60s"}))
    with forebay.target.wire() as wire:
        assert wire.value("select 1") == "1"
        if moment == "idle":
            forebay.send_signal(signal.SIGTERM)
            assert codes(wire.rest()) == ["57P01"]
        else:
            wire.ask(query("begin"))
            wire.ask(query("insert into scratch values (71, 'drained')"))
            forebay.send_signal(signal.SIGTERM)
            until(lambda: forebay.events("stopping"), within_s=5, what="it drains")
            wire.send(query("rollback"))
            assert [frame.tag for frame in wire.ready()] == ["C", "Z"]
            assert codes(wire.rest()) == ["57P01"]
        assert forebay.process is not None
        assert forebay.process.wait(timeout=10) == 0
        forebay.process = None


@pytest.mark.variants("uring-1", "epoll-1")
def test_a_drain_lets_thousands_go_at_once(start: Start, server: Postgres, variant: Variant) -> None:
    """They are all of one worker here, whose stack has room for as many calls within calls as any thread's."""
    forebay = start(configuration(server, variant, limits={"max_client_conn": 6000}))
    with contextlib.ExitStack() as held:
        wires = [held.enter_context(forebay.target.wire()) for _ in range(6000)]
        forebay.send_signal(signal.SIGTERM)
        assert {code for wire in wires for code in codes(wire.rest())} == {"57P01"}
    assert forebay.process is not None
    assert forebay.process.wait(timeout=10) == 0
    forebay.process = None


def test_a_drain_waits_for_no_further_request(start: Start, server: Postgres, variant: Variant) -> None:
    """A client that sends request after request is never idle: it is let go when the one under way is answered."""
    forebay = start(configuration(server, variant))
    answered = 0
    with forebay.target.wire() as wire, contextlib.suppress(OSError, Gone):
        wire.send(query("select pg_sleep(2.5)"))
        until(lambda: forebay.servers_active() == 1, within_s=10, what="it runs")
        forebay.send_signal(signal.SIGTERM)
        until(lambda: forebay.events("stopping"), within_s=5, what="it drains")
        while answered < 20:
            wire.ready()
            answered += 1
            wire.send(query("select pg_sleep(0.1)"))
    assert answered == 1
    assert forebay.process is not None
    assert forebay.process.wait(timeout=10) == 0
    forebay.process = None


def test_metrics_are_served(shared: Forebay) -> None:
    """Prometheus, and the probes of an orchestrator."""
    with shared.target.wire() as wire:
        wire.ask(query("select 1"))
    text = shared.metrics()
    assert "forebay_" in text
    assert shared.metrics("/livez")
    assert shared.metrics("/readyz")


def numbers(rows: list[dict[str, Any]], column: str) -> int:
    """The sum of a column."""
    return sum(int(row[column] or 0) for row in rows)


def test_counters_count(shared: Forebay) -> None:
    """SHOW STATS must be right before anybody decides by it."""

    def transactions() -> int:
        return numbers([r for r in shared.console("show stats") if r["database"] == "wide"], "total_xact_count")

    before = transactions()
    with shared.target.at(dbname="wide").wire() as wire:
        for _ in range(10):
            wire.ask(query("select 1"))
        wire.ask(query("begin"))
        wire.ask(query("select 1"))
        wire.ask(query("commit"))
    assert transactions() - before == 11


def test_workers_count_what_they_do(shared: Forebay) -> None:
    """Transactions of all workers are those of all databases; each takes turns and system calls, and copies little."""
    before = shared.console("show workers")
    assert len(before) == shared.sections["engine"]["workers"]
    with shared.target.at(dbname="wide").wire() as wire:
        for _ in range(100):
            wire.ask(query("select 1"))
        after = shared.console("show workers")
        assert numbers(after, "xact_count") - numbers(before, "xact_count") >= 100
        assert numbers(after, "xact_count") == numbers(shared.console("show stats"), "total_xact_count")
    for column in ("loop_turns", "io_calls"):
        assert numbers(after, column) - numbers(before, column) >= 100
    busiest = max(after, key=lambda row: int(row["xact_count"] or 0))
    assert float(busiest["xact_io_calls"] or 0) > 0
