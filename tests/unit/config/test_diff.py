"""The log of a reload says what changed, and no secret."""

from __future__ import annotations

from collections.abc import Callable

from forebay.config import Config, diff

Usable = Callable[..., Config]


def test_nothing_changed_is_no_line(usable: Usable, minimal: str) -> None:
    assert diff(usable(minimal), usable(f"# a comment\n[listen]\nport = 6432\n{minimal}")) == ()


def test_each_changed_setting_is_a_line(usable: Usable, minimal: str) -> None:
    old = usable(f"[limits]\nwait_bytes_max = '128KB'\n{minimal}")
    new = usable(f"[listen]\nport = 7000\n[server_defaults]\nquery_timeout = '5s'\n{minimal}")
    assert diff(old, new) == (
        "listen.port: 6432 -> 7000 (takes effect at the next start)",
        "limits.wait_bytes_max: 128KB -> 64KB",
        "server_defaults.query_timeout: 0s -> 5s",
    )


def test_databases_and_users_come_go_and_change(usable: Usable, minimal: str) -> None:
    old = usable(f"{minimal}[databases.old]\nendpoints = ['o:1']\n")
    new = usable(minimal.replace("[users", "pool_size = 5\n[users") + "[databases.new]\nendpoints = ['n:1']\n")
    assert diff(old, new) == (
        "databases.old: removed",
        "databases.shop.pool_size: not set -> 5",
        "databases.new: added",
    )


def test_a_changed_secret_is_said_and_not_shown(usable: Usable, minimal: str) -> None:
    old, new = usable(minimal, environ={"APP": "hunter1"}), usable(minimal, environ={"APP": "hunter2"})
    assert diff(old, new) == ("users.app.secret: changed",)
    assert diff(old, old) == ()
