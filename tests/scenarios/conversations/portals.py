"""Portals and row limits."""

from __future__ import annotations

from tests.harness.wire import Wire, bind, close, describe, execute, flush, parse, query, sync
from tests.scenarios.conversations import conversation

SERIES = "select i from generate_series(1, 7) i"


@conversation
def rows_a_few_at_a_time_within_a_pipeline(c: Wire) -> None:
    """PortalSuspended, and on from there."""
    c.ask(parse("", SERIES), bind(), execute(rows=3), execute(rows=3), execute(rows=3), sync())


@conversation
def rows_a_few_at_a_time_with_flush(c: Wire) -> None:
    """pgjdbc with a fetch size: the server stays with the client between the flushes."""
    c.send(parse("", SERIES), bind(), describe("P"), execute(rows=2), flush())
    c.read_until("s")
    c.send(execute(rows=2), flush())
    c.read_until("s")
    c.ask(execute(), sync())


@conversation
def a_named_portal_over_several_syncs(c: Wire) -> None:
    """In a transaction a portal outlives Sync."""
    c.ask(query("begin"))
    c.ask(parse("cur", SERIES), bind("portal", "cur"), execute("portal", 2), sync())
    c.ask(execute("portal", 2), sync())
    c.ask(describe("P", "portal"), sync())
    c.ask(close("P", "portal"), sync())
    c.ask(execute("portal", 2), sync())
    c.ask(query("rollback"))


@conversation
def a_portal_ends_with_its_transaction(c: Wire) -> None:
    """34000 afterwards."""
    c.ask(parse("gone", SERIES), bind("p1", "gone"), execute("p1", 2), sync())
    c.ask(execute("p1", 2), sync())
    c.ask(query("select 1"))


@conversation
def several_portals_at_once(c: Wire) -> None:
    """Interleaved, each with its own place."""
    c.ask(query("begin"))
    c.ask(parse("src", SERIES), bind("a", "src"), bind("b", "src"), sync())
    c.ask(execute("a", 2), execute("b", 3), execute("a", 1), execute("b", 1), sync())
    c.ask(query("commit"))


@conversation
def a_duplicate_portal_is_refused(c: Wire) -> None:
    """42P03."""
    c.ask(query("begin"))
    c.ask(parse("", SERIES), bind("same"), bind("same"), sync())
    c.ask(query("rollback"))


@conversation
def a_cursor_by_sql(c: Wire) -> None:
    """DECLARE and FETCH in a transaction."""
    c.ask(query("begin"))
    c.ask(query(f"declare walk cursor for {SERIES}"))
    c.ask(query("fetch 2 from walk"))
    c.ask(parse("", "fetch 2 from walk"), bind(), describe("P"), execute(), sync())
    c.ask(query("close walk; commit"))


@conversation
def a_portal_over_a_statement_without_rows(c: Wire) -> None:
    """A row limit that has no meaning."""
    c.ask(parse("", "update people set note = note where id < 4"), bind(), execute(rows=1), sync())
