"""`forebay classify --server`: what a text does where a database's own functions, triggers and views are known."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from forebay.cli import guarded, root
from forebay.control.catalogue_link import KNOWN_MAX, Catalogues
from forebay.failure import Exit

from tests.harness.postgres import Postgres

OBJECTS = """
create table told (id int, note text);
create function teller() returns trigger language plpgsql as
  $$begin perform set_config('app.told', new.id::text, false); return new; end$$;
create trigger t before insert on told for each row execute function teller();
create view shown as select id from told where pg_try_advisory_lock(id);
create function harmless(a int) returns int language sql as 'select a + 1';
"""
NOTHING = "drop view shown; drop table told; drop function teller(), harmless(int)"


@pytest.fixture(scope="module")
def dsn(server: Postgres) -> Iterator[str]:
    """A database with such objects, for a user without rights."""
    with server.target.connect(user="postgres", dbname="app", autocommit=True) as admin:
        admin.execute(OBJECTS)
        yield f"host=127.0.0.1 port={server.port} dbname=app user=app"
        admin.execute(NOTHING)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and output."""
    code = guarded(lambda: root.main(["classify", *arguments], prog_name="forebay", standalone_mode=False))
    return code, capsys.readouterr().out


def test_what_a_trigger_does_is_told(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A trigger that sets something is why a client's transaction is looked at, and the text says nothing of it."""
    code, said = run(capsys, "insert into told values (1)", "--server", dsn)
    assert code == Exit.OK
    assert "in this database it also:\n   sets settings that the text does not name" in said
    assert "because of write to relation told" in said
    assert "teller" in said


def test_what_a_view_and_a_function_do_is_told(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = run(capsys, "select * from shown", "--server", dsn, "--json")
    assert "advisory lock" in json.loads(said)["database"]["traces"]
    _, said = run(capsys, "select harmless(1)", "--server", dsn)
    assert "in this database it does nothing else\n" in said
    _, said = run(capsys, "select unheard_of(1)", "--server", dsn, "--json")
    assert json.loads(said)["database"]["traces"] == ["opaque"]


def test_what_has_not_changed_is_not_read_again(dsn: str, server: Postgres) -> None:
    """Of a database with thousands of tables it takes seconds, and EXPLAIN ROUTE is asked again and again."""
    place = {"host": "127.0.0.1", "port": server.port, "dbname": "app", "user": "app"}
    catalogues = Catalogues()
    first = catalogues.read("app", place)
    assert catalogues.read("app", place) is first
    assert catalogues.read("app", {**place, "host": "localhost"}) is not first, "it may be another server"
    known = catalogues.read("app", place)
    assert "opaque" in known.judge("select unheard_of(1)")
    with server.target.connect(user="postgres", dbname="app", autocommit=True) as admin:
        admin.execute("create function unheard_of(a int) returns int language sql as 'select a + 1'")
        try:
            assert catalogues.read("app", place).judge("select unheard_of(1)") == []
        finally:
            admin.execute("drop function unheard_of(int)")
    for number in range(KNOWN_MAX):
        last = catalogues.read(f"other{number}", place)
    assert len(catalogues._known) == KNOWN_MAX, "they are megabytes"
    assert catalogues.read(f"other{KNOWN_MAX - 1}", place) is last


def test_a_database_that_is_not_there_is_told(server: Postgres, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 3, so that a script knows that it was not the text."""
    code, said = run(capsys, "select 1", "--server", f"host=127.0.0.1 port={server.port} dbname=nowhere user=app")
    assert (code, said) == (Exit.CANNOT_REACH, "")
