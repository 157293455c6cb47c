"""Where statements may run, by forebay's account and by that of a primary and its standby.

A write that is sent to a replica fails there at best; a read that is kept on the primary is load it need not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from forebay._engine import Catalogue

from tests.harness.postgres import Postgres
from tests.harness.standby import caught_up, standby_of

HERE = Path(__file__).parent
DATABASE = "routing"
REPLICA = "replica"
THOUGH_IT_READS = "primary, though it only reads"
# What a standby says to what only a primary does: 25006 read_only_sql_transaction, 55000 and 0A000 "during recovery".
REFUSALS = {"25006", "55000", "0A000"}


@dataclass(frozen=True, slots=True)
class Statement:
    """A line of statements.txt, and the heading that it stands under."""

    text: str
    where: str

    @property
    def is_for_replica(self) -> bool:
        return self.where == REPLICA


def _statements() -> list[Statement]:
    where, found = "", []
    for line in (HERE / "statements.txt").read_text().splitlines():
        if line.startswith("== "):
            where = line[3:]
        elif not line.startswith("#"):
            found.append(Statement(line, where))
    # Lines between sections are empty; one within is a text without a statement.
    return [one for at, one in enumerate(found) if one.text or (at and found[at - 1].text == ";")]


STATEMENTS = _statements()


@pytest.fixture(scope="module")
def pair(server: Postgres) -> Iterator[tuple[psycopg.Connection, psycopg.Connection]]:
    """The database on a primary and on its standby."""
    admin = server.target.connect(user="postgres", autocommit=True)
    admin.execute(f"drop database if exists {DATABASE}")  # type: ignore[arg-type]
    admin.execute(f"create database {DATABASE}")  # type: ignore[arg-type]
    primary = server.target.connect(user="postgres", dbname=DATABASE, autocommit=True)
    primary.execute((HERE / "objects.sql").read_text())  # type: ignore[arg-type]
    with standby_of(server) as standby:
        caught_up(server, standby)
        with standby.target.connect(user="postgres", dbname=DATABASE, autocommit=True) as asked:
            yield primary, asked
    primary.close()
    admin.execute(f"drop database {DATABASE} with (force)")  # type: ignore[arg-type]
    admin.close()


@pytest.fixture(scope="module")
def catalogue(pair: tuple[psycopg.Connection, psycopg.Connection]) -> Catalogue:
    """What forebay knows of the database."""
    rows = psycopg.ClientCursor(pair[0]).execute(Catalogue.QUERY).fetchall()
    return Catalogue([list(row) for row in rows])


def test_every_statement_goes_where_it_is_written_to(catalogue: Catalogue) -> None:
    """No write reaches a replica, and of reads at most 2 % stay on the primary."""
    assert len(STATEMENTS) >= 500
    wrong = [
        f"{one.text!r} is for the {one.where}, and it {reason}"
        for one in STATEMENTS
        for to_replica, reason in [catalogue.route(one.text)]
        if to_replica != one.is_for_replica
    ]
    assert not wrong, "\n".join(wrong)
    kept = sum(one.where == THOUGH_IT_READS for one in STATEMENTS)
    assert kept <= 0.02 * (kept + sum(one.is_for_replica for one in STATEMENTS))


def test_a_standby_runs_whatever_is_for_a_replica(pair: tuple[psycopg.Connection, psycopg.Connection]) -> None:
    """The table itself is held to PostgreSQL: it answers on a standby, and as it does on the primary."""
    primary, standby = pair
    for one in STATEMENTS:
        if one.is_for_replica and one.text:
            said = _said(standby, one.text)
            assert said not in REFUSALS, one.text
            assert said == _said(primary, one.text), one.text


def test_without_a_catalogue_what_is_not_postgresqls_own_stays_on_the_primary() -> None:
    """Until it has been read, any table may be a view that writes."""
    nothing = Catalogue([])
    assert nothing.route("select 1, lower('x') from pg_class") == (True, "only reads")
    for text in ("select * from items", "select pure(1)", "select 1 ==== 2", "select 'x'::color"):
        assert nothing.route(text) == (False, "may do anything: what it runs can't be told"), text


def _said(connection: psycopg.Connection, text: str) -> str:
    """The SQLSTATE that a text ends with."""
    parameters = max((int(part[0]) for part in text.split("$")[1:] if part[:1].isdigit()), default=0)
    try:
        if parameters:
            # As a driver sends it, with values of no known type.
            result = connection.pgconn.exec_params(text.encode(), [b"1"] * parameters)
        else:
            result = connection.pgconn.exec_(text.encode())
        state = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
        if result.status in (psycopg.pq.ExecStatus.COPY_OUT, psycopg.pq.ExecStatus.COPY_IN):
            while connection.pgconn.get_copy_data(0)[0] > 0:
                pass
            while connection.pgconn.get_result():
                pass
    finally:
        connection.pgconn.exec_(b"rollback")
    return state.decode() if state else "00000"
