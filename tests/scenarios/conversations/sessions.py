"""What needs a server for the length of the session."""

from __future__ import annotations

from tests.harness.wire import Wire, bind, describe, execute, parse, query, sync
from tests.scenarios.conversations import in_session_mode, register


@in_session_mode
def listen_and_notify(c: Wire) -> None:
    """Notifications come to the session that listens."""
    c.ask(query("listen news"))
    c.ask(query("notify news, 'hello'"))
    c.ask(query("unlisten news"))


@in_session_mode
def session_state_stays(c: Wire) -> None:
    """All of it is the client's own in session mode."""
    c.ask(query("set work_mem = '9MB'"))
    c.ask(query("create temp table mine (a int)"))
    c.ask(query("insert into mine values (1), (2)"))
    c.ask(query("show work_mem"))
    c.ask(query("select sum(a) from mine"))
    c.ask(query("prepare byname as select 'by name'"))
    c.ask(query("execute byname"))
    c.ask(bind(statement="byname"), execute(), sync())


@in_session_mode
def statements_under_their_own_names(c: Wire) -> None:
    """In session mode the server knows the client's names."""
    c.ask(parse("own", "select 1"), describe("S", "own"), sync())
    c.ask(query("execute own"))
    c.ask(query("select name, statement from pg_prepared_statements"))
    c.ask(query("deallocate own"))
    c.ask(bind(statement="own"), execute(), sync())


@in_session_mode
def discard_all(c: Wire) -> None:
    """Statements, settings and temporary tables end."""
    c.ask(parse("lost", "select 1"), sync())
    c.ask(query("set application_name = 'named'"))
    c.ask(query("discard all"))
    c.ask(query("show application_name"))
    c.ask(bind(statement="lost"), execute(), sync())


@in_session_mode
def a_cursor_with_hold(c: Wire) -> None:
    """It outlives its transaction."""
    c.ask(query("begin; declare held cursor with hold for select i from generate_series(1, 5) i; commit"))
    c.ask(query("fetch 2 from held"))
    c.ask(query("close held"))


@register("unshared", keeps_server=True)
def statements_passed_through_unshared(c: Wire) -> None:
    """max_prepared_statements = 0: the server sees the client's names, within a transaction."""
    c.ask(query("begin"))
    c.ask(parse("plain", "select 1"), describe("S", "plain"), sync())
    c.ask(bind(statement="plain"), execute(), sync())
    c.ask(query("deallocate plain"))
    c.ask(query("commit"))


@register("statement")
def statement_mode_runs_statements(c: Wire) -> None:
    """All that is no transaction block works."""
    c.ask(query("select 1; select 2"))
    c.ask(parse("st", "select $1::int"), bind(statement="st", values=[b"1"]), execute(), sync())
    c.ask(bind(statement="st", values=[b"2"]), execute(), sync())
    c.ask(query("select 1/0"))
    c.ask(query("select 3"))
