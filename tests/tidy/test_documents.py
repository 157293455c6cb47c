"""What the documents tell people to type exists."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.tidy.sources import ROOT, files

TARGET = re.compile(r"^([a-z-]+):.*##", re.MULTILINE)


def blocks(name: str) -> list[str]:
    """Lines of a document's code blocks."""
    text = (ROOT / name).read_text()
    found = re.findall(r"```(?:sh|bash|console|shell)?\n(.*?)```", text, re.DOTALL)
    return [line.removeprefix("$ ").strip() for block in found for line in block.splitlines()]


def documents() -> list[str]:
    """All of them."""
    return [path.relative_to(ROOT).as_posix() for path in files(".md")]


def test_make_targets_that_are_named_exist() -> None:
    """The first thing a newcomer types."""
    targets = set(TARGET.findall((ROOT / "Makefile").read_text())) | {"all"}
    missing = {
        f"{name}: make {target}"
        for name in documents()
        for line in blocks(name)
        for target in re.findall(r"^make ((?!-)[a-z-]+)", line)
        if target not in targets
    }
    assert missing == set()


def test_forebay_verbs_that_are_named_exist() -> None:
    """And are told by --help."""
    told = subprocess.run(
        [sys.executable, "-m", "forebay", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    missing = {
        f"{name}: forebay {verb}"
        for name in documents()
        for line in blocks(name)
        for verb in re.findall(r"^(?:\.venv/bin/)?forebay ([a-z]+)", line)
        if not re.search(rf"^  {verb}\b", told, re.MULTILINE)
    }
    assert missing == set()


def test_files_that_are_linked_exist() -> None:
    """A dead link is a promise that was not kept."""
    missing = set()
    for name in documents():
        folder = (ROOT / name).parent
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", (ROOT / name).read_text()):
            if not (folder / link).exists() and not (ROOT / link).exists():
                missing.add(f"{name}: {link}")
    assert missing == set()
