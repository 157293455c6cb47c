"""psycopg 3, one connection at a time: transactions, statements, cursors, sessions, errors."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.pq import TransactionStatus

Connection = psycopg.Connection[Any]


def value(conn: Connection, query: Any, *args: Any, **options: Any) -> Any:
    """The only value of the only row."""
    row = conn.execute(query, args or None, **options).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("threshold", [None, 0, 1, 5])
def test_statements_are_prepared_after_a_number_of_uses(conn: Connection, threshold: int | None) -> None:
    conn.prepare_threshold = threshold
    for number in range(12):
        assert value(conn, "select %s + 1", number) == number + 1
        assert value(conn, "select %s || 'x'", str(number)) == f"{number}x"


def test_more_statements_than_the_driver_keeps(conn: Connection) -> None:
    conn.prepare_threshold, conn.prepared_max = 0, 3
    for turn in range(3):
        for number in range(8):
            assert value(conn, f"select {number} * %s", turn) == number * turn


def test_the_driver_asks_anew_when_a_table_changes(conn: Connection) -> None:
    conn.execute("drop table if exists psy_changed")
    conn.execute("create table psy_changed (a int)")
    conn.execute("insert into psy_changed values (1)")
    for _ in range(3):
        assert conn.execute("select * from psy_changed", prepare=True).fetchall() == [(1,)]
    conn.execute("alter table psy_changed add b text default 'new'")
    for _ in range(3):
        assert conn.execute("select * from psy_changed", prepare=True).fetchall() == [(1, "new")]


def test_a_statement_whose_table_another_client_changes_is_refused(connect: Any) -> None:
    conn, other = connect(), connect()
    other.execute("drop table if exists psy_changed")
    other.execute("create table psy_changed (a int)")
    other.execute("insert into psy_changed values (1)")
    for _ in range(3):
        assert conn.execute("select * from psy_changed", prepare=True, binary=True).fetchall() == [(1,)]
    other.execute("alter table psy_changed alter a type float4")
    with pytest.raises(errors.FeatureNotSupported):
        conn.execute("select * from psy_changed", prepare=True, binary=True)
    conn.execute("drop table psy_changed")


def test_deallocate_all_makes_the_driver_forget(conn: Connection) -> None:
    for _ in range(3):
        value(conn, "select %s::int", 1, prepare=True)
        conn.execute("deallocate all")
    assert value(conn, "select %s::int", 1, prepare=True) == 1


def test_discard_all_makes_the_driver_forget(conn: Connection) -> None:
    for _ in range(3):
        assert value(conn, "select %s::int", 1, prepare=True) == 1
        conn.execute("discard all")


def test_prepared_by_text(conn: Connection) -> None:
    conn.execute("prepare psy_plus (int) as select $1 + 1")
    for number in range(5):
        assert value(conn, f"execute psy_plus({number})") == number + 1
    conn.execute("deallocate psy_plus")
    with pytest.raises(errors.InvalidSqlStatementName):
        conn.execute("execute psy_plus(1)")


def test_nested_transactions(connect: Any) -> None:
    conn = connect(autocommit=False)
    conn.execute("create temp table psy_nested (n int) on commit drop")
    with conn.transaction():
        conn.execute("insert into psy_nested values (1)")
        with pytest.raises(errors.DivisionByZero), conn.transaction():
            conn.execute("insert into psy_nested select 2 / (random() * 0)::int")
        with conn.transaction(force_rollback=True):
            conn.execute("insert into psy_nested values (3)")
        with conn.transaction("psy_named"):
            conn.execute("insert into psy_nested values (4)")
    assert conn.execute("select n from psy_nested order by n").fetchall() == [(1,), (4,)]
    conn.rollback()


def test_a_failed_transaction_wants_a_rollback(connect: Any) -> None:
    conn = connect(autocommit=False)
    with pytest.raises(errors.DivisionByZero):
        conn.execute("select 1/0")
    assert conn.info.transaction_status == TransactionStatus.INERROR
    with pytest.raises(errors.InFailedSqlTransaction):
        conn.execute("select 1")
    conn.rollback()
    assert value(conn, "select 1") == 1
    conn.rollback()


@pytest.mark.parametrize("level", list(psycopg.IsolationLevel))
def test_isolation_levels(connect: Any, level: psycopg.IsolationLevel) -> None:
    conn = connect(autocommit=False)
    conn.isolation_level, conn.read_only, conn.deferrable = level, True, True
    for _ in range(3):
        assert value(conn, "show transaction_isolation") == level.name.lower().replace("_", " ")
        with pytest.raises(errors.ReadOnlySqlTransaction):
            conn.execute("create table psy_never (a int)")
        conn.rollback()


def test_two_phases(connect: Any, conn: Connection) -> None:
    conn.execute("drop table if exists psy_phases")
    conn.execute("create table psy_phases (n int)")
    for number, ends in enumerate(("commit", "rollback")):
        two = connect(autocommit=False)
        xid = two.xid(7, f"psy {number}", "branch")
        two.tpc_begin(xid)
        two.execute("insert into psy_phases values (%s)", (number,))
        two.tpc_prepare()
        assert value(conn, "select count(*) from pg_prepared_xacts where gid like '7_%%'") == 1
        recovered = conn.tpc_recover()
        assert [found.gtrid for found in recovered] == [f"psy {number}"]
        getattr(two, f"tpc_{ends}")()
    assert conn.execute("select n from psy_phases").fetchall() == [(0,)]
    conn.execute("drop table psy_phases")


def test_settings_of_a_session_last(conn: Connection) -> None:
    conn.execute("set timezone = 'Asia/Kathmandu'")
    conn.execute("set psy.tenant = 'one'")
    conn.execute("select set_config('work_mem', '7MB', false)")
    for _ in range(20):
        assert conn.execute(
            "select current_setting('timezone'), current_setting('psy.tenant'), current_setting('work_mem')"
        ).fetchone() == ("Asia/Kathmandu", "one", "7MB")
    assert conn.info.timezone.key == "Asia/Kathmandu"


def test_settings_of_a_transaction_end_with_it(conn: Connection) -> None:
    with conn.transaction():
        conn.execute("set local timezone = 'Asia/Kathmandu'")
        assert value(conn, "show timezone") == "Asia/Kathmandu"
    assert value(conn, "show timezone") == "Etc/UTC"


def test_startup_options_last_and_come_back(connect: Any) -> None:
    conn = connect(options="-c search_path=psy_a,psy_b -c statement_timeout=4321", application_name="psy app")
    for _ in range(5):
        assert value(conn, "show search_path") == "psy_a,psy_b"
        assert value(conn, "show statement_timeout") == "4321ms"
        assert value(conn, "show application_name") == "psy app"
        conn.execute("set search_path = public")
        conn.execute("reset search_path")


def test_roles_last(conn: Connection) -> None:
    conn.execute("drop role if exists psy_role")
    conn.execute("create role psy_role")
    conn.execute("set role psy_role")
    for _ in range(10):
        assert value(conn, "select current_user") == "psy_role"
    conn.execute("reset role")
    assert value(conn, "select current_user") == value(conn, "select session_user")
    conn.execute("drop role psy_role")


def test_temporary_tables_last(conn: Connection) -> None:
    conn.execute("create temp table psy_temp (n int)")
    for number in range(10):
        conn.execute("insert into psy_temp values (%s)", (number,))
        assert value(conn, "select count(*) from psy_temp") == number + 1
    conn.execute("drop table psy_temp")
    with pytest.raises(errors.UndefinedTable):
        conn.execute("select * from psy_temp")


def test_advisory_locks_exclude(connect: Any) -> None:
    one, two = connect(), connect()
    assert value(one, "select pg_try_advisory_lock(4711)")
    for _ in range(5):
        assert not value(two, "select pg_try_advisory_lock(4711)")
        assert value(one, "select 1") == 1
    assert value(one, "select pg_advisory_unlock(4711)")
    assert value(two, "select pg_try_advisory_lock(4711)")


def test_currval_is_the_session_s_own(connect: Any) -> None:
    one, two = connect(), connect()
    one.execute("drop sequence if exists psy_seq")
    one.execute("create sequence psy_seq")
    with one.transaction(), two.transaction():
        first, second = value(one, "select nextval('psy_seq')"), value(two, "select nextval('psy_seq')")
        assert value(one, "select currval('psy_seq')") == first
        assert value(two, "select lastval()") == second
    one.execute("drop sequence psy_seq")


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_server_side_cursors(connect: Any, size: int) -> None:
    conn = connect(autocommit=False)
    with conn.cursor("psy_cursor") as cursor:
        cursor.itersize = size
        cursor.execute("select n, repeat('x', n %% 50) from generate_series(1, %s) n", (3000,))
        assert sum(row[0] for row in cursor) == 3000 * 3001 // 2
    conn.rollback()


def test_scrolling(connect: Any) -> None:
    conn = connect(autocommit=False)
    with conn.cursor("psy_scroll", scrollable=True) as cursor:
        cursor.execute("select generate_series(1, 100)")
        cursor.scroll(50)
        assert cursor.fetchone() == (51,)
        cursor.scroll(-10)
        assert cursor.fetchmany(2) == [(42,), (43,)]
        cursor.scroll(0, mode="absolute")
        assert cursor.fetchone() == (1,)
    conn.rollback()


def test_a_cursor_with_hold_outlives_its_transaction(connect: Any) -> None:
    conn = connect(autocommit=False)
    cursor = conn.cursor("psy_hold", withhold=True)
    cursor.execute("select generate_series(1, 10)")
    assert cursor.fetchmany(3) == [(1,), (2,), (3,)]
    conn.commit()
    for number in range(4, 11):
        assert cursor.fetchone() == (number,)
        conn.commit()
    cursor.close()
    conn.commit()


def test_rows_as_they_come(conn: Connection) -> None:
    with conn.cursor() as cursor:
        rows = cursor.stream("select n, repeat('y', 1000) from generate_series(1, %s) n", (2000,))
        assert sum(row[0] for row in rows) == 2000 * 2001 // 2
        for row in cursor.stream("select generate_series(1, 1000)"):
            if row[0] == 5:
                break
    assert value(conn, "select 1") == 1


def test_several_results_of_one_text(conn: Connection) -> None:
    cursor = conn.execute("select 1; select 2, 3")
    assert cursor.fetchall() == [(1,)]
    assert cursor.nextset()
    assert cursor.fetchall() == [(2, 3)]
    assert not cursor.nextset()


@pytest.mark.parametrize("returning", [False, True])
def test_executemany(conn: Connection, returning: bool) -> None:
    conn.execute("drop table if exists psy_many")
    conn.execute("create table psy_many (id int primary key, data text)")
    with conn.cursor() as cursor:
        rows = [(number, f"row {number}") for number in range(500)]
        cursor.executemany(
            "insert into psy_many values (%s, %s)" + (" returning id" if returning else ""), rows, returning=returning
        )
        if returning:
            assert [result.fetchone()[0] for result in cursor.results()] == list(range(500))
        with pytest.raises(errors.UniqueViolation):
            cursor.executemany("insert into psy_many values (%s, %s)", [(900, "a"), (901, "b"), (900, "c")])
    assert value(conn, "select count(*) from psy_many") == 500
    conn.execute("drop table psy_many")


def test_notices_and_their_fields(conn: Connection) -> None:
    heard: list[tuple[str | None, str | None]] = []
    conn.add_notice_handler(lambda diagnostic: heard.append((diagnostic.severity, diagnostic.message_primary)))
    conn.execute("do $$begin raise notice 'one'; raise warning 'two'; end$$")
    assert heard == [("NOTICE", "one"), ("WARNING", "two")]


def test_an_error_tells_all_its_fields(conn: Connection) -> None:
    conn.execute("drop table if exists psy_error")
    conn.execute("create table psy_error (a int constraint positive check (a > 0))")
    with pytest.raises(errors.CheckViolation) as found:
        conn.execute("insert into psy_error values (-1)")
    diagnostic = found.value.diag
    assert (diagnostic.table_name, diagnostic.constraint_name, diagnostic.schema_name) == (
        "psy_error", "positive", "public",
    )  # fmt: skip
    with pytest.raises(errors.SyntaxError) as wrong:
        conn.execute("select 1 frm x")
    assert wrong.value.diag.statement_position == "14"
    conn.execute("drop table psy_error")


def test_cancel_from_another_thread(conn: Connection) -> None:
    timer = threading.Timer(0.3, conn.cancel)
    timer.start()
    with pytest.raises(errors.QueryCanceled):
        conn.execute("select pg_sleep(30)")
    timer.join()
    assert value(conn, "select 1") == 1


def test_cancel_safe(conn: Connection) -> None:
    timer = threading.Timer(0.3, conn.cancel_safe)
    timer.start()
    with pytest.raises(errors.QueryCanceled):
        conn.execute("select pg_sleep(30)")
    timer.join()
    assert value(conn, "select 1") == 1


def test_a_timeout_of_the_server(conn: Connection) -> None:
    conn.execute("set statement_timeout = '200ms'")
    with pytest.raises(errors.QueryCanceled):
        conn.execute("select pg_sleep(20)")
    conn.execute("reset statement_timeout")
    assert value(conn, "select 1") == 1


def test_large_values(conn: Connection) -> None:
    text = "é" * 3_000_000
    assert value(conn, "select %s::text", text) == text
    raw = bytes(range(256)) * 20_000
    assert value(conn, "select %b::bytea", raw) == raw


def test_composed_statements(conn: Connection) -> None:
    query = sql.SQL("select {} as {}").format(sql.Literal("it's"), sql.Identifier('odd "name'))
    cursor = conn.execute(query)
    assert cursor.description is not None
    assert (cursor.description[0].name, cursor.fetchone()) == ('odd "name', ("it's",))
