"""psycopg, direct and through forebay: the same program, the same answers."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from tests.harness.pooler import Forebay
from tests.harness.target import Target

Program = Callable[[Target], Any]


def basics(target: Target) -> Any:
    with target.connect() as c:
        values = (1, "text", None, 2.5, datetime.date(2024, 2, 3), [1, 2], b"\x00\xff")
        found = c.execute("select %s::int, %s, %s::text, %s::float8, %s, %s, %s", values).fetchone()
        by_name = c.cursor(row_factory=dict_row)
        named = by_name.execute("select id, name from people where id < 3 order by id").fetchall()
        return found, named, c.info.parameter_status("TimeZone"), c.info.server_version


def prepared_statements(target: Target) -> Any:
    answers = []
    with target.connect(autocommit=True) as c:
        c.prepare_threshold = 0
        for i in range(20):
            answers.append(c.execute("select %s::int * 2", (i,)).fetchone())
            answers.append(c.execute("select name from people where id = %s", (i + 1,)).fetchone())
    return answers


def transactions(target: Target) -> Any:
    answers: list[Any] = []
    with target.connect() as c:
        with c.transaction(force_rollback=True):
            c.execute("insert into scratch values (900, 'inner')")
            try:
                with c.transaction():
                    c.execute("insert into scratch values (901, 'nested')")
                    c.execute("select 1/0")
            except psycopg.errors.DivisionByZero as error:
                answers.append(error.sqlstate)
            answers.append(c.execute("select count(*) from scratch where a >= 900").fetchone())
        answers.append(c.execute("select count(*) from scratch where a >= 900").fetchone())
    return answers


def pipelines(target: Target) -> Any:
    with target.connect(autocommit=True) as c:
        with c.pipeline() as p:
            cursors = [c.execute("select %s::int", (i,), prepare=True) for i in range(30)]
            p.sync()
            more = [c.execute("select %s", (f"x{i}",)) for i in range(30)]
        answers: list[Any] = [cursor.fetchone() for cursor in (*cursors, *more)]
        try:
            with c.pipeline():
                c.execute("select 1")
                c.execute("select 1/0")
                c.execute("select 2")
        except psycopg.Error as error:
            answers.append(error.sqlstate)
        answers.append(c.execute("select 'alive'").fetchone())
    return answers


def many_rows(target: Target) -> Any:
    with target.connect() as c, c.cursor("server_side") as cursor:
        cursor.itersize = 100
        cursor.execute("select i, repeat('x', i) from generate_series(1, 1000) i")
        return sum(len(row[1]) for row in cursor)


def streaming(target: Target) -> Any:
    with target.connect() as c:
        return sum(row[0] for row in c.cursor().stream("select generate_series(1, 5000)"))


def batches(target: Target) -> Any:
    with target.connect() as c:
        c.cursor().executemany("insert into scratch values (%s, %s)", [(1000 + i, "b") for i in range(200)])
        found = c.execute("select count(*), sum(a) from scratch where a >= 1000").fetchone()
        c.rollback()
        return found


def copies(target: Target) -> Any:
    with target.connect() as c:
        with c.cursor() as cursor:
            with cursor.copy("copy scratch from stdin") as copy:
                for i in range(500):
                    copy.write_row((2000 + i, f"row {i}"))
            with cursor.copy("copy (select a, b from scratch where a >= 2000 order by a) to stdout") as copy:
                rows = list(copy.rows())
        c.rollback()
        return rows


def errors(target: Target) -> Any:
    told = []
    with target.connect(autocommit=True) as c:
        for broken in ("selct 1", "select * from nowhere", "insert into people values (1, 'x')", "select 'x'::int"):
            try:
                c.execute(broken)  # type: ignore[arg-type]
            except psycopg.Error as error:
                told.append((error.sqlstate, error.diag.message_primary, error.diag.statement_position))
    return told


def notices(target: Target) -> Any:
    heard: list[str | None] = []
    with target.connect(autocommit=True) as c:
        c.add_notice_handler(lambda diagnostic: heard.append(diagnostic.message_primary))
        c.execute("select complain()")
    return heard


def identifiers(target: Target) -> Any:
    with target.connect() as c:
        query = sql.SQL("select {} from {} order by 1 limit 1").format(sql.Identifier("name"), sql.Identifier("people"))
        return c.execute(query).fetchall()


PROGRAMS: list[Program] = [
    basics, prepared_statements, transactions, pipelines, many_rows, streaming, batches, copies, errors, notices,
    identifiers,
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_psycopg_program_gives_the_same_answers(program: Program, shared: Forebay, direct: Target) -> None:
    """An application moves behind forebay without a change."""
    assert program(shared.target) == program(direct)


def test_threads_of_an_application_share_a_few_servers(shared: Forebay) -> None:
    """16 threads over 4 servers, each sees its own values."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with shared.target.at(dbname="wide").connect() as c:
                c.prepare_threshold = 2
                for i in range(25):
                    with c.transaction():
                        assert c.execute("select %s::int, %s::int", (number, i)).fetchone() == (number, i)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
