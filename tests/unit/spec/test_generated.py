"""What is generated is fresh, and the tables it comes from say nothing wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from forebay._generated import errors
from forebay._generated.errors import FINDINGS, ForebayError
from forebay._generated.settings import SECTIONS, SETTINGS, Setting
from forebay.config import load_text, sample
from forebay.config.draft import default_of
from forebay.config.finding import Report
from forebay.config.kinds import KINDS, Reading
from forebay.config.source import outside
from forebay.config.tree import Node

ROOT = Path(__file__).parents[3]


def test_every_generated_file_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/gen.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_sample_is_a_configuration_that_lacks_a_user_only() -> None:
    loaded = load_text(sample(), environ={})
    assert [one.code for one in loaded.findings] == ["FBC061"]
    assert loaded.config is not None


def test_the_sample_with_every_comment_removed_is_read_without_an_unknown_setting() -> None:
    lines = (re.sub(r"^#(?=[a-z\[])", "", line) for line in sample().split("\n"))
    codes = {one.code for one in load_text("\n".join(lines), environ={"APP_PASSWORD": "x"}).findings}
    known = {"FBC002", "FBC040", "FBC065", "FBC062", "FBC064", "FBC056", "FBC081", "FBC154", "FBC177", "FBC182"}
    assert codes <= known, codes


@pytest.mark.parametrize("setting", [one for one in SETTINGS if one.default is not None], ids=lambda one: one.key)
def test_every_default_is_a_value_that_would_be_accepted(setting: Setting) -> None:
    report = Report()
    kinds = {str: "string", int: "integer", bool: "boolean", tuple: "array"}
    default = setting.default
    items = tuple(Node("string", outside("x"), one) for one in default) if isinstance(default, tuple) else ()
    node = Node(kinds[type(default)], outside("x"), None if items else default, items=items)  # type: ignore[arg-type]
    value = KINDS[setting.kind](Reading(setting, node, setting.key, Path("/"), report))
    assert report.findings == ()
    assert value == default_of(setting)


def test_every_finding_can_be_reported() -> None:
    written = [path for path in (ROOT / "python/forebay").rglob("*.py") if "_generated" not in path.parts]
    sources = "".join(path.read_text() for path in written)
    assert [name for name in FINDINGS if f'"{name}"' not in sources] == []


def test_settings_that_errors_name_exist() -> None:
    text = (ROOT / "spec/errors.toml").read_text()
    known = {one.key for one in SETTINGS} | {f"{one.section}.{one.name.split('.')[0]}" for one in SETTINGS}
    named = set(re.findall(rf"(?<!\[)\b((?:{'|'.join(SECTIONS)})\.[a-z_]+(?:\.[a-z_]+)?)\b", text))
    assert {one for one in named if one not in known and not one.startswith(("users.user", "pg_hba"))} == set()


def test_an_error_of_python_has_the_words_of_the_engine() -> None:
    error = errors.console_denied(user="a{b}", command="KILL")
    assert isinstance(error, ForebayError)
    assert (error.code, error.sqlstate, error.severity) == ("FB902", "42501", "ERROR")
    assert str(error) == 'user "a{b}" may not run KILL'
    assert error.hint.endswith("(FB902)")
