"""One server, many clients: each has the session it thinks it has."""

from __future__ import annotations

import contextlib
from itertools import count

import pytest

from tests.harness.pooler import Forebay
from tests.harness.wire import Wire, bind, close, describe, execute, parse, query, row, sync

PID = "select pg_backend_pid()"

# Texts that no client has sent before stay unnamed on the server.
NEW = count()


def run(wire: Wire, statement: str, *values: bytes) -> list[list[str | None]]:
    """Executes a named statement and returns its rows. Raises AssertionError for an error."""
    frames = wire.ask(bind(statement=statement, values=values), execute(), sync())
    errors = [frame.fields for frame in frames if frame.tag == "E"]
    assert not errors, errors
    return [row(frame) for frame in frames if frame.tag == "D"]


def errors(wire: Wire, *messages: bytes) -> list[str]:
    """SQLSTATEs of what is said to some messages."""
    return [frame.fields["C"] for frame in wire.ask(*messages) if frame.tag == "E"]


def test_many_clients_share_one_server(shared: Forebay) -> None:
    """The point of a pooler."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(shared.target.wire()) for _ in range(40)]
        pids = set()
        for turn in range(3):
            for i, client in enumerate(clients):
                assert client.value(f"select '{turn} of {i}'") == f"{turn} of {i}"
                pids.add(client.value(PID))
        assert len(pids) == 1


def test_requests_sent_at_once_are_answered_to_those_who_asked(shared: Forebay) -> None:
    """A reply to the wrong client is the worst that a pooler can do."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(shared.target.wire()) for _ in range(40)]
        for turn in range(10):
            for i, client in enumerate(clients):
                client.send(parse("", f"select $1 || ' of {i}'"), bind(values=[str(turn).encode()]), execute(), sync())
            for i, client in enumerate(clients):
                rows = [row(frame) for frame in client.ready() if frame.tag == "D"]
                assert rows == [[f"{turn} of {i}"]]


def test_a_transaction_keeps_its_server_until_it_ends(shared: Forebay) -> None:
    """Another client's statement within a transaction would become part of it."""
    with shared.target.wire() as holder, shared.target.wire() as waiter:
        holder.ask(query("begin"))
        holder.ask(query("insert into scratch values (55, 'not committed')"))
        waiter.send(query("select count(*) from scratch where a = 55"))
        assert holder.value("select count(*) from scratch where a = 55") == "1"
        waiter.socket.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            raise AssertionError(f"the waiter was served within a transaction: {waiter.read()}")
        waiter.socket.settimeout(20)
        holder.ask(query("rollback"))
        assert [row(frame) for frame in waiter.ready() if frame.tag == "D"] == [["0"]]


def test_a_failed_transaction_fails_nobody_else(shared: Forebay) -> None:
    """25P02 belongs to the client that caused it."""
    with shared.target.wire() as failed, shared.target.wire() as other:
        failed.ask(query("begin"))
        failed.ask(query("select 1/0"))
        other.send(query("select 'fine'"))
        failed.ask(query("rollback"))
        assert [row(frame) for frame in other.ready() if frame.tag == "D"] == [["fine"]]


def test_a_name_means_to_each_client_what_it_prepared(shared: Forebay) -> None:
    """Every pgjdbc session calls its first statement S_1."""
    with shared.target.wire() as one, shared.target.wire() as two, shared.target.wire() as three:
        one.ask(parse("S_1", "select 'one', $1::int"), sync())
        two.ask(parse("S_1", "select 'two', $1::int"), sync())
        for _ in range(2):
            assert run(one, "S_1", b"1") == [["one", "1"]]
            assert run(two, "S_1", b"2") == [["two", "2"]]
        assert errors(three, bind(statement="S_1", values=[b"3"]), execute(), sync()) == ["26000"]
        two.ask(close("S", "S_1"), sync())
        assert run(one, "S_1", b"4") == [["one", "4"]]
        assert errors(two, bind(statement="S_1", values=[b"5"]), execute(), sync()) == ["26000"]


def test_a_text_is_prepared_once_for_all_clients(shared: Forebay) -> None:
    """The saving that prepared statements are shared for."""
    sql = "select 'prepared once', $1::int"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(shared.target.wire()) for _ in range(10)]
        for i, client in enumerate(clients):
            client.ask(parse(f"name_{i}", sql), describe("S", f"name_{i}"), sync())
            assert run(client, f"name_{i}", b"7") == [["prepared once", "7"]]
        held = clients[0].rows(f"select count(*) from pg_prepared_statements where statement = $${sql}$$")
        assert held == [["1"]]


def test_statements_survive_on_a_server_that_forgot_them(shared: Forebay) -> None:
    """DISCARD ALL of one client must not take the statements of the others."""
    for forget in ("discard all", "deallocate all", "discard all"):
        with shared.target.wire() as keeper, shared.target.wire() as vandal:
            keeper.ask(parse("keep", f"select 'kept through {forget}'"), sync())
            assert run(keeper, "keep") == [[f"kept through {forget}"]]
            vandal.ask(query(forget))
            assert run(keeper, "keep") == [[f"kept through {forget}"]]


def test_statements_follow_to_a_server_that_lacks_them(shared: Forebay) -> None:
    """After a server was closed the next one has never heard of any of them."""
    with shared.target.wire() as client, shared.target.wire() as admin:
        client.ask(parse("moved", "select 'moved', $1::int"), sync())
        assert run(client, "moved", b"1") == [["moved", "1"]]
        before = client.value(PID)
        admin.send(query("select pg_terminate_backend(pg_backend_pid())"))
        admin.ready()
        assert run(client, "moved", b"2") == [["moved", "2"]]
        assert client.value(PID) != before


