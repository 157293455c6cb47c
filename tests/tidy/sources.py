"""The files of the project, and what the checks read out of them."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Made by tools/gen.py; its form is checked by the generator's own tests.
GENERATED = ("_generated/", "src/generated/")


@cache
def files(*suffixes: str) -> tuple[Path, ...]:
    """Files under version control, or about to be, that end so."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    found = (ROOT / name for name in listed if name.endswith(suffixes))
    return tuple(path for path in found if path.is_file() and not any(part in path.as_posix() for part in GENERATED))


@dataclass(frozen=True, slots=True)
class Function:
    """lines: from its first to its last, both counted."""

    path: Path
    name: str
    line: int
    lines: int

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} {self.name}: {self.lines} lines"


def python_functions(path: Path) -> Iterator[Function]:
    """Functions of a Python file, without decorators and docstrings."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            has_docstring = ast.get_docstring(node) is not None
            docstring = node.body[0]
            spent = (docstring.end_lineno or 0) - docstring.lineno + 1 if has_docstring else 0
            yield Function(path, node.name, node.lineno, (node.end_lineno or 0) - node.lineno + 1 - spent)


# Literals are gone by then: `extern "C"` is `extern ""`.
_FN = re.compile(
    r'^\s*(?:pub(?:\([a-z_: ]+\))? )?(?:default |const |async |unsafe |safe |extern (?:"" )?)*fn (\w+)', re.MULTILINE
)


def rust_functions(path: Path) -> Iterator[Function]:
    """Functions of a Rust file that have a body."""
    text = without_literals(path.read_text())
    for found in _FN.finditer(text):
        opening = re.compile(r"[{;]").search(text, end_of_signature(text, found.end()))
        if opening is None or opening.group() == ";":
            continue
        end = closing(text, opening.start())
        first = text.count("\n", 0, found.start(1)) + 1
        yield Function(path, found.group(1), first, text.count("\n", found.start(1), end) + 1)


def end_of_signature(text: str, at: int) -> int:
    """Past the parameters, which may hold array types with a semicolon."""
    at = text.index("(", at)
    depth = 0
    while True:
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        at += 1
        if depth == 0:
            break
    # The return type may be an array as well: `-> [u8; 32] {`.
    while (bracket := re.compile(r"[\[{;]").search(text, at)) and bracket.group() == "[":
        at = text.index("]", bracket.start()) + 1
    return at


def closing(text: str, at: int) -> int:
    """Where the brace at `at` is closed."""
    depth = 0
    for found in re.compile(r"[{}]").finditer(text, at):
        depth += 1 if found.group() == "{" else -1
        if depth == 0:
            return found.start()
    return len(text)


_LITERAL = re.compile(
    r"//[^\n]*|/\*.*?\*/|b?r(#*)\".*?\"\1|b?\"(?:\\.|[^\"\\])*\"|b?'(?:\\(?:u\{[0-9a-fA-F]+\}|x[0-9a-fA-F]{2}|.)|[^'\\])'",
    re.DOTALL,
)


def without_literals(text: str) -> str:
    """Rust without comments, strings and characters; lines stay lines."""
    return _LITERAL.sub(lambda found: "\n" * found.group().count("\n") + '""', text)
