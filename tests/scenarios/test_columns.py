"""Drivers are told a statement's columns once and read all rows by them: what DDL has changed since is refused.

Each program is run against PostgreSQL and through a pool of one server that keeps two statements, so that most have to
be parsed anew; every step must be answered alike.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests.harness.pooler import Forebay
from tests.harness.target import Target
from tests.harness.wire import Frame, Wire, bind, describe, execute, parse, query, row, sync

TEXT = "select * from columned"

# By its routine drivers know it.
REFUSED = ("0A000", "cached plan must not change result type", "RevalidateCachedQuery")

Program = Callable[[Wire, Wire], list[list[Frame]]]


def fill(client: Wire) -> None:
    """Uses more statements than the server keeps, and leaves another unnamed one."""
    for n in range(3):
        client.ask(parse(f"fill{n}", f"select {n}"), bind(statement=f"fill{n}"), execute(), sync())
    client.ask(query("select"))


def run(client: Wire, name: str) -> list[Frame]:
    """The statement, once more."""
    return client.ask(bind(statement=name), execute(), sync())


def another_type(one: Wire, other: Wire) -> list[list[Frame]]:
    """An int would be read out of a float's bytes."""
    steps = [one.ask(parse("p", TEXT), describe("S", "p"), sync()), run(one, "p")]
    other.ask(query("alter table columned alter n type float4"))
    fill(other)
    steps += [run(one, "p"), one.ask(describe("S", "p"), sync()), run(one, "p")]
    steps += [one.ask(query("begin")), run(one, "p"), run(one, "p"), one.ask(query("rollback"))]
    steps.append(one.ask(parse("r", TEXT), describe("S", "r"), bind(statement="r"), execute(), sync()))
    return [*steps, one.ask(parse("", TEXT), bind(), describe("P", ""), execute(), sync())]


def a_column_more(one: Wire, other: Wire) -> list[list[Frame]]:
    """Refused as long as it is there."""
    steps = [one.ask(parse("p", TEXT), bind(statement="p"), describe("P", ""), execute(), sync())]
    other.ask(query("alter table columned add m int"))
    fill(other)
    steps.append(run(one, "p"))
    other.ask(query("alter table columned drop m"))
    fill(other)
    return [*steps, run(one, "p"), run(one, "p")]


def unnamed(one: Wire, other: Wire) -> list[list[Frame]]:
    """Kept over a Sync, as by drivers that ask for parameters and columns first."""
    steps = [one.ask(parse("", TEXT), describe("S", ""), sync()), one.ask(bind(), execute(), sync())]
    other.ask(query("alter table columned add m int"))
    steps += [one.ask(bind(), execute(), sync()) for _ in range(2)]
    steps.append(one.ask(query("begin")))
    steps.append(one.ask(parse("", TEXT), describe("S", ""), sync()))
    return [*steps, one.ask(bind(), execute(), sync()), one.ask(query("commit"))]


def by_itself(one: Wire, other: Wire) -> list[list[Frame]]:
    """In its own transaction, which is undone; then in a pipeline, which is not."""
    steps = [one.ask(parse("p", TEXT), describe("S", "p"), sync()), run(one, "p")]
    fill(other)
    steps += [one.ask(query("begin")), one.ask(query("alter table columned add m int")), run(one, "p")]
    steps += [run(one, "p"), one.ask(query("rollback")), run(one, "p")]
    fill(other)
    alter = (parse("", "alter table columned rename n to o"), bind(), execute())
    steps.append(one.ask(*alter, bind(statement="p"), execute(), sync()))
    steps.append(run(one, "p"))
    steps.append(one.ask(*alter, sync()))
    return [*steps, run(one, "p"), one.ask(describe("S", "p"), sync())]


@pytest.mark.parametrize("program", [another_type, a_column_more, unnamed, by_itself])
def test_a_statement_whose_columns_have_changed_is_refused(shared: Forebay, direct: Target, program: Program) -> None:
    """asyncpg, psycopg and pgx read the bytes of one type as another's otherwise."""

    def said(target: Target) -> list[list[object]]:
        with target.wire() as one, target.wire() as other:
            other.ask(query("drop table if exists columned"))
            other.ask(query("create table columned as select 1 as n"))
            steps = program(one, other)
            other.ask(query("drop table columned"))
            return [[told(frame) for frame in step if frame.tag in "CDEnTZ"] for step in steps]

    expected = said(direct)
    assert any(REFUSED in step for step in expected)
    assert said(shared.target.at(dbname="few")) == expected


def told(frame: Frame) -> object:
    """What must be the same: not the table's OID in a description, nor which message met a failed transaction."""
    if frame.tag == "E":
        return (frame.fields["C"], frame.fields["M"], frame.fields["R"] if frame.fields["C"] == "0A000" else "")
    return (frame.tag, frame.body if frame.tag != "T" else frame.body[:2])


INSERT = "insert into numbered values ($1)"
BINARY = 1


def number(value: int, name: str = "p") -> tuple[bytes, ...]:
    """Puts a number in, as a driver does that was told that the parameter is an int4."""
    return bind(statement=name, values=[struct.pack("!i", value)], given_as=[BINARY]), execute(), sync()


def the_column_changes(one: Wire, other: Wire) -> None:
    """PostgreSQL takes an int for what is an int, and makes of it what the column wants."""
    one.ask(parse("p", INSERT), describe("S", "p"), sync())
    one.ask(*number(1))
    other.ask(query("alter table numbered alter n type float4"))
    fill(other)
    one.ask(*number(2))
    fill(other)
    one.ask(*number(3))


def a_change_is_undone(one: Wire, other: Wire) -> None:
    """What was told in a transaction that is rolled back is nobody else's."""
    one.ask(query("begin"))
    one.ask(query("alter table numbered alter n type float4"))
    one.ask(parse("p", INSERT), describe("S", "p"), sync())
    one.ask(query("rollback"))
    fill(one)
    other.ask(parse("q", INSERT), describe("S", "q"), sync())
    other.ask(*number(1, "q"))
    fill(one)
    other.ask(*number(2, "q"))


@pytest.mark.parametrize("program", [the_column_changes, a_change_is_undone])
def test_a_parameter_keeps_the_type_that_a_driver_was_told(
    shared: Forebay, direct: Target, program: Callable[[Wire, Wire], None]
) -> None:
    """A number that is stored as another one is damage that nobody sees."""

    def stored(target: Target) -> list[str | None]:
        with target.wire() as one, target.wire() as other:
            other.ask(query("drop table if exists numbered"))
            other.ask(query("create table numbered (n int)"))
            program(one, other)
            found = [
                row(frame)[0] for frame in other.ask(query("select n from numbered order by n")) if frame.tag == "D"
            ]
            other.ask(query("drop table numbered"))
            return found

    assert stored(direct)[:2] == ["1", "2"]
    assert stored(shared.target.at(dbname="few")) == stored(direct)
