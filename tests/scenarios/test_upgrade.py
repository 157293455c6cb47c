"""Online restart: connections move to a new process, in whatever they are in the middle of."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres, free_port
from tests.harness.target import Target
from tests.harness.wire import (
    Frame,
    Wire,
    bind,
    cancel,
    copy_data,
    copy_done,
    describe,
    execute,
    parse,
    query,
    row,
    sync,
)


def tags(frames: list[Frame]) -> str:
    """The frames' tags in a row."""
    return "".join(frame.tag for frame in frames)


def values(frames: list[Frame]) -> list[str | None]:
    """The first column of all rows."""
    return [row(frame)[0] for frame in frames if frame.tag == "D"]


@pytest.fixture
def forebay(server: Postgres, variant: Variant, start: Start) -> Forebay:
    """One that can be upgraded: its port is known beforehand."""
    sections = configuration(
        server,
        variant,
        databases={"app": {"pool_size": 12}, "one": {"pool_size": 1}},
        server_defaults={"query_wait_timeout": "120s"},
        listen={"port": free_port(), "address": ["127.0.0.1"]},
    )
    return start(sections)


def waiting(forebay: Forebay) -> int:
    """Clients that wait for a server."""
    return sum(int(row["cl_waiting"] or 0) for row in forebay.console("show pools"))


def without_connections(forebay: Forebay) -> int:
    """Descriptors that are none of a client or server."""
    shown = sum(len(forebay.console(f"show {what}")) for what in ("clients", "servers"))
    return forebay.files() - shown


Later = Callable[[], None]


def in_a_transaction(wire: Wire) -> Later:
    """A transaction with a setting of its own, and a server that nobody else may have."""
    pids = []

    def begins() -> None:
        wire.ask(query("begin"))
        wire.ask(query("set local work_mem to '77MB'"))
        pids.append(wire.value("select pg_backend_pid()"))

    def goes_on() -> None:
        assert wire.value("select pg_backend_pid()") == pids[-1]
        assert wire.value("show work_mem") == "77MB"
        assert tags(wire.ask(query("commit"))) == "CZ"
        begins()

    begins()
    return goes_on


def with_settings(wire: Wire) -> Later:
    """A setting of the session, which moves from server to server with its client."""
    wire.ask(query("set search_path to audit, public"))

    def goes_on() -> None:
        assert wire.value("show search_path") == "audit, public"
        assert tags(wire.ask(query("reset search_path"))).endswith("Z")
        assert wire.value("show search_path") != "audit, public"
        wire.ask(query("set search_path to audit, public"))

    return goes_on


def with_statements(wire: Wire) -> Later:
    """Named statements, of the protocol and of SQL; and the unnamed one in a transaction."""
    wire.ask(parse("s", "select $1::int * 2"), describe("S", "s"), sync())
    wire.ask(query("prepare p as select 'prepared'"))

    def goes_on() -> None:
        assert values(wire.ask(bind("", "s", [b"21"]), execute(), sync())) == ["42"]
        assert wire.value("execute p") == "prepared"
        again = wire.ask(parse("s", "select 1"), sync())
        assert [frame.fields["C"] for frame in again if frame.tag == "E"] == ["42P05"]

    return goes_on


def pinned(wire: Wire) -> Later:
    """A temporary table keeps its server."""
    wire.ask(query("create temp table mine as select 'kept' as what"))

    def goes_on() -> None:
        assert wire.value("select what from mine") == "kept"

    return goes_on


def in_a_pipeline(wire: Wire) -> Later:
    """Half of a pipeline is sent, and half of a message behind it."""
    whole = parse("", "select 'piped'") + bind("") + execute() + parse("", "select 'twice'") + bind("") + execute()
    wire.send(whole[:-7])

    def goes_on() -> None:
        wire.send(whole[-7:] + sync())
        assert values(wire.ready()) == ["piped", "twice"]
        wire.send(whole[:-7])

    return goes_on


