"""Secrets: fetched from where they stand, refused where others can read them, never printed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from forebay.config import Config, Finding, Loaded, Secret
from forebay.config.load import load

HEAD = '[databases.shop]\nendpoints = ["a:1"]\n[users.app]\n'
VERIFIER = f"SCRAM-SHA-256$4096:c2FsdA==${'A' * 43}=:{'B' * 43}="


def secret_of(config: Config) -> str:
    secret = config.engine.users[0].secret
    assert secret is not None
    return secret.text


def test_a_secret_comes_from_the_environment(usable: Callable[..., Config]) -> None:
    assert secret_of(usable(f'{HEAD}secret = {{ env = "PW" }}', environ={"PW": "ä b"})) == "ä b"


def test_a_secret_comes_from_a_file_without_its_last_newline(usable: Callable[..., Config], tmp_path: Path) -> None:
    path = tmp_path / "app.secret"
    path.write_text("pass word\n")
    path.chmod(0o600)
    assert secret_of(usable(f'{HEAD}secret = {{ file = "app.secret" }}')) == "pass word"
    assert secret_of(usable(f'{HEAD}secret = "file:app.secret"')) == "pass word"


def test_a_secret_file_that_others_can_read_is_refused(only: Callable[..., Finding], tmp_path: Path) -> None:
    path = tmp_path / "app.secret"
    path.write_text("x")
    path.chmod(0o644)
    finding = only(f'{HEAD}secret = {{ file = "app.secret" }}')
    assert (finding.code, finding.line, finding.column) == ("FBC032", 4, 19)
    assert "(mode 644)" in finding.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of root's")
def test_a_secret_file_of_roots_may_be_read_by_its_group(usable: Callable[..., Config], tmp_path: Path) -> None:
    path = tmp_path / "app.secret"
    path.write_text("x")
    path.chmod(0o640)
    assert secret_of(usable(f'{HEAD}secret = {{ file = "app.secret" }}')) == "x"


def test_a_secret_comes_from_a_command(usable: Callable[..., Config]) -> None:
    text = f'{HEAD}secret = {{ command = ["sh", "-c", "echo from $WHERE; echo more"], timeout = "60s" }}'
    assert secret_of(usable(text, environ={"WHERE": "there", "PATH": os.environ["PATH"]})) == "from there"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ('["sh", "-c", "exit 3"]', "ended with status 3"),
        ('["/nonexistent/program"]', "could not be started: No such file or directory"),
    ],
)
def test_a_command_that_fails_is_a_finding(only: Callable[..., Finding], command: str, words: str) -> None:
    finding = only(f"{HEAD}secret = {{ command = {command} }}", environ={"PATH": os.environ["PATH"]})
    assert finding.code == "FBC033"
    assert words in finding.message


def test_a_command_that_does_not_end_is_stopped(only: Callable[..., Finding]) -> None:
    text = f'{HEAD}secret = {{ command = ["sh", "-c", "while :; do :; done"], timeout = "50ms" }}'
    finding = only(text, environ={"PATH": os.environ["PATH"]})
    assert (finding.code, "did not end within 0.05 s" in finding.message) == ("FBC033", True)


@pytest.mark.parametrize(
    ("secret", "code"),
    [
        ('"plain"', "FBC030"),
        ("5", "FBC031"),
        ("{}", "FBC031"),
        ('{ env = "APP", file = "x" }', "FBC031"),
        ('{ evn = "APP" }', "FBC031"),
        ("{ env = 5 }", "FBC031"),
        ("{ command = [] }", "FBC031"),
        ('{ env = "APP", timeout = "5s" }', "FBC031"),
        ('{ env = "NOPE" }', "FBC020"),
        ('{ env = "EMPTY" }', "FBC034"),
        ('{ file = "nope" }', "FBC040"),
        ('{ verifier = "plain" }', "FBC035"),
    ],
)
def test_a_faulty_secret_is_found(only: Callable[..., Finding], secret: str, code: str) -> None:
    assert only(f"{HEAD}secret = {secret}", environ={"EMPTY": ""}).code == code


def test_a_verifier_in_the_file_is_no_finding(load: Callable[..., Loaded]) -> None:
    assert load(f'{HEAD}secret = "{VERIFIER}"').findings == ()
    assert load(f'{HEAD}secret = {{ verifier = "md5{"a" * 32}" }}').findings == ()


def test_a_secret_of_the_environment_is_never_taken_for_a_path(usable: Callable[..., Config]) -> None:
    assert secret_of(usable(f'{HEAD}secret = "${{PW}}"', environ={"PW": "file:/etc/passwd"})) == "file:/etc/passwd"


def test_a_secret_is_not_printed(usable: Callable[..., Config]) -> None:
    config = usable(f'{HEAD}secret = "hunter2"')
    assert "hunter2" not in repr(config)
    assert "hunter2" not in str(config.engine)
    assert f"{Secret('hunter2')}" == "Secret(…)"
    assert b'"secret":"hunter2"' in config.engine.to_json()


def test_who_does_not_serve_fetches_none(tmp_path: Path) -> None:
    """`forebay upgrade` runs in a shell that has none of them; what is written wrongly is told all the same."""
    path = tmp_path / "forebay.toml"
    path.touch(mode=0o600)
    for secret in ('{ env = "NOT_SET" }', '{ file = "not.there" }', '{ command = ["/not/there"] }', '"file:not.there"'):
        path.write_text(f"{HEAD}secret = {secret}")
        assert load(path, environ={}).config is None, secret
        loaded = load(path, environ={}, is_fetching=False)
        assert loaded.config is not None, loaded.findings
        assert secret_of(loaded.config) == "not fetched"
    path.write_text(f"{HEAD}secret = {{ comand = 1 }}")
    assert load(path, environ={}, is_fetching=False).config is None
