"""auth.file: PgBouncer's userlist.txt beside [users], and the limits that hold for each user of both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from forebay.config import Config, Finding

TEXT = """
[limits]
max_user_connections = 5
[auth]
file = "userlist.txt"
[databases.shop]
endpoints = ["10.0.0.5:5432"]
[users.app]
secret = { env = "APP" }
pool_size = 3
[users.batch]
max_user_connections = 0
"""


@pytest.fixture(autouse=True)
def userlist(tmp_path: Path) -> Path:
    path = tmp_path / "userlist.txt"
    path.write_text('"app" "other"\n"batch" "old"\n"web" "pw"\n"batch" "new"\n"known" ""\n')
    path.chmod(0o600)
    return path


def test_users_come_from_both_and_the_table_counts_first(usable: Callable[..., Config]) -> None:
    """Moving one user after the other out of the file must not change who can log in."""
    users = {one.name: one for one in usable(TEXT).engine.users}
    secrets = {name: one.secret.text if one.secret else None for name, one in users.items()}
    assert secrets == {"app": "app's secret", "batch": "new", "web": "pw", "known": None}
    assert users["app"].pool_size == 3


def test_a_limit_for_each_user_holds_unless_the_user_has_one(usable: Callable[..., Config]) -> None:
    limits = {one.name: one.max_user_connections for one in usable(TEXT).engine.users}
    assert limits == {"app": 5, "batch": 0, "web": 5, "known": 5}


def test_a_file_that_others_may_read_is_said(only: Callable[..., Finding], userlist: Path) -> None:
    userlist.write_text('"web" "pw"\n"batch" "pw"\n')
    userlist.chmod(0o644)
    finding = only(TEXT)
    assert (finding.code, finding.severity, finding.line, finding.column) == ("FBC076", "warning", 5, 8)


def test_a_faulty_line_is_told_without_its_secret(only: Callable[..., Finding], userlist: Path) -> None:
    userlist.write_text('"batch" "pw"\n"web" hunter2\n')
    finding = only(TEXT)
    assert (finding.code, finding.line, finding.excerpt) == ("FBC075", 2, None)
