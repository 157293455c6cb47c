"""Replication connections: a server of one's own, opened with the same wish, passed through, gone with its client."""

from __future__ import annotations

import re
import signal
import struct
import time

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import PASSWORD, Postgres
from tests.harness.target import Target
from tests.harness.wire import (
    Frame,
    Wire,
    bind,
    cancel,
    copy_data,
    copy_done,
    execute,
    message,
    parse,
    query,
    row,
    startup,
    sync,
    terminate,
)

BACK_PRESSURE_KB_MAX = 12_000


def codes(frames: list[Frame]) -> list[tuple[str, str]]:
    """Severity and SQLSTATE of errors."""
    return [(frame.fields["S"], frame.fields["C"]) for frame in frames if frame.tag == "E"]


def stream(wire: Wire) -> None:
    """Begins the stream of the log where it stands."""
    (identified,) = [row(frame) for frame in wire.ask(query("IDENTIFY_SYSTEM")) if frame.tag == "D"]
    wire.send(query(f"START_REPLICATION PHYSICAL {identified[2]} TIMELINE {identified[1]}"))
    assert wire.read_until("W")[-1].tag == "W"


def position(at: int, *, reply: bool) -> bytes:
    """Standby status update; reply: ask for an answer."""
    return copy_data(b"r" + struct.pack("!QQQQ?", at, at, at, 0, reply))


def is_alive(wire: Wire) -> bool:
    """Asks the server within its stream."""
    wire.send(position(1, reply=True))
    while True:
        frame = wire.read()
        assert frame.tag == "d", frame.line
        if frame.body[:1] == b"k":
            return True


@pytest.fixture
def pooled(start: Start, server: Postgres, variant: Variant) -> Forebay:
    """A forebay whose pool of one server is the only one that the database allows."""
    databases = {"app": {"pool_size": 1, "max_db_connections": 1, "max_replication_connections": 2}}
    return start(configuration(server, variant, databases=databases))


def superuser(forebay: Forebay) -> Target:
    return forebay.target.at(user="postgres")


def replicating(direct: Target) -> int:
    """Walsenders at the server."""
    with direct.wire() as watcher:
        return int(watcher.value("select count(*) from pg_stat_activity where backend_type = 'walsender'") or 0)


@pytest.mark.parametrize("value", ["true", "database", "on", "1", "no", "maybe", ""])
def test_the_wish_is_read_as_the_server_reads_it(value: str, shared: Forebay, direct: Target) -> None:
    """A boolean in any of its spellings, or `database`."""
    pooled, plain = (
        target.first(startup(user="postgres", database="app", replication=value)) for target in (shared.target, direct)
    )
    assert codes(pooled) == codes(plain)
    assert [frame.tag for frame in pooled if frame.tag != "S"] == [frame.tag for frame in plain if frame.tag != "S"]


TALK: list[list[bytes]] = [
    [query("SHOW wal_level")],
    [query("TIMELINE_HISTORY 7")],
    [query("CREATE_REPLICATION_SLOT talk TEMPORARY PHYSICAL")],
    [query("CREATE_REPLICATION_SLOT talk TEMPORARY PHYSICAL")],
    [query("DROP_REPLICATION_SLOT talk")],
    [query("this is no command")],
    [parse("", "select 1"), bind(), execute(), sync()],
    [copy_data(b"late"), copy_done(), query("SHOW server_version")],
    [query("select 1 as one; select 'two'")],
    [query("begin"), query("select 1/0"), query("rollback")],
    [message("F", struct.pack("!IHHH", 1598, 0, 0, 0))],
]


@pytest.mark.parametrize("kind", ["database", "true"])
def test_a_conversation_is_that_with_the_server(kind: str, shared: Forebay, direct: Target) -> None:
    """Commands of its own grammar, errors, statements where there is a database, and what it refuses."""
    talks = []
    for target in (shared.target, direct):
        with target.at(user="postgres").wire(replication=kind) as wire:
            wire.seen.clear()
            for messages in TALK:
                wire.send(*messages)
                wire.ready(sum(m[:1] in b"QSF" for m in messages))
            # Where the log stands differs from one moment to the next.
            talks.append([re.sub(r"[0-9A-F]+/[0-9A-F]+", "LSN", line) for line in wire.seen])
    assert talks[0] == talks[1]
    assert len(talks[0]) > 30


