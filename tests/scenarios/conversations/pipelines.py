"""The extended protocol, sent ahead."""

from __future__ import annotations

from tests.harness.wire import Wire, bind, describe, execute, flush, parse, query, sync
from tests.scenarios.conversations import conversation

ONE = [parse("", "select $1::int + 1"), bind(values=[b"41"]), describe("P"), execute()]


@conversation
def one_statement_in_one_pipeline(c: Wire) -> None:
    """What every driver does."""
    c.ask(*ONE, sync())


@conversation
def a_message_at_a_time_with_flush(c: Wire) -> None:
    """asyncpg and pgjdbc wait for the description before they bind."""
    c.send(parse("st", "select $1::text, $2::int"), describe("S", "st"), flush())
    c.read_until("T")
    c.send(bind(statement="st", values=[b"x", b"1"]), flush())
    c.read_until("2")
    c.send(execute(), flush())
    c.read_until("C")
    c.ask(sync())


@conversation
def several_statements_before_one_sync(c: Wire) -> None:
    """One implicit transaction, one ReadyForQuery."""
    c.ask(*ONE, *ONE, parse("", "select 'third'"), bind(), execute(), sync())


@conversation
def several_syncs_in_flight(c: Wire) -> None:
    """Replies in order, one ReadyForQuery for each."""
    for _ in range(20):
        c.send(*ONE, sync())
    c.ready(20)


@conversation
def several_syncs_in_one_write(c: Wire) -> None:
    """The same in one piece, with syncs that end nothing."""
    c.send(*[*ONE, sync()] * 5, sync(), sync(), *ONE, sync())
    c.ready(8)


@conversation
def syncs_in_a_transaction(c: Wire) -> None:
    """BEGIN and COMMIT by the extended protocol, all sent ahead."""
    steps = ["begin", "insert into scratch values (2, 'a')", "select count(*) from scratch where a = 2", "rollback"]
    for sql in steps:
        c.send(parse("", sql), bind(), execute(), sync())
    c.ready(4)
    assert c.status == "I"


@conversation
def a_transaction_in_one_pipeline(c: Wire) -> None:
    """BEGIN to ROLLBACK before the only Sync."""
    for sql in ("begin", "insert into scratch values (3, 'b')", "select count(*) from scratch where a = 3", "rollback"):
        c.send(parse("", sql), bind(), execute())
    c.ask(sync())


@conversation
def queries_between_pipelines(c: Wire) -> None:
    """Both protocols in one write."""
    c.send(query("select 1"), *ONE, sync(), query("select 2"), *ONE, sync())
    c.ready(4)


@conversation
def a_query_within_a_pipeline(c: Wire) -> None:
    """A Query before the Sync of a pipeline: two ReadyForQuery."""
    c.send(*ONE, query("select 7"), sync())
    c.ready(2)


@conversation
def flush_alone_and_twice(c: Wire) -> None:
    """Flush earns no reply."""
    c.send(flush(), flush(), *ONE, flush(), flush())
    c.read_until("C")
    c.ask(flush(), sync())


@conversation
def a_lone_sync(c: Wire) -> None:
    """Drivers recover with one."""
    c.ask(sync())
    c.send(sync(), sync(), sync())
    c.ready(3)


@conversation
def an_empty_statement(c: Wire) -> None:
    """EmptyQueryResponse by the extended protocol."""
    c.ask(parse("", ""), bind(), describe("P"), execute(), sync())


@conversation
def parameters_and_results_in_binary(c: Wire) -> None:
    """Formats pass untouched."""
    c.ask(parse("", "select $1::int, 'text', true"), bind(values=[b"5"], result=[1, 0, 1]), execute(), sync())
    c.ask(parse("", "select null::int, $1::text"), bind(values=[None]), execute(), sync())


@conversation
def declared_types(c: Wire) -> None:
    """The same text with other types is another statement."""
    c.ask(parse("typed", "select $1", [23]), describe("S", "typed"), sync())
    c.ask(parse("typed2", "select $1", [25]), describe("S", "typed2"), sync())
    c.ask(bind(statement="typed", values=[b"1"]), describe("P"), execute(), sync())
    c.ask(bind(statement="typed2", values=[b"1"]), describe("P"), execute(), sync())


@conversation
def a_parameter_longer_than_a_buffer(c: Wire) -> None:
    """A Bind that is cut in many pieces."""
    c.ask(parse("long", "select length($1)"), sync())
    c.ask(bind(statement="long", values=[b"z" * 500_000]), execute(), sync())


@conversation
def a_statement_longer_than_a_buffer(c: Wire) -> None:
    """A Parse that is cut in many pieces, named and shared."""
    sql = "select 1 /* " + "c" * 150_000 + " */"
    c.ask(parse("wordy", sql), bind(statement="wordy"), execute(), sync())
    c.ask(bind(statement="wordy"), execute(), sync())


@conversation
def many_statements_in_one_pipeline(c: Wire) -> None:
    """A batch insert as drivers send it."""
    c.send(parse("many", "select $1::int * 2"))
    for i in range(500):
        c.send(bind(statement="many", values=[str(i).encode()]), execute())
    c.ask(sync())
