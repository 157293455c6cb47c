"""House style, as far as a program can tell."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tidy.sources import ROOT, Function, files, python_functions, rust_functions, without_literals

FILE_LINES_SOFT = 500
FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70

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


def relative(path: Path) -> str:
    """As people name it."""
    return path.relative_to(ROOT).as_posix()


def test_no_file_is_longer_than_the_limit() -> None:
    """A file has one subject; one of a thousand lines has several."""
    lengths = {relative(path): path.read_text().count("\n") for path in files(".rs", ".py")}
    for name, lines in sorted(lengths.items(), key=lambda item: -item[1]):
        if lines > FILE_LINES_SOFT:
            print(f"over {FILE_LINES_SOFT}: {name} has {lines} lines")
    assert not {name: lines for name, lines in lengths.items() if lines > FILE_LINES_MAX}


def functions() -> list[Function]:
    """Of both languages."""
    found = [function for path in files(".py") for function in python_functions(path)]
    return found + [function for path in files(".rs") for function in rust_functions(path)]


def test_no_function_is_longer_than_the_limit() -> None:
    """What does not fit on a screen is not read."""
    long = [str(function) for function in functions() if function.lines > FUNCTION_LINES_MAX]
    assert long == []


def test_functions_are_counted_at_all() -> None:
    """A counter that finds nothing would pass everything."""
    found = functions()
    assert len([one for one in found if one.path.suffix == ".rs"]) > 500
    assert len([one for one in found if one.path.suffix == ".py"]) > 500
    assert max(one.lines for one in found) > 40


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


@pytest.mark.parametrize("suffix", [".py", ".rs", ".md", ".toml", ".sh"])
def test_every_task_left_for_later_names_its_issue(suffix: str) -> None:
    """A TODO without an issue is a wish."""
    pattern = re.compile(r"\b(TODO|FIXME|XXX)\b(?!\(#\d+\))")
    bad = [
        f"{relative(path)}:{number}"
        for path in files(suffix)
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line) and "XXX" not in line
    ]
    assert bad == []


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


def test_python_is_called_by_its_own_name_only_where_it_may_block() -> None:
    """No sleep in the engine: a worker that sleeps serves nobody."""
    bad = [
        relative(path)
        for path in files(".rs")
        if path.relative_to(ROOT).parts[:2] == ("crates", "forebay-core")
        and "thread::sleep" in without_literals(path.read_text())
    ]
    assert bad == []
