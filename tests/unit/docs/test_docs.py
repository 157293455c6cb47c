"""What pages say must be so: their samples, links, and every name of ours that they use."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from forebay._generated.settings import SETTINGS
from forebay.admin.registry import COMMANDS
from forebay.cli import root
from forebay.config import check, render

from tests.unit.docs.pages import ROOT, Block, Page, page, pages

SAMPLES = [block for page in pages() for block in page.blocks("toml")]
SECTIONS = ("listen", "engine", "limits", "auth", "server_defaults", "console", "metrics", "log")
# What a fragment needs to be whole.
REST = {
    "databases": '[databases.rest]\nendpoints = ["127.0.0.1:5432"]\n',
    "users": '[users.rest]\nsecret = { file = "rest.secret" }\n',
}
A_SECRET = "a secret"
HOOK = """import forebay

@forebay.secret_source
def none(request: forebay.SecretRequest) -> str | None:
    return None
"""


def every(*, of: list[Block] | tuple[Page, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("given", of, ids=str)


@every(of=SAMPLES)
def test_a_toml_sample_has_no_findings(given: Block, tmp_path: Path) -> None:
    """A reader who copies a sample that is refused trusts no other page."""
    text = given.text
    if "fragment" in given.words:
        text += "".join(rest for section, rest in REST.items() if f"[{section}." not in text)
    environ = {}
    for name in re.findall(r'"([\w/.-]+\.(?:secret|key|crt|py)|[\w-]+/password)"', text):
        make(tmp_path / name)
    for name in re.findall(r'"([\w/.-]+\.conf)"', text):
        (tmp_path / name).write_text("local all all peer\n")
    for variable in re.findall(r'env = "(\w+)"', text):
        environ[variable] = A_SECRET
    make(tmp_path / "rest.secret")
    (tmp_path / "forebay.toml").write_text(text)
    findings = check(tmp_path / "forebay.toml", environ=environ)
    assert not findings, render(findings)


def make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HOOK if path.suffix == ".py" else A_SECRET)
    path.chmod(0o600)


@every(of=pages())
def test_a_link_leads_somewhere(given: Page) -> None:
    """Dead links are what newcomers meet first after a rename."""
    for target in given.links():
        path, _, anchor = target.partition("#")
        found = (given.path.parent / path).resolve() if path else given.path
        assert found.exists(), f"{target} is not there"
        assert found.is_relative_to(ROOT)
        if anchor:
            assert anchor in page(str(found.relative_to(ROOT))).anchors(), f"{target}: no such heading"


@every(of=pages())
def test_a_path_that_is_named_exists(given: Page) -> None:
    """A map that names files of last year leads nowhere."""
    top = {path.name for path in ROOT.iterdir() if path.is_dir()}
    for code in given.code():
        if re.fullmatch(r"[\w.*/-]+", code) and "/" in code and code.split("/")[0] in top:
            assert list(ROOT.glob(code.rstrip("/"))), f"{code} is not there"


@every(of=pages())
def test_a_make_target_that_is_named_exists(given: Page) -> None:
    """The first command of the README is a make target."""
    makefile = (ROOT / "Makefile").read_text()
    commands = [line for block in given.blocks("sh") for line in block.text.splitlines()] + given.code()
    for command in commands:
        if found := re.match(r"(?:\w+=\S+ )*make ([a-z-]+)", command):
            assert re.search(rf"^{found[1]}:", makefile, re.MULTILINE), f"make {found[1]} is not there"


@every(of=pages())
def test_a_setting_that_is_named_exists(given: Page) -> None:
    """A renamed setting must not live on in prose."""
    known = {f"{setting.section}.{setting.name}" for setting in SETTINGS}
    tables = {name.rpartition(".")[0] for name in known}
    for code in given.code():
        name = code.split(" = ")[0]
        if re.fullmatch(rf"(?:{'|'.join(SECTIONS)})(?:\.[a-z_]+)+", name) and not name.endswith(".rs"):
            assert name in known | tables, f"{name} is no setting"


@every(of=pages())
def test_an_error_code_that_is_named_exists(given: Page) -> None:
    """People search for codes."""
    rows = (ROOT / "spec/errors.toml").read_text()
    for code in set(re.findall(r"\bFBC?\d{3}\b", given.text)):
        assert f'"{code}"' in rows, f"{code} is no code of ours"


@every(of=pages())
def test_a_metric_that_is_named_exists(given: Page) -> None:
    """An alert on a metric that is not there never fires."""
    reference = (ROOT / "docs/reference/metrics.md").read_text()
    names = set(re.findall(r"`(forebay_\w+)`", reference))
    for name in re.findall(r"(?<![\w`/])forebay_[a-z_]+_(?:total|seconds|bytes|waiters|clients|bucket)\b", given.text):
        assert name.removesuffix("_bucket") in names, f"{name} is no metric"


@every(of=pages())
def test_a_verb_that_is_named_exists_with_its_options(given: Page) -> None:
    """The command line is what people type from pages."""
    commands = [line for block in given.blocks("sh") for line in block.text.splitlines()] + given.code()
    for command in commands:
        words = shlex.split(command.replace("…", ""), comments=True) if command.startswith("forebay ") else []
        if len(words) < 2:
            continue
        if words[1].startswith("-"):
            assert words[1] in ("--version", "--help"), command
            continue
        verb = root.get_command(click.Context(root), words[1])
        assert verb is not None, f"{command}: no such verb"
        known = {name for parameter in verb.params for name in parameter.opts}
        for option in words[2:]:
            assert not option.startswith("--") or option in known, f"{command}: no such option"


@every(of=pages())
def test_a_console_command_that_is_named_exists(given: Page) -> None:
    """An operator types these at night."""
    for code in given.code():
        if found := re.match(r"SHOW ([A-Z_]+)$", code):
            assert any(name.upper() == f"SHOW {found[1]}" or name.upper() == found[1] for name in COMMANDS), code


def test_the_decisions_are_listed() -> None:
    """A page that the index does not name is not found."""
    index = page("docs/adr/README.md").links()
    there = {path.name for path in (ROOT / "docs/adr").glob("0*.md")}
    assert there == set(index)


def test_every_page_can_be_reached() -> None:
    """A page without a link to it is read by nobody."""
    linked = {(given.path.parent / target.partition("#")[0]).resolve() for given in pages() for target in given.links()}
    docs = {path.resolve() for path in ROOT.glob("docs/**/*.md")}
    assert not {str(path.relative_to(ROOT)) for path in docs - linked} - {"docs/README.md"}
