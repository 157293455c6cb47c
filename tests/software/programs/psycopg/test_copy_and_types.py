"""psycopg 3: COPY both ways, and types over both formats."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import uuid
from decimal import Decimal
from enum import Enum
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.types import TypeInfo
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Jsonb
from psycopg.types.multirange import Int4Multirange
from psycopg.types.range import Int4Range, Range

Connection = psycopg.Connection[Any]

VALUES = [
    None, True, 7, -1, 2**40, 2**70, 1.5, float("inf"), Decimal("12345.6789"), Decimal("NaN"), "text", "'quo\\ted\"",
    b"\x00\xffbytes", dt.date(1, 1, 1), dt.date(2026, 11, 26), dt.time(23, 59, 59, 999999),
    dt.datetime(2026, 11, 26, 12, 0, tzinfo=dt.UTC), dt.timedelta(days=-3, seconds=7), uuid.UUID(int=7), [1, 2, None],
    [[1, 2], [3, None]], Jsonb({"a": [1, None]}), ipaddress.ip_address("127.0.0.1"),
    ipaddress.ip_network("::/8"), Int4Range(1, 10), Int4Multirange([Range(1, 3), Range(5, 9)]),
]  # fmt: skip


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("index", range(len(VALUES)))
def test_a_value_comes_back(conn: Connection, index: int, binary: bool) -> None:
    given = VALUES[index]
    for _ in range(7):
        row = conn.execute("select %s", (given,), binary=binary).fetchone()
        assert row is not None
        if isinstance(given, Jsonb):
            assert row[0] == given.obj
        elif isinstance(given, Decimal) and given.is_nan():
            assert row[0].is_nan()
        else:
            assert row[0] == given


@pytest.mark.parametrize("binary", [False, True])
def test_copy_in_and_out(conn: Connection, binary: bool) -> None:
    conn.execute("create temp table psy_copy (n int8, t text, at timestamptz)")
    form = "(format binary)" if binary else ""
    at = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    with conn.cursor() as cursor:
        with cursor.copy(f"copy psy_copy from stdin {form}") as copy:
            copy.set_types(["int8", "text", "timestamptz"])
            for number in range(20_000):
                copy.write_row((number, None if number % 5 == 0 else f"tab\t{number}", at))
        assert cursor.rowcount == 20_000
        with cursor.copy(f"copy (select * from psy_copy order by n) to stdout {form}") as copy:
            copy.set_types(["int8", "text", "timestamptz"])
            rows = list(copy.rows())
    assert len(rows) == 20_000
    assert rows[1] == (1, "tab\t1", at)
    assert rows[5][1] is None


def test_copy_outside_temporary_tables(connect: Any) -> None:
    conn = connect(autocommit=False)
    conn.execute("create table psy_copied (n int)")
    with conn.cursor().copy("copy psy_copied from stdin") as copy:
        for number in range(5000):
            copy.write_row((number,))
    conn.commit()
    assert conn.execute("select sum(n) from psy_copied").fetchone() == (5000 * 4999 // 2,)
    conn.execute("drop table psy_copied")
    conn.commit()


def test_a_copy_that_its_client_gives_up(conn: Connection) -> None:
    conn.execute("create temp table psy_given_up (n int)")
    with pytest.raises(ZeroDivisionError), conn.cursor().copy("copy psy_given_up from stdin") as copy:  # noqa: PT012
        copy.write_row((1,))
        raise ZeroDivisionError
    assert conn.execute("select count(*) from psy_given_up").fetchone() == (0,)


def test_a_copy_of_bad_data(conn: Connection) -> None:
    conn.execute("create temp table psy_bad (n int)")
    with pytest.raises(errors.InvalidTextRepresentation), conn.cursor().copy("copy psy_bad from stdin") as copy:  # noqa: PT012
        for _ in range(1000):
            copy.write(b"not a number\n")
    assert conn.execute("select 1").fetchone() == (1,)


def test_a_copy_out_that_its_client_leaves(conn: Connection) -> None:
    with conn.cursor() as cursor:
        # psycopg cancels it only for an error; without one it wants all of it to be read.
        with (
            contextlib.suppress(InterruptedError),
            cursor.copy("copy (select generate_series(1, 100000)) to stdout") as copy,
        ):
            assert copy.read()
            raise InterruptedError
        cursor.execute("select 1")
        assert cursor.fetchone() == (1,)


def test_composites_and_enums_are_looked_up(conn: Connection) -> None:
    conn.execute("drop type if exists psy_pair, psy_mood")
    conn.execute("create type psy_pair as (a int, b text)")
    conn.execute("create type psy_mood as enum ('SAD', 'GLAD')")
    pair = CompositeInfo.fetch(conn, "psy_pair")
    mood = EnumInfo.fetch(conn, "psy_mood")
    assert pair is not None
    assert mood is not None
    register_composite(pair, conn)
    kinds = Enum("kinds", {"SAD": 1, "GLAD": 2})
    register_enum(mood, conn, kinds)
    for binary in (False, True):
        row = conn.execute("select row(1, 'x')::psy_pair, 'GLAD'::psy_mood", binary=binary).fetchone()
        assert row is not None
        assert ((row[0].a, row[0].b), row[1]) == ((1, "x"), kinds.GLAD)
    conn.execute("drop type psy_pair, psy_mood")
    assert TypeInfo.fetch(conn, "psy_pair") is None


def test_large_objects(connect: Any) -> None:
    conn = connect(autocommit=False)
    number = conn.execute("select lo_from_bytea(0, %b)", (b"x" * 100_000,)).fetchone()[0]
    assert conn.execute("select length(lo_get(%s))", (number,)).fetchone() == (100_000,)
    descriptor = conn.execute("select lo_open(%s, 131072)", (number,)).fetchone()[0]
    conn.execute("select lowrite(%s, 'abc')", (descriptor,))
    conn.commit()
    assert conn.execute("select substr(lo_get(%s), 1, 4)", (number,)).fetchone() == (b"abcx",)
    conn.execute("select lo_unlink(%s)", (number,))
    conn.commit()