def test_it_has_a_server_of_its_own(pooled: Forebay, direct: Target) -> None:
    """The pool is full with one server, the database too: neither counts it, and nobody gets it afterwards."""
    target = superuser(pooled)
    pid = "select pg_backend_pid()"
    with target.wire() as ordinary, target.wire(replication="database", application_name="mine") as wire:
        ordinary.ask(query("begin"))
        own = wire.value(pid)
        assert own != ordinary.value(pid)
        assert wire.value("show application_name") == "mine"
        wire.ask(query("set work_mem = '7MB'"))
        assert wire.value("show work_mem") == "7MB"
        kinds = [row["replication"] for row in pooled.console("show clients") if row["database"] == "app"]
        assert kinds == ["none", "logical"]
        wire.send(terminate())
        assert wire.ends()
        ordinary.ask(query("rollback"))
        with direct.wire() as watcher:
            gone = f"select count(*) from pg_stat_activity where pid = {own}"
            until(lambda: watcher.value(gone) == "0", within_s=5, what="its server has left")


def test_the_limit_refuses_and_does_not_queue(pooled: Forebay) -> None:
    """Those that are there may last for ever."""
    target = superuser(pooled)
    with target.wire(replication="true"):
        with target.wire(replication="database"):
            refused = target.first(startup(user="postgres", database="app", replication="true"))
            assert codes(refused) == [("FATAL", "53300")]
            assert "(FB209)" in refused[-1].fields["H"]
            with target.wire() as ordinary:
                assert ordinary.value("select 1") == "1"

        def fits() -> bool:
            return codes(target.first(startup(user="postgres", database="app", replication="true"))) == []

        until(fits, within_s=5, what="the place of the one that left is free")


def test_a_limit_of_none_refuses(start: Start, server: Postgres, variant: Variant) -> None:
    """FB302 says which setting; the console takes none either."""
    forebay = start(configuration(server, variant, databases={"app": {"max_replication_connections": 0}}))
    for database in ("app", "forebay"):
        refused = forebay.target.first(startup(user="ops", database=database, replication="true"))
        assert codes(refused) == [("FATAL", "0A000")]
        assert "(FB302)" in refused[-1].fields["H"]


def test_the_server_says_why_it_refuses(shared: Forebay) -> None:
    """`app` may not replicate: the answer names the server's reason, and the pool of `app` serves on."""
    refused = shared.target.first(startup(user="app", database="app", replication="database"))
    assert [code for code, _ in codes(refused)] == ["FATAL"]
    assert "42501" in str(refused[-1].fields)
    with shared.target.wire() as ordinary:
        assert ordinary.value("select 1") == "1"


LIMITS = {
    "client_idle_timeout": "300ms",
    "idle_transaction_timeout": "300ms",
    "transaction_timeout": "300ms",
    "query_timeout": "300ms",
    "server_lifetime": "300ms",
    "server_idle_timeout": "300ms",
    "pin_idle_limit": "300ms",
}


def test_no_time_limit_ends_it(start: Start, server: Postgres, variant: Variant) -> None:
    """A standby is silent while nothing is written; an ordinary client is closed meanwhile."""
    forebay = start(configuration(server, variant, databases={"app": LIMITS}))
    target = superuser(forebay)
    with target.wire(replication="true") as streaming, target.wire(replication="database") as idle:
        stream(streaming)
        idle.ask(query("begin"))
        for _ in range(3):
            with target.wire() as ordinary:
                assert codes(ordinary.rest()) == [("FATAL", "57P05")]
        assert is_alive(streaming)
        assert idle.value("select 1") == "1"


def ended(forebay: Forebay) -> None:
    """It ends by itself once the drain is over."""
    assert forebay.process is not None
    assert forebay.process.wait(timeout=10) == 0
    forebay.process = None


@pytest.mark.parametrize("doing", ["streaming", "idle"])
def test_a_drain_sends_it_elsewhere(doing: str, start: Start, server: Postgres, variant: Variant) -> None:
    """57P01 at once: it goes on from where it stood, over another forebay or the server itself."""
    forebay = start(configuration(server, variant, limits={"drain_timeout": "60s"}))
    with superuser(forebay).wire(replication="true") as wire:
        if doing == "streaming":
            stream(wire)
        began = time.monotonic()
        forebay.send_signal(signal.SIGTERM)
        assert codes(wire.rest()) == [("FATAL", "57P01")]
        assert time.monotonic() - began < 5
    ended(forebay)


def test_a_drain_lets_a_command_end(start: Start, server: Postgres, variant: Variant, direct: Target) -> None:
    """A base backup, or a slot that is being made, is not cut."""
    forebay = start(configuration(server, variant, limits={"drain_timeout": "60s"}))
    with superuser(forebay).wire(replication="database") as wire:
        wire.send(query("select pg_sleep(1), 'done'"))
        asleep = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and backend_type = 'walsender'"
        with direct.wire() as watcher:
            until(lambda: watcher.value(asleep) == "1", within_s=5, what="it runs")
        forebay.send_signal(signal.SIGTERM)
        frames = wire.rest()
        assert [frame.tag for frame in frames] == ["T", "D", "C", "Z", "E"]
        assert codes(frames) == [("FATAL", "57P01")]
    ended(forebay)


