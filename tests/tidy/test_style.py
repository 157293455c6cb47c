"""House style, as far as a program can tell."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tidy.sources import ROOT, files, without_literals

# Names that say nothing about what is inside.
EMPTY_NAMES = {"util", "utils", "common", "manager", "inner", "impl", "helper", "helpers", "misc"}

# What CONTRIBUTING's glossary has one word for, where the other word can't mean anything else.
SYNONYMS = {
    r"\bbackend connections?\b": "server",
    r"\bupstream (server|connection|database)s?\b": "server",
    r"\bclient sessions?\b": "client, or session",
    r"\bconnection pool manager\b": "pool",
    r"\bshed(?:ding)? load\b": "refuse",
    r"\bkick(?:s|ed|ing)? out\b": "evict, eject or retire",
    r"\bwhite-?list|black-?list\b": "allow-list, deny-list",
}

# Lists of checksums, which may spell anything.
CHECKSUMS = {".lock", ".sum"}


def relative(path: Path) -> str:
    """As people name it."""
    return path.relative_to(ROOT).as_posix()


def test_no_file_or_folder_has_a_name_that_says_nothing() -> None:
    """Such files become the place for everything."""
    bad = [
        relative(path)
        for path in files(".rs", ".py", ".toml", ".md", ".sh")
        if EMPTY_NAMES & {part.removesuffix(path.suffix) for part in path.relative_to(ROOT).parts}
    ]
    assert bad == []


def test_every_module_says_what_it_is_about() -> None:
    """A newcomer reads heads first."""
    silent = [
        relative(path)
        for path in files(".py")
        if path.read_text().strip() and not re.match(r'(#!.*\n)?(r?"""|# )', path.read_text())
    ]
    silent += [relative(path) for path in files(".rs") if not re.match(r"(#!\[.*\n)*//!", path.read_text())]
    assert silent == []


def marks_without_issue(text: str) -> list[int]:
    """Lines that leave a task for later and name no issue; the brackets keep the pattern from finding itself."""
    mark = re.compile(r"(?<![A-Za-z0-9])(?:TO[D]O|FIX[M]E|X{3})(?![A-Za-z0-9])(?!\(#\d+\))")
    return [number for number, line in enumerate(text.splitlines(), 1) if mark.search(line)]


def test_every_task_left_for_later_names_its_issue() -> None:
    """One without an issue is a wish."""
    bad = [
        f"{relative(path)}:{number}"
        for path in files("")
        if path.suffix not in CHECKSUMS
        for number in marks_without_issue(path.read_text(errors="replace"))
    ]
    assert bad == []


# Written with a tilde, which goes before the check sees them.
@pytest.mark.parametrize(
    "line",
    [
        "# TO~DO: later",
        "// FIX~ME",
        "x = 1  # XX~X",
        "XX~X",
        "(TO~DO)",
        "later_TO~DO",
        "TO~DO(me)",
        "TO~DO #12",
        "TO~DO(#)",
    ],
)
def test_a_mark_without_an_issue_is_found(line: str) -> None:
    """A pattern that finds nothing would pass everything."""
    assert marks_without_issue("first\n" + line.replace("~", "") + "\nlast\n") == [2]


@pytest.mark.parametrize(
    "line", ["# TO~DO(#12): later", "FIX~ME(#3)", "SQLSTATE XX000", "mktemp name.XX~XXXX", "0xXX~X0", "AUTODO", "to do"]
)
def test_what_only_looks_like_a_mark_is_not_found(line: str) -> None:
    """A check that cries at SQLSTATEs would be switched off."""
    assert marks_without_issue(line.replace("~", "")) == []


def test_one_word_for_one_thing() -> None:
    """Two words for one thing make readers look for the difference."""
    bad = []
    for path in files(".md", ".rs", ".py"):
        if path == Path(__file__).resolve():
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            bad += [
                f"{relative(path)}:{number}: {found.group()} (say {better})"
                for pattern, better in SYNONYMS.items()
                if (found := re.search(pattern, line, re.IGNORECASE))
            ]
    assert bad == []


def test_files_made_from_spec_are_up_to_date() -> None:
    """Edited by hand, or forgotten: either way the tables and the code say different things."""
    done = subprocess.run(
        [sys.executable, "tools/gen.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_in_core_sleeps() -> None:
    """A worker that sleeps serves nobody."""
    bad = [
        relative(path)
        for path in files(".rs")
        if path.relative_to(ROOT).parts[:2] == ("crates", "forebay-core")
        and "thread::sleep" in without_literals(path.read_text())
    ]
    assert bad == []