def in_a_copy(wire: Wire) -> Later:
    """Half of the rows of a COPY are sent."""
    wire.ask(query("begin"))
    wire.ask(query("create temp table rows (n int) on commit drop"))

    def begins() -> None:
        wire.send(query("copy rows from stdin"))
        wire.read_until("G")
        wire.send(copy_data(b"1\n"), copy_data(b"2\n3\n")[:-2])

    def goes_on() -> None:
        wire.send(copy_data(b"2\n3\n")[-2:], copy_done())
        assert tags(wire.ready()) == "CZ"
        begins()

    begins()
    return goes_on


def with_half_a_message(wire: Wire) -> Later:
    """A Query is cut in two."""
    whole = query("select 'halves'")
    wire.send(whole[:9])

    def goes_on() -> None:
        wire.send(whole[9:])
        assert values(wire.ready()) == ["halves"]
        wire.send(whole[:9])

    return goes_on


def while_it_runs(wire: Wire) -> Later:
    """A request is at work: its answer comes through the new process."""
    wire.send(query("select pg_sleep(0.7), 'slept'"))

    def goes_on() -> None:
        frames = wire.ready()
        assert [row(frame)[1] for frame in frames if frame.tag == "D"] == ["slept"]
        wire.send(query("select pg_sleep(0.7), 'slept'"))

    return goes_on


def while_it_reads_nothing(wire: Wire) -> Later:
    """More rows are on their way than anybody keeps: the server waits, and so do bytes in every place between."""

    def begins() -> None:
        wire.send(query("select repeat('x', 1000) from generate_series(1, 12000)"))

    def goes_on() -> None:
        assert set(values(wire.ready())) == {"x" * 1000}
        begins()

    begins()
    return goes_on


def idle(wire: Wire) -> Later:
    """Nothing is under way."""

    def goes_on() -> None:
        assert wire.value("select 'here'") == "here"

    return goes_on


KINDS = [in_a_transaction, with_settings, with_statements, pinned, in_a_pipeline, in_a_copy, with_half_a_message,
         while_it_runs, while_it_reads_nothing, idle]  # fmt: skip


def test_clients_move_in_whatever_they_are_in_the_middle_of(forebay: Forebay, direct: Target) -> None:
    """Twice in a row, nobody notices; the new process holds as many descriptors as the one before."""
    with direct.wire() as watcher:
        watcher.ask(query("create schema if not exists audit"))
    one = forebay.target.at(dbname="one")
    with forebay.target.wire() as console_of_old, one.wire() as holder, one.wire() as waiter:
        console_of_old.close()
        wires = [forebay.target.wire() for _ in KINDS]
        holder.ask(query("begin"))
        waiter.send(query("select 'served'"))
        until(lambda: waiting(forebay) == 1, within_s=10, what="one waits")
        later = [kind(wire) for kind, wire in zip(KINDS, wires, strict=True)]
        spare = without_connections(forebay)
        for _ in range(2):
            said = forebay.upgrade()
            assert f"{len(KINDS) + 2} clients moved" in said, said
            assert "can't move" not in said, said
            for goes_on in later:
                goes_on()
            # What a client begins anew must have reached its server before the next time.
            with forebay.target.wire() as new:
                assert new.value("select 'new'") == "new"
        until(lambda: without_connections(forebay) <= spare, within_s=5, what="no descriptor is left over")
        assert holder.value("select 'holds'") == "holds"
        assert tags(holder.ask(query("commit"))) == "CZ"
        assert values(waiter.ready()) == ["served"]
        for wire in wires:
            wire.close()