def test_a_shared_statement_sees_each_clients_search_path(shared: Forebay) -> None:
    """One text, two schemas: the plan of one client must not read the table of another."""
    with shared.target.wire() as setup:
        for schema in ("left_side", "right_side"):
            setup.ask(query(f"create schema if not exists {schema}"))
            setup.ask(query(f"create table if not exists {schema}.here as select '{schema}' as side"))
    try:
        left, right = (shared.target.wire(options=f"-c search_path={s}") for s in ("left_side", "right_side"))
        with left, right:
            for client in (left, right):
                client.ask(parse("where", "select side from here"), sync())
            for _ in range(3):
                assert run(left, "where") == [["left_side"]]
                assert run(right, "where") == [["right_side"]]
    finally:
        with shared.target.wire() as setup:
            setup.ask(query("drop schema left_side cascade; drop schema right_side cascade"))


def test_a_shared_statement_reads_literals_as_its_client_does(shared: Forebay) -> None:
    """A date literal is read at Parse: with another client's DateStyle it is another day."""
    with shared.target.wire(DateStyle="ISO, MDY") as us, shared.target.wire(DateStyle="ISO, DMY") as eu:
        for client in (us, eu):
            client.ask(parse("day", "select '02/03/2024'::date"), sync())
        for _ in range(3):
            assert run(us, "day") == [["2024-02-03"]]
            assert run(eu, "day") == [["2024-03-02"]]


def test_a_time_written_as_a_literal_is_that_of_each_clients_own_parse(shared: Forebay) -> None:
    """PostgreSQL reads 'now' when it parses: shared, a client would be told when another one prepared the same text."""
    text = "select timestamptz 'now' >= $1"
    with shared.target.wire() as first, shared.target.wire() as second:
        first.ask(parse("s", text), parse("", text), sync())
        later = first.value("select clock_timestamp()").encode()
        for _ in range(3):
            second.ask(close("S", "s"), parse("s", text), sync())
            assert run(second, "s", later) == [["t"]]
            frames = second.ask(parse("", text), bind(values=[later]), execute(), sync())
            assert [row(frame) for frame in frames if frame.tag == "D"] == [["t"]]


def test_a_query_within_a_pipeline_harms_nobody_else(shared: Forebay) -> None:
    """PostgreSQL 18 refuses what follows a Query in an unsynced pipeline (XX000): its server must serve no one else."""
    with shared.target.wire() as odd, shared.target.wire() as other:
        odd.send(parse("", "select 1"), bind(), execute(), query("select 2"), sync())
        odd.ready(2)
        assert other.value("select 'unharmed'") == "unharmed"


@pytest.mark.parametrize("skipped", ["parse", "close"])
def test_an_unnamed_statement_is_nobody_elses_after_an_error(shared: Forebay, skipped: str) -> None:
    """What follows an error in a pipeline is not carried out: the statement of before is still on the server."""
    broken = parse(f"broken_{next(NEW)}", f"broken {next(NEW)}")
    with shared.target.wire() as owner, shared.target.wire() as other:
        owner.ask(parse("", f"select 'of the owner', {next(NEW)}"), sync())
        if skipped == "parse":
            assert errors(owner, broken, parse("", f"select {next(NEW)}"), sync()) == ["42601"]
        else:
            assert errors(other, broken, bind(), sync()) == ["42601"]
        assert errors(other, bind(), execute(), sync()) == ["26000"]


def test_statements_are_replaced_within_their_limit_on_the_server(shared: Forebay) -> None:
    """max_prepared_statements bounds what clients can pile up on a server."""
    target = shared.target.at(dbname="few")
    with target.wire() as client:
        for i in range(20):
            client.ask(parse(f"pile_{i}", f"select {i}"), bind(statement=f"pile_{i}"), execute(), sync())
        # Those of forebay's own, by which servers are handed over, have numbers that begin with a zero.
        piled = "select count(*) from pg_prepared_statements where name !~ '_0[0-9]+$'"
        assert int(client.value(piled) or "") <= 2


def test_a_schema_change_is_seen_by_statements_prepared_before(shared: Forebay) -> None:
    """A new column must not break clients that prepare the same text afterwards."""
    with shared.target.wire() as owner, shared.target.wire() as user:
        owner.ask(query("create table changing (a int)"))
        try:
            owner.ask(parse("wide", "select * from changing"), sync())
            assert run(owner, "wide") == []
            owner.ask(query("insert into changing values (1)"))
            assert run(owner, "wide") == [["1"]]
            user.ask(query("select 1"))
        finally:
            owner.ask(query("drop table changing"))
        assert errors(owner, bind(statement="wide"), execute(), sync()) == ["42P01"]


@pytest.mark.parametrize("name", ["", "mine"])
def test_an_unshared_statement_that_is_never_bound_is_nobody_elses(shared: Forebay, name: str) -> None:
    """Without account of statements, the next client of the server must not find what the last one has parsed."""
    target = shared.target.at(dbname="unshared")
    with target.wire() as other:
        with target.wire() as one:
            one.ask(parse(name, "select 'of one'"), sync())
            if not name:
                # One with a name keeps the server for its client.
                assert errors(other, bind(), execute(), sync()) == ["26000"]
        assert errors(other, bind(statement=name), execute(), sync()) == ["26000"]
