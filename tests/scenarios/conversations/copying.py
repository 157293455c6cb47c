"""COPY, both ways and by both protocols."""

from __future__ import annotations

from tests.harness.wire import (
    Wire,
    bind,
    copy_data,
    copy_done,
    copy_fail,
    describe,
    execute,
    flush,
    parse,
    query,
    sync,
)
from tests.scenarios.conversations import conversation

COPY_IN = "copy scratch from stdin"


def undone(c: Wire, *messages: bytes) -> None:
    """Runs a COPY in a transaction that is rolled back."""
    c.ask(query("begin"))
    c.send(*messages)
    c.ready()
    c.ask(query("select count(*), coalesce(sum(a), 0) from scratch"))
    c.ask(query("rollback"))


@conversation
def copy_out(c: Wire) -> None:
    """Streams of CopyData."""
    c.ask(query("copy (select i, repeat('x', i) from generate_series(1, 200) i) to stdout"))
    c.ask(query("copy (select 1 where false) to stdout with (format binary)"))


@conversation
def copy_out_by_the_extended_protocol(c: Wire) -> None:
    """As psycopg and pgx do it in a pipeline."""
    c.ask(parse("", "copy (select generate_series(1, 3)) to stdout"), bind(), describe("P"), execute(), sync())


@conversation
def copy_out_that_fails_midway(c: Wire) -> None:
    """An error in the stream, then ReadyForQuery."""
    c.ask(query("copy (select 100 / (50 - i) from generate_series(1, 60) i) to stdout"))
    c.ask(query("select 1"))


@conversation
def copy_in(c: Wire) -> None:
    """Rows in pieces that are no rows."""
    undone(c, query(COPY_IN), copy_data(b"1\tone\n2\tt"), copy_data(b"wo\n"), copy_data(b""), copy_done())


@conversation
def copy_in_a_step_at_a_time(c: Wire) -> None:
    """The client waits for CopyInResponse."""
    c.ask(query("begin"))
    c.send(query(COPY_IN))
    c.read_until("G")
    c.send(copy_data(b"5\tfive\n"))
    c.send(copy_data(b"\\.\n"))
    c.send(copy_done())
    c.ready()
    c.ask(query("rollback"))


@conversation
def copy_in_outside_a_transaction(c: Wire) -> None:
    """The server leaves at the ReadyForQuery after CopyDone."""
    c.send(query(COPY_IN), copy_data(b"77\tgoes again\n"), copy_done())
    c.ready()
    c.ask(query("delete from scratch where a = 77"))


@conversation
def copy_in_that_the_client_gives_up(c: Wire) -> None:
    """CopyFail: 57014 with the client's reason."""
    c.send(query(COPY_IN), copy_data(b"1\tone\n"), copy_fail("changed my mind"))
    c.ready()
    c.ask(query("select count(*) from scratch"))


@conversation
def copy_in_of_bad_data(c: Wire) -> None:
    """The error comes before CopyDone, and what is still sent earns no reply."""
    c.send(query(COPY_IN), copy_data(b"not a number\tx\n"))
    c.read_until("E")
    c.send(copy_data(b"2\ttwo\n"), copy_done())
    c.ready()
    c.ask(query("select 1"))


@conversation
def copy_in_of_bad_data_sent_ahead(c: Wire) -> None:
    """The same in one write, with a query behind it."""
    c.send(query(COPY_IN), copy_data(b"x\tx\n"), copy_data(b"3\tthree\n"), copy_done(), query("select 'after'"))
    c.ready(2)


@conversation
def copy_in_by_the_extended_protocol(c: Wire) -> None:
    """Sync and Flush are ignored while data is read."""
    c.ask(query("begin"))
    c.send(parse("", COPY_IN), bind(), execute(), flush())
    c.read_until("G")
    c.send(copy_data(b"8\teight\n"), flush(), copy_done(), sync())
    c.ready()
    c.ask(query("rollback"))


@conversation
def copy_in_by_the_extended_protocol_with_an_early_sync(c: Wire) -> None:
    """The Sync before the data is eaten by the COPY; the one after it counts."""
    c.ask(query("begin"))
    c.send(parse("", COPY_IN), bind(), execute(), sync(), copy_data(b"9\tnine\n"), copy_done(), sync())
    c.ready()
    c.ask(query("rollback"))


@conversation
def copy_in_of_bad_data_by_the_extended_protocol(c: Wire) -> None:
    """The server skips to Sync after the error."""
    c.send(parse("", COPY_IN), bind(), execute(), sync(), copy_data(b"bad\n"), copy_done(), sync())
    c.ready()
    c.ask(query("select 1"))


@conversation
def copy_in_that_fails_before_it_begins(c: Wire) -> None:
    """Data for a COPY that never began is ignored."""
    c.send(query("copy nowhere from stdin"), copy_data(b"1\n"), copy_done())
    c.ready()
    c.ask(query("select 1"))


@conversation
def copy_in_within_several_statements(c: Wire) -> None:
    """A COPY in the middle of a Query."""
    c.send(query(f"begin; {COPY_IN}; select count(*) from scratch; rollback"), copy_data(b"4\tfour\n"), copy_done())
    c.ready()


@conversation
def two_copies_in_one_query(c: Wire) -> None:
    """One Query, two streams of data."""
    c.send(query(f"begin; {COPY_IN}; {COPY_IN}; rollback"))
    c.read_until("G")
    c.send(copy_data(b"1\ta\n"), copy_done())
    c.read_until("G")
    c.send(copy_data(b"2\tb\n"), copy_done())
    c.ready()


@conversation
def copy_in_of_much_data(c: Wire) -> None:
    """More than any buffer, in pieces of many sizes."""
    rows = [b"%d\t%s\n" % (i, b"r" * (i % 300)) for i in range(20_000)]
    data = b"".join(rows)
    pieces = [copy_data(data[at : at + 7777]) for at in range(0, len(data), 7777)]
    undone(c, query(COPY_IN), *pieces, copy_data(b"1\t" + b"w" * 400_000 + b"\n"), copy_done())


@conversation
def a_late_copy_done_earns_no_reply(c: Wire) -> None:
    """Copy messages out of place are ignored by PostgreSQL."""
    c.ask(query("select 1"))
    c.send(copy_data(b"late\n"), copy_done(), copy_fail("late"), query("select 2"))
    c.ready()


@conversation
def copy_in_that_meets_another_request(c: Wire) -> None:
    """PostgreSQL can't tell any more where a message begins, and ends the session."""
    c.send(query(COPY_IN), copy_data(b"1\tone\n"))
    c.read_until("G")
    c.send(query("select 1"))
    assert "E" in [frame.tag for frame in c.rest()]


@conversation
def copy_in_that_meets_another_request_in_a_transaction(c: Wire) -> None:
    """The same behind Sync, which a server that copies ignores."""
    c.ask(query("begin"))
    c.send(parse("", COPY_IN), bind(), execute(), sync())
    c.read_until("G")
    c.send(query("select 1"), query("select 2"))
    assert "E" in [frame.tag for frame in c.rest()]
