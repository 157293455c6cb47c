"""`forebay explain`: what stands at the end of an error leads to its page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from forebay._generated.errors import FINDINGS
from forebay._generated.pages import PAGES
from forebay.config import load_text
from forebay.failure import Exit

from tests.unit.cli.test_command_line import run

TOML = [page for page in PAGES.values() if (page.example or "").startswith("[") and page.name != "too_many_files"]
# What a part of a configuration lacks, and the files and commands that it names.
LACKS = {"FBC033", "FBC040", "FBC053", "FBC056", "FBC061", "FBC062", "FBC063"}
VARIABLES = {"APP_PASSWORD": "x", "OPS_PASSWORD": "x", "LOG_LEVEL": "info"}


@pytest.mark.parametrize("written", ["FB301", "fb301", "(FB301)", "pin_refused"])
def test_a_code_is_explained_however_it_is_copied(capsys: pytest.CaptureFixture[str], written: str) -> None:
    """From a hint, with its parentheses; from the log, by its name."""
    code, text, _ = run(capsys, "explain", written)
    assert code == 0
    assert text.startswith("FB301 pin_refused (ERROR, SQLSTATE 0A000)\n")
    assert "  <cause> would pin a server, and this pool refuses pins\n" in text
    assert "What to do\n" in text
    assert "ON COMMIT DROP" in text


def test_a_code_that_does_not_exist_is_told_with_the_one_that_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 1: a script that looks codes up must notice."""
    code, text, error = run(capsys, "explain", "FB3O1")
    assert (code, text) == (Exit.FINDINGS, "")
    assert 'no code "FB3O1"' in error
    assert "Did you mean FB301" in error


def test_every_code_is_listed_and_has_a_page_to_act_on(capsys: pytest.CaptureFixture[str]) -> None:
    """A page that only repeats its error helps nobody."""
    code, listed, _ = run(capsys, "explain")
    assert code == 0
    assert [line.split()[0] for line in listed.splitlines()] == list(PAGES)
    assert {row.code for row in FINDINGS.values()} < set(PAGES)
    for page in PAGES.values():
        code, text, _ = run(capsys, "explain", page.code)
        assert code == 0
        assert not re.search(r"(?<!\$)\{\w+\}", text), page.code
        assert page.why not in (page.message, page.hint), page.code
        assert max(map(len, text.splitlines())) <= 128, page.code


@pytest.mark.parametrize("page", TOML, ids=lambda page: page.code)
def test_an_example_of_a_configuration_is_one(page: object, tmp_path: Path) -> None:
    """What is copied from a page about a mistake must not be the next mistake."""
    findings = load_text(page.example, folder=tmp_path, environ=VARIABLES).findings  # type: ignore[attr-defined]
    assert [one for one in findings if one.code not in LACKS] == []
