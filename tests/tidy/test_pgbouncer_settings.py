"""Each setting of PgBouncer's that works has a test that proves it, by name: tests/pgbouncer_settings.toml.

So has what else there is of it: tests/pgbouncer_surface.toml.
"""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

from forebay._generated.pgbouncer import KNOWN
from forebay.admin.registry import COMMANDS
from forebay.config.importers import pgbouncer
from forebay.dropin import options

TESTS = Path(__file__).resolve().parents[1]
TABLE = tomllib.loads((TESTS / "pgbouncer_settings.toml").read_text())
SURFACE = tomllib.loads((TESTS / "pgbouncer_surface.toml").read_text())
SIGNALS = options.HELP.partition("Signals: ")[2]


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
    named |= {entry["proof"] for part in SURFACE.values() for entry in part.values()}
    lost = []
    for test in sorted(named):
        path, _, name = test.partition("::")
        if not (TESTS / path).is_file() or name not in names(TESTS / path):
            lost.append(test)
    assert lost == []


def test_nothing_else_of_pgbouncers_is_left_out() -> None:
    """Who runs PgBouncer knows it by its options, signals and commands as much as by its settings."""
    assert set(SURFACE["option"]) == {name.rstrip("=") for name in options.LONG}
    assert set(SURFACE["signal"]) == {line.split()[0] for line in SIGNALS.splitlines()}
    assert set(SURFACE["peer"]) == set(pgbouncer._PEER_KEYS)
    own = {"budgets", "endpoints", "errors", "failovers", "fleet", "pins", "route", "workers"}
    tables = {name.removeprefix("show ") for name in COMMANDS if name.startswith("show ")}
    assert set(SURFACE["show"]) == tables - own
    orders = {name for name in COMMANDS if not name.startswith("show ")}
    assert set(SURFACE["command"]) == orders - {"switchover", "drain", "forget_node"} | {"select"}
    assert all(set(entry) == {"does", "proof"} for part in SURFACE.values() for entry in part.values())
