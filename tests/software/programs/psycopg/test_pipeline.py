"""psycopg 3 in pipeline mode: what is sent before what came before it is answered."""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.pq import TransactionStatus

Connection = psycopg.Connection[Any]


@pytest.mark.parametrize("threshold", [None, 0, 5])
def test_results_come_in_order(conn: Connection, threshold: int | None) -> None:
    conn.prepare_threshold = threshold
    with conn.pipeline():
        cursors = [conn.execute("select %s::int, repeat('z', %s)", (number, number % 90)) for number in range(300)]
    assert [cursor.fetchone()[0] for cursor in cursors] == list(range(300))


def test_results_may_be_fetched_in_between(conn: Connection) -> None:
    with conn.pipeline() as pipeline:
        one = conn.execute("select 1")
        assert one.fetchone() == (1,)
        two = conn.execute("select 2")
        pipeline.sync()
        three = conn.execute("select 3")
        assert (two.fetchone(), three.fetchone()) == ((2,), (3,))


def test_an_error_aborts_what_is_behind_it_up_to_the_sync(conn: Connection) -> None:
    conn.execute("create temp table psy_pipe (n int)")
    with pytest.raises(errors.DivisionByZero), conn.pipeline() as pipeline:  # noqa: PT012
        conn.execute("insert into psy_pipe values (1)")
        pipeline.sync()
        conn.execute("insert into psy_pipe values (2)")
        conn.execute("select 1/0")
        conn.execute("insert into psy_pipe values (3)")
        pipeline.sync()
    # Without a transaction, all between two Syncs is one.
    assert conn.execute("select n from psy_pipe").fetchall() == [(1,)]
    assert conn.info.transaction_status == TransactionStatus.IDLE


def test_a_cursor_of_an_aborted_part_says_so(conn: Connection) -> None:
    # psycopg tells of it when the answer is there: maybe as early as the second statement is sent, and then again.
    with contextlib.suppress(errors.DivisionByZero, errors.PipelineAborted), conn.pipeline():
        bad, behind = conn.execute("select 1/0"), conn.execute("select 2")
        with pytest.raises((errors.DivisionByZero, errors.PipelineAborted)):
            bad.fetchone()
        with pytest.raises(psycopg.Error):
            behind.fetchone()
    assert conn.execute("select 1").fetchone() == (1,)


def test_transactions_in_a_pipeline(connect: Any) -> None:
    conn = connect(autocommit=False)
    conn.execute("drop table if exists psy_pipe_tx")
    conn.execute("create table psy_pipe_tx (n int)")
    conn.commit()
    with conn.pipeline():
        for number in range(10):
            with pytest.raises(errors.DivisionByZero) if number % 3 == 0 else conn.transaction():
                if number % 3 == 0:
                    with conn.transaction():
                        conn.execute("insert into psy_pipe_tx values (%s)", (number,))
                        conn.execute("select 1/0")
                else:
                    conn.execute("insert into psy_pipe_tx values (%s)", (number,))
    assert conn.execute("select n from psy_pipe_tx order by n").fetchall() == [(1,), (2,), (4,), (5,), (7,), (8,)]
    conn.execute("drop table psy_pipe_tx")
    conn.commit()


def test_many_statements_in_a_pipeline_and_few_kept(conn: Connection) -> None:
    conn.prepare_threshold, conn.prepared_max = 0, 4
    with conn.pipeline():
        cursors = [conn.execute(f"select {number % 11} + %s", (number,)) for number in range(200)]
    assert [cursor.fetchone()[0] for cursor in cursors] == [number % 11 + number for number in range(200)]


def test_executemany_in_a_pipeline(conn: Connection) -> None:
    conn.execute("create temp table psy_pipe_many (a int, b text)")
    with conn.pipeline(), conn.cursor() as cursor:
        for turn in range(5):
            cursor.executemany("insert into psy_pipe_many values (%s, %s)", [(turn, str(n)) for n in range(200)])
    assert conn.execute("select count(*), sum(a) from psy_pipe_many").fetchone() == (1000, 2000)


def test_settings_set_in_a_pipeline_last(conn: Connection) -> None:
    with conn.pipeline():
        conn.execute("set timezone = 'Asia/Tokyo'")
        inside = conn.execute("show timezone")
    assert inside.fetchone() == ("Asia/Tokyo",)
    for _ in range(10):
        assert conn.execute("show timezone").fetchone() == ("Asia/Tokyo",)


def test_large_rows_both_ways_in_a_pipeline(conn: Connection) -> None:
    texts = [chr(65 + number) * 200_000 for number in range(20)]
    with conn.pipeline():
        cursors = [conn.execute("select %s::text", (text,)) for text in texts]
    assert [cursor.fetchone()[0] for cursor in cursors] == texts
