"""Errors, in every state in which one can come."""

from __future__ import annotations

from tests.harness.wire import Wire, bind, describe, execute, flush, parse, query, sync
from tests.scenarios.conversations import conversation


@conversation
def an_error_in_a_simple_query(c: Wire) -> None:
    """Code, message, position and hint arrive whole."""
    c.ask(query("select nam from people"))
    c.ask(query("selct 1"))
    c.ask(query("insert into people values (1, 'again')"))


@conversation
def an_error_at_parse(c: Wire) -> None:
    """Everything up to Sync is skipped, and Sync is answered once."""
    c.ask(parse("", "select missing"), bind(), describe("P"), execute(), sync())
    c.ask(parse("", "select 1"), bind(), describe("P"), execute(), sync())


@conversation
def an_error_at_bind(c: Wire) -> None:
    """A value that can't be read."""
    c.ask(parse("", "select $1::int"), bind(values=[b"seven"]), execute(), sync())
    c.ask(parse("", "select $1::int"), bind(values=[b"7", b"8"]), execute(), sync())
    c.ask(parse("", "select $1::int"), bind(values=[b"7"]), execute(), sync())


@conversation
def an_error_at_execute_after_rows(c: Wire) -> None:
    """Rows that came before the error are not taken back."""
    c.ask(parse("", "select 10 / (3 - i) from generate_series(1, 5) i"), bind(), execute(), sync())


@conversation
def an_error_skips_to_the_sync_of_its_own_pipeline(c: Wire) -> None:
    """One error, one ReadyForQuery for each Sync; what follows the Sync runs."""
    broken = [parse("", "select 1"), bind(), execute(), parse("", "select 1/0"), bind(), execute()]
    c.send(*broken, parse("", "select 2"), bind(), execute(), sync())
    c.send(parse("", "select 3"), bind(), execute(), sync())
    c.ready(2)


@conversation
def a_statement_whose_parse_was_skipped_does_not_exist(c: Wire) -> None:
    """Registering a skipped Parse would answer a later Bind with a statement the server never saw."""
    c.ask(parse("", "select 1/0"), bind(), execute(), parse("skipped", "select 5"), sync())
    c.ask(bind(statement="skipped"), execute(), sync())
    c.ask(parse("skipped", "select 6"), bind(statement="skipped"), execute(), sync())


@conversation
def a_statement_whose_parse_failed_does_not_exist(c: Wire) -> None:
    """The name is free after the failure."""
    c.ask(parse("bad", "select missing"), sync())
    c.ask(bind(statement="bad"), execute(), sync())
    c.ask(parse("bad", "select 8"), bind(statement="bad"), execute(), sync())


@conversation
def an_error_in_a_transaction_by_the_extended_protocol(c: Wire) -> None:
    """Status E after Sync, then 25P02 for all but the end."""
    c.ask(query("begin"))
    c.ask(parse("", "select 1/0"), bind(), execute(), sync())
    assert c.status == "E"
    c.ask(parse("", "select 1"), sync())
    c.ask(parse("", "rollback"), bind(), execute(), sync())
    assert c.status == "I"


@conversation
def an_error_with_flush_is_answered_before_sync(c: Wire) -> None:
    """A client that flushed waits for the error, and only then sends Sync."""
    c.send(parse("", "select missing"), flush())
    c.read_until("E")
    c.send(parse("", "select 1"), bind(), execute(), flush())
    c.ask(sync())
    c.ask(query("select 2"))


@conversation
def an_implicit_transaction_is_undone_by_an_error(c: Wire) -> None:
    """Statements before the error in the same pipeline leave no trace."""
    insert = [parse("", "insert into scratch values (9, 'undone')"), bind(), execute()]
    c.ask(*insert, parse("", "select 1/0"), bind(), execute(), sync())
    c.ask(query("select count(*) from scratch where a = 9"))


@conversation
def a_query_after_an_unsynced_error_is_skipped(c: Wire) -> None:
    """PostgreSQL skips a Query too until it has seen the Sync."""
    c.send(parse("", "select missing"), query("select 1"), sync())
    c.ready(1)
    c.ask(query("select 2"))


@conversation
def several_errors_in_several_syncs(c: Wire) -> None:
    """Each Sync has its own error."""
    broken = [parse("", "select 1/0"), bind(), execute(), sync()]
    right = [parse("", "select 1"), bind(), execute(), sync()]
    c.send(*broken, *right, *broken, sync(), *right)
    c.ready(5)
