"""Simple queries."""

from __future__ import annotations

from tests.harness.wire import Wire, function_call, query
from tests.scenarios.conversations import conversation


@conversation
def a_query_returns_rows(c: Wire) -> None:
    """The least that must work."""
    c.ask(query("select id, name, note from people order by id limit 3"))


@conversation
def an_empty_query_is_answered(c: Wire) -> None:
    """Drivers send one to see whether the connection lives."""
    c.ask(query(""))
    c.ask(query(" -- nothing\n"))


@conversation
def several_statements_in_one_query(c: Wire) -> None:
    """Migrations come as files of many statements."""
    c.ask(query("select 1; select 2 where false; set local work_mem = '1MB'; select 'three'"))


@conversation
def several_statements_stop_at_the_first_error(c: Wire) -> None:
    """What stands after an error must not run."""
    c.ask(query("select 1; select 1/0; select 2"))
    c.ask(query("select 3"))


@conversation
def several_queries_in_one_write(c: Wire) -> None:
    """A client may send ahead without Sync."""
    c.send(query("select 1"), query("select 2; select 3"), query(""), query("select 1/0"), query("select 4"))
    c.ready(5)


@conversation
def a_transaction_over_several_queries(c: Wire) -> None:
    """Its status must be true at every step: drivers decide by it."""
    c.ask(query("begin"))
    c.ask(query("insert into scratch values (1, 'kept to myself')"))
    c.ask(query("savepoint one"))
    c.ask(query("select * from scratch order by a"))
    c.ask(query("rollback to one"))
    c.ask(query("rollback"))
    c.ask(query("select count(*) from scratch"))


@conversation
def a_failed_transaction_takes_only_its_end(c: Wire) -> None:
    """25P02 comes from the server, and the client stays on it."""
    c.ask(query("begin"))
    c.ask(query("select broken"))
    assert c.status == "E"
    c.ask(query("select 1"))
    c.ask(query("commit"))
    assert c.status == "I"
    c.ask(query("select 1"))


@conversation
def a_transaction_that_begins_in_the_middle_of_a_query(c: Wire) -> None:
    """Status T after a text that does not begin with BEGIN: the server must stay."""
    c.ask(query("select 1; begin; select 2"))
    assert c.status == "T"
    c.ask(query("select 3; rollback; begin"))
    c.ask(query("commit; select 4"))
    assert c.status == "I"


@conversation
def a_chained_commit_keeps_the_transaction_open(c: Wire) -> None:
    """COMMIT AND CHAIN ends a transaction and leaves the next one open."""
    c.ask(query("begin isolation level repeatable read"))
    c.ask(query("commit and chain"))
    assert c.status == "T"
    c.ask(query("show transaction_isolation"))
    c.ask(query("rollback"))


@conversation
def notices_come_in_their_place(c: Wire) -> None:
    """A notice that comes late belongs to another query in the log."""
    c.ask(query("select complain()"))
    c.ask(query("drop table if exists not_there"))
    c.ask(query("rollback"))


@conversation
def rows_of_every_width(c: Wire) -> None:
    """Rows that end just before, at and after the end of a receive buffer."""
    c.ask(query("select repeat('x', n) from unnest(array[0, 1, 8191, 8192, 16370, 16384, 16385, 65536, 300000]) n"))


@conversation
def a_result_of_many_rows(c: Wire) -> None:
    """Many frames in many buffers."""
    c.ask(query("select i, md5(i::text) from generate_series(1, 20000) i"))


@conversation
def a_query_of_many_bytes(c: Wire) -> None:
    """A text longer than any buffer."""
    c.ask(query("select length('" + "y" * 200_000 + "')"))


@conversation
def text_that_is_not_ascii(c: Wire) -> None:
    """Lengths are bytes, not characters."""
    c.ask(query("select 'grüße, 世界' as \"größe\""))


@conversation
def a_function_call(c: Wire) -> None:
    """libpq's PQfn, and with it large objects."""
    c.ask(function_call(1598))  # random(): its value differs, so only the kinds of the frames are compared
    c.seen[-2] = c.seen[-2][:20]
    c.ask(function_call(1404, b"one", b"two"))
    c.ask(function_call(177, b"1", b"2"))
    c.ask(function_call(177, b"1", b"not a number"))
    c.ask(function_call(999_999))