@pytest.mark.parametrize("doing", ["streaming", "idle"])
def test_a_lost_server_ends_the_session(doing: str, shared: Forebay, direct: Target) -> None:
    """57P01 with the server's own words, as in session mode."""
    with shared.target.at(user="postgres").wire(replication="true", application_name="victim") as wire:
        if doing == "streaming":
            stream(wire)
        with direct.at(user="postgres").wire() as killer:
            killer.value("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'victim'")
        frames = wire.rest()
        assert codes(frames) == [("FATAL", "57P01")]
        assert "terminating connection" in str(frames[-1].fields)


def test_a_client_that_vanishes_takes_its_server_along(shared: Forebay, direct: Target) -> None:
    """A walsender that nobody reads holds back the log."""
    before = replicating(direct)
    wires = [shared.target.at(user="postgres").wire(replication="true") for _ in range(3)]
    stream(wires[0])
    wires[1].send(message("Q", b"IDENTIFY")[:-1])
    assert replicating(direct) == before + 3
    for wire in wires:
        wire.reset()
    until(lambda: replicating(direct) == before, within_s=5, what="the walsenders are gone")


@pytest.mark.parametrize("doing", ["streaming", "sleeping"])
def test_it_can_be_cancelled(doing: str, shared: Forebay, direct: Target) -> None:
    """Its key is its own, and the session goes on as at the server itself."""
    with shared.target.at(user="postgres").wire(replication="database") as wire:
        if doing == "streaming":
            stream(wire)
        else:
            wire.send(query("select pg_sleep(30)"))
            asleep = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and backend_type = 'walsender'"
            with direct.wire() as watcher:
                until(lambda: watcher.value(asleep) == "1", within_s=5, what="it runs")
        with shared.target.dial() as canceller:
            canceller.send(cancel(*wire.key))
            assert canceller.ends()
        assert codes(wire.ready()) == [("ERROR", "57014")]
        assert wire.value("select 1") == "1"


def test_a_slow_reader_holds_the_server_back(start: Start, server: Postgres, variant: Variant, direct: Target) -> None:
    """A base backup of any size passes in bounded memory."""
    forebay = start(configuration(server, variant))
    with superuser(forebay).wire(replication="true") as wire:
        before = forebay.rss_kb()
        wire.send(query("BASE_BACKUP (CHECKPOINT 'fast', MANIFEST 'no')"))
        wire.read_until("H")
        waits = "'WalSenderWriteData', 'ClientWrite'"
        blocked = f"select count(*) from pg_stat_activity where wait_event in ({waits})"
        with direct.wire() as watcher:
            until(lambda: watcher.value(blocked) == "1", within_s=20, what="the server waits for its reader")
        assert forebay.rss_kb() - before < BACK_PRESSURE_KB_MAX
        frames = wire.read_until("Z")
        assert sum(len(frame.body) for frame in frames if frame.tag == "d") > 20_000_000
    assert forebay.rss_kb() - before < BACK_PRESSURE_KB_MAX


def test_pause_and_kill(pooled: Forebay) -> None:
    """PAUSE does not wait for what never ends; KILL ends it."""
    with superuser(pooled).wire(replication="true") as wire:
        stream(wire)
        pooled.console("pause app")
        assert is_alive(wire)
        pooled.console("resume app")
        pooled.console("kill app")
        assert codes(wire.rest()) == [("FATAL", "57P01")]
        pooled.console("resume app")


QUERY = "select rolname, rolpassword from pg_authid where rolname = $1 and rolcanlogin"


@pytest.mark.parametrize("known", ["configured", "looked_up"])
def test_every_way_of_logging_in_serves(known: str, start: Start, server: Postgres, variant: Variant) -> None:
    """Of a user known beforehand, and of one found by auth_query: SCRAM both ways, by the client's own proof."""
    sections = configuration(server, variant, auth={"type": "scram-sha-256"})
    if known == "looked_up":
        auth = {"type": "scram-sha-256", "query": QUERY, "user": "lookup", "dbname": "app"}
        lookup = {"users.lookup": {"secret": {"env": "SECRET_lookup"}}, "users.scram_user": {"_absent": True}}
        sections = configuration(server, variant, auth=auth, **lookup)
    with server.target.connect(user="postgres", autocommit=True) as admin:
        admin.execute("alter role scram_user replication")
    try:
        target = start(sections).target.at(user="scram_user", password=PASSWORD.format("scram_user"))
        with target.connect(autocommit=True, replication="database") as connection:
            assert connection.pgconn.exec_(b"IDENTIFY_SYSTEM").get_value(0, 3) == b"app"
    finally:
        with server.target.connect(user="postgres", autocommit=True) as admin:
            admin.execute("alter role scram_user noreplication")
