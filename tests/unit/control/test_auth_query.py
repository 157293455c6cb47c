"""Whose query asks for a user's secret."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from forebay import config
from forebay.control import auth_query
from forebay.control.auth_query import AuthQuery

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
        def __init__(self, parameters: dict[str, Any]) -> None:
            self._parameters = parameters

        async def ask(self, query: str, user: str) -> tuple[str, str]:
            asked.append((self._parameters["host"], self._parameters["user"], query))
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
    assert not asked
