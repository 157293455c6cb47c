"""`forebay pins`: how it finds the console, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forebay.cli import pins
from forebay.config import load_text
from forebay.control import console_link
from forebay.failure import Exit, Failure

from tests.unit.cli.test_command_line import run

SHOP = '[databases.shop]\nendpoints = ["10.0.0.5:5432"]\n'
OPS = '[users.ops]\nsecret = { env = "OPS" }\n[console]\nadmins = ["eve", "ops"]\n'
ROW = {
    "id": 12, "database": "shop", "user": "app", "application_name": "we\x1b[2Jb", "server": 3, "remote_pid": 99,
    "pinned_since": "2026-11-21 10:00:00 UTC", "reasons": "listen", "statement": "LISTEN",
    "released_by": "UNLISTEN, or the end of the session",
}  # fmt: skip


def parameters(text: str) -> dict[str, object]:
    """What libpq is given for a configuration."""
    config = load_text(text, environ={"OPS": "ops secret"}).config
    assert config is not None
    return console_link.from_config(config.engine)


def test_another_user_logs_in_with_its_own_password() -> None:
    """A drill's clients are no admins; where the file has their password, nobody has to write it down again."""
    text = (
        '[databases.a]\nendpoints = ["10.0.0.5:5432"]\n[users.ops]\nsecret = { env = "OPS" }\n[users.app]\n'
        'secret = "of app"\n[users.other]\n[console]\nadmins = ["ops"]\n'
    )
    config = load_text(text, environ={"OPS": "ops secret"}).config
    assert config is not None
    known = {user: console_link.from_config(config.engine, user=user) for user in ("app", "other", "unknown")}
    assert {user: (given["user"], given["password"]) for user, given in known.items()} == {
        "app": ("app", "of app"), "other": ("other", None), "unknown": ("unknown", None),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [
        ("", "127.0.0.1", 6432),
        ('[listen]\naddress = "0.0.0.0"\nport = 7000\n', "127.0.0.1", 7000),
        ('[listen]\naddress = "[::]"\n', "::1", 6432),
        ('[listen]\naddress = ["10.0.0.1", "10.0.0.2"]\n', "10.0.0.1", 6432),
        ('[listen]\naddress = []\nunix = "/run/forebay"\n', "/run/forebay", 6432),
    ],
)
def test_the_console_is_found_where_the_configuration_listens(listen: str, host: str, port: int) -> None:
    """As the first operator whose password is known."""
    assert parameters(f"{listen}{SHOP}{OPS}") == {
        "host": host, "port": port, "dbname": "forebay", "user": "ops", "password": "ops secret",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        f'{SHOP}[users.ops]\nsecret = {{ env = "OPS" }}\n',
        f'{SHOP}[users.ops]\nsecret = "md5{"0" * 32}"\n[console]\nadmins = ["ops"]\n',
        f"[listen]\nport = 0\n{SHOP}{OPS}",
    ],
)
def test_where_a_configuration_does_not_lead_to_the_console_the_dsn_is_named(text: str) -> None:
    """The next step must be in the error: this is run when something is wrong already."""
    with pytest.raises(Failure) as caught:
        parameters(text)
    assert "--dsn" in (caught.value.hint or "")


def test_a_dsn_leads_to_the_console_unless_it_names_a_database() -> None:
    """The console's database is easily forgotten."""
    assert console_link.from_dsn("host=a user=ops")["dbname"] == "forebay"
    assert console_link.from_dsn("postgresql://ops@a:7000/pgbouncer")["dbname"] == "pgbouncer"


@pytest.mark.parametrize("arguments", [(), ("--dsn", "host=a", "--config", "b"), ("--dsn", "host='a")])
def test_wrong_use_is_told_with_exit_code_2(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    """And a password in the string is not printed."""
    assert run(capsys, "pins", *arguments)[0] == Exit.USAGE


def test_a_console_that_does_not_answer_is_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts tell "no pins" from "nobody there"."""
    code, text, error = run(capsys, "pins", "--dsn", "host=127.0.0.1 port=1 user=ops password=hidden")
    assert (code, text) == (Exit.CANNOT_REACH, "")
    assert "can't reach the console" in error
    assert "hidden" not in error


def test_a_configuration_with_mistakes_is_told_with_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Line and column, as `forebay check` does."""
    path = tmp_path / "forebay.toml"
    path.write_text("[listen]\nprot = 1\n")
    code, _, error = run(capsys, "pins", "--config", str(path))
    assert (code, "FBC005" in error) == (Exit.FINDINGS, True)


def test_pins_are_printed_as_a_table_that_no_client_can_forge(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """application_name is the client's, and an escape sequence in it would be the terminal's."""
    monkeypatch.setattr(pins.console_link, "ask", lambda *_: [ROW])
    code, text, _ = run(capsys, "pins", "--dsn", "host=a")
    head, line = text.splitlines()
    assert code == 0
    assert head.split("  ")[0] == "client"
    assert "we?[2Jb" in line
    assert line.index("LISTEN") == head.index("statement")
    assert line.endswith("UNLISTEN, or the end of the session")
    code, text, _ = run(capsys, "pins", "--dsn", "host=a", "--json")
    assert json.loads(text) == {"version": 1, "pins": [ROW]}


def test_no_pins_are_said_to_be_none(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty table looks like a failure."""
    monkeypatch.setattr(pins.console_link, "ask", lambda *_: [])
    assert run(capsys, "pins", "--dsn", "host=a")[1] == "no session holds its server between transactions\n"
