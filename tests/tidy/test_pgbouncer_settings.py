"""Each setting of PgBouncer's that works has a test that proves it, by name: tests/pgbouncer_settings.toml."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

from forebay._generated.pgbouncer import KNOWN
from forebay.config.importers import pgbouncer

TESTS = Path(__file__).resolve().parents[1]
TABLE = tomllib.loads((TESTS / "pgbouncer_settings.toml").read_text())


def names(path: Path) -> set[str]:
    """Functions of a file."""
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_each_setting_that_works_has_its_line() -> None:
    """A setting without one may be read and do nothing."""
    works = {name for name, known in KNOWN.items() if known.instead is None}
    assert set(TABLE["setting"]) == works
    assert set(TABLE["database"]) == {*pgbouncer._DATABASE_KEYS, "host", "port"}
    assert set(TABLE["user"]) == set(pgbouncer._USER_KEYS)


def test_what_is_named_is_there() -> None:
    """A test that was renamed proves nothing under its old name."""
    named = {test for part in ("setting", "database", "user") for test in TABLE[part].values()}
    lost = []
    for test in sorted(named):
        path, _, name = test.partition("::")
        if not (TESTS / path).is_file() or name not in names(TESTS / path):
            lost.append(test)
    assert lost == []
