"""Whose query asks for a user's secret."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest
from forebay import config
from forebay.control import auth_query
from forebay.control.auth_query import AuthQuery
from forebay.control.secrets import LookupFailed

INI = """[databases]
listed = host=h1
own = host=h2 auth_user=ann auth_query='own $1'
* = host=h3 auth_user=bob auth_query='rest $1' auth_dbname=secrets
secrets = host=h4
[pgbouncer]
auth_file = userlist.txt
auth_user = app
auth_query = all $1
"""


def test_databases_that_the_star_serves_are_asked_by_its_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is listed and has no query of its own, and the console, have that of all."""
    (tmp_path / "userlist.txt").write_text('"app" "x"\n')
    (tmp_path / "userlist.txt").chmod(0o600)
    (tmp_path / "pgbouncer.ini").write_text(INI)
    loaded = config.load(tmp_path / "pgbouncer.ini", environ={})
    assert loaded.config is not None, config.render(loaded.findings)
    given = loaded.config
    asked: list[tuple[str, str, str]] = []

    class Line:
        async def ask(self, parameters: dict[str, Any], query: str, user: str) -> tuple[str, str]:
            asked.append((parameters["host"], parameters["user"], query))
            return user, "secret"

    monkeypatch.setattr(auth_query, "_Line", Line)
    query = AuthQuery(given.auth_query, given.auth_queries, given.engine, timeout_s=5)
    for database, wanted in (
        ("listed", ("h1", "app", "all $1")),
        ("own", ("h2", "ann", "own $1")),
        ("anything", ("h4", "bob", "rest $1")),
    ):
        assert asyncio.run(query.secret(database, "x")) == "secret"
        assert asked.pop() == wanted, database
    assert asyncio.run(query.secret("pgbouncer", "x")) is None, "no auth_dbname says where the console's users are"
    none = AuthQuery(given.auth_query, given.auth_queries, given.engine, timeout_s=5, endpoints=lambda *_: ())
    with pytest.raises(LookupFailed, match="no endpoint of listed may be asked"):
        asyncio.run(none.secret("listed", "x"))
    assert not asked


def test_a_kept_connection_is_not_asked_once_others_are_to_be_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be to a primary that was deposed, and whose secrets nobody changes any more."""
    opened: list[str] = []

    class Cursor:
        def __init__(self, connection: Connection) -> None:
            self._connection = connection

        async def execute(self, query: bytes, values: tuple[str, ...]) -> None:
            assert not self._connection.is_closed

        async def fetchone(self) -> tuple[str, str]:
            return self._connection.host, "secret"

    class Connection:
        is_closed = False

        def __init__(self, host: str) -> None:
            self.host = host

        @classmethod
        async def connect(cls, *, host: str, **_: object) -> Connection:
            opened.append(host)
            return cls(host)

        async def close(self) -> None:
            self.is_closed = True

    monkeypatch.setattr(psycopg, "AsyncConnection", Connection)
    monkeypatch.setattr(psycopg, "AsyncRawCursor", Cursor)
    line = auth_query._Line()
    for host in ("a,b", "a,b", "b,a"):
        assert asyncio.run(line.ask({"host": host}, "query", "x")) == (host, "secret")
    assert opened == ["a,b", "b,a"]
