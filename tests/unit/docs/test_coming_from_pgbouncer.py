"""What the page for PgBouncer's users shows is what they get."""

from __future__ import annotations

from pathlib import Path

import pytest
from forebay.config import check, render
from forebay.config.advice.facts import Facts
from forebay.config.convert import convert

from tests.unit.docs.pages import page

PAGE = page("docs/howto/coming-from-pgbouncer.md")


@pytest.fixture
def ini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's file, where its commands find it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "userlist.txt").write_text('"app" "its password"\n')
    (tmp_path / "userlist.txt").chmod(0o600)
    (block,) = PAGE.blocks("ini")
    (tmp_path / "pgbouncer.ini").write_text(block.text)
    return Path("pgbouncer.ini")


def test_the_findings_that_it_shows_are_those_of_its_file(ini: Path) -> None:
    shown = PAGE.blocks("text")[0].text
    findings = check(ini, environ={}, facts=Facts(instances=2, connections_max=50))
    assert shown.startswith(render(findings))
    assert page("README.md").text.count(render(findings[:1])) == 1


def test_the_lines_that_it_shows_are_those_of_its_forebay_toml(ini: Path) -> None:
    made = convert(ini, target=Path("forebay.toml"))
    assert made.text is not None
    (shown,) = PAGE.blocks("toml")
    lines = made.text.splitlines()
    assert [line for line in shown.text.splitlines() if line and line not in lines] == []
    assert made.without_effect == 1