def without_established(forebay: Forebay) -> int:
    """Descriptors that are none of an established TCP connection, whoever has it."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    established = {f"socket:[{fields[9]}]" for fields in rows if fields[3] == "01"}
    count = 0
    for entry in Path(f"/proc/{forebay.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            count += str(entry.readlink()) not in established
    return count


def test_a_process_that_took_over_holds_no_descriptor_more(forebay: Forebay) -> None:
    """Than the one that was started."""
    with forebay.target.wire() as wire:
        wire.value("select 1")
        before = without_established(forebay)
        forebay.upgrade()
        wire.value("select 1")
        until(lambda: without_established(forebay) <= before, within_s=10, what="no descriptor is left over")


def test_a_cancel_reaches_a_client_that_has_moved(forebay: Forebay, direct: Target) -> None:
    """Its key is the one that it was told by the process before."""
    sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and usename = 'app'"
    with forebay.target.wire() as wire, direct.wire() as watcher:
        forebay.upgrade()
        wire.send(query("select pg_sleep(30)"))
        until(lambda: watcher.value(sleeping) == "1", within_s=10, what="the query runs")
        with forebay.target.dial() as canceller:
            canceller.send(cancel(*wire.key))
            assert canceller.ends()
        assert [frame.fields["C"] for frame in wire.ready() if frame.tag == "E"] == ["57014"]
        assert wire.value("select 1") == "1"


def test_a_configuration_that_cannot_be_used_leaves_all_as_it_was(forebay: Forebay) -> None:
    """Neither a wrong key nor another port costs anybody a connection."""
    with forebay.target.wire() as wire:
        wire.ask(query("begin"))
        good = forebay.path.read_text()
        bad_ones = {"nonsense": good + "\n[nonsense]\nx = 1\n", "workerz": good.replace("workers", "workerz")}
        for words, bad in bad_ones.items():
            forebay.path.write_text(bad)
            with pytest.raises(AssertionError, match=words):
                forebay.upgrade()
        forebay.path.write_text(good)
        assert wire.value("select 1") == "1"
        assert tags(wire.ask(query("commit"))) == "CZ"
        with forebay.target.wire() as other:
            assert other.value("select 2") == "2"


@pytest.mark.variants("uring-2", "epoll-1")
def test_who_cannot_move_is_let_go_when_its_transaction_ends(server: Postgres, variant: Variant, start: Start) -> None:
    """LISTEN: in a transaction nobody is cut; who is in none is told to connect again."""
    listen = {"port": free_port(), "address": ["127.0.0.1"]}
    forebay = start(configuration(server, variant, listen=listen, limits={"drain_timeout": "60s"}))
    before = forebay.process
    assert before is not None
    with forebay.target.wire() as busy, forebay.target.wire() as hears, forebay.target.wire() as plain:
        for wire in (busy, hears):
            wire.ask(query("listen news"))
        busy.ask(query("begin"))
        assert "2 can't move" in forebay.upgrade(ends=False)
        assert plain.value("select 1") == "1"
        assert [frame.fields["C"] for frame in hears.rest() if frame.tag == "E"] == ["57P01"]
        assert busy.value("select 'still here'") == "still here"
        assert before.poll() is None
        busy.send(query("commit"))
        frames = busy.rest()
        assert tags(frames)[:2] == "CZ"
        assert [frame.fields["C"] for frame in frames if frame.tag == "E"] == ["57P01"]
        assert before.wait(timeout=15) == 0


@pytest.mark.variants("uring-2", "epoll-1")
def test_what_is_paused_stays_paused(forebay: Forebay) -> None:
    """Nobody who relies on PAUSE finds a statement on the server because the pooler was upgraded."""
    with forebay.target.wire() as wire:
        forebay.console("pause app")
        wire.send(query("select 'resumed'"))
        until(lambda: waiting(forebay) == 1, within_s=10, what="the client waits")
        forebay.upgrade()
        states = {str(row["name"]): str(row["paused"]) for row in forebay.console("show databases")}
        assert states["app"] == "1"
        assert waiting(forebay) == 1
        forebay.console("resume app")
        assert values(wire.ready()) == ["resumed"]
