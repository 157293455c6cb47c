"""How long files and functions may be: 500 lines with reasons to go beyond, 800 in any case; functions 70."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tidy.sources import ROOT, Function, files, python_functions, rust_functions

FILE_LINES = 500
FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70

PROGRAMS = (".rs", ".py", ".pyi", ".sh", ".c", ".h", ".go", ".js", ".java", "Makefile", ".ci/run")

# Files over FILE_LINES that may stay so, each with what speaks against cutting it in two.
LONGER: dict[str, str] = {}


def lengths() -> dict[str, int]:
    """Lines of every file that is a program."""
    return {path.relative_to(ROOT).as_posix(): path.read_text().count("\n") for path in files(*PROGRAMS)}


def too_long(lines: dict[str, int]) -> list[str]:
    """What is over the limit that holds for it."""
    return [
        f"{name}: {count} lines"
        for name, count in lines.items()
        if count > (FILE_LINES_MAX if name in LONGER else FILE_LINES)
    ]


def test_no_file_is_longer_than_its_limit() -> None:
    """A file has one subject; one of a thousand lines has several."""
    assert too_long(lengths()) == []


def test_no_file_is_exempt_that_need_not_be() -> None:
    """A file that was cut in two must not grow back unseen."""
    lines = lengths()
    assert [name for name in LONGER if lines.get(name, 0) <= FILE_LINES] == []


def test_a_file_that_is_too_long_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exempt ones end at 800."""
    monkeypatch.setitem(LONGER, "exempt.rs", "to see where that ends")
    assert too_long({"plain.rs": 500, "exempt.rs": 800}) == []
    assert too_long({"plain.rs": 501, "exempt.rs": 801}) == ["plain.rs: 501 lines", "exempt.rs: 801 lines"]


def functions() -> list[Function]:
    """Of both languages."""
    found = [function for path in files(".py") for function in python_functions(path)]
    return found + [function for path in files(".rs") for function in rust_functions(path)]


def test_no_function_is_longer_than_the_limit() -> None:
    """What does not fit on a screen is not read."""
    assert [str(function) for function in functions() if function.lines > FUNCTION_LINES_MAX] == []


def test_every_function_is_counted() -> None:
    """A counter that overlooks some would pass them."""
    found = functions()
    seen = {path: sum(1 for one in found if one.path == path) for path in files(".rs", ".py")}
    assert sum(seen.values()) > 2500
    assert max(one.lines for one in found) > 40


RUST = {
    "plain": "fn f() {BODY}",
    "of a trait": "impl A for B {\n    pub(in crate::a_b) async fn f(&self) -> [u8; 4] {BODY}\n}",
    "for C": '/// What `fn g()` is.\npub unsafe extern "C" fn f(word: *const u8) {BODY}',
    "generic": "pub(crate) fn f<F: Fn(u8) -> [u8; 2], const N: usize>(f: F) -> [u8; N]\nwhere\n    F: Copy,\n{BODY}",
    "with braces in literals": 'fn f() {\n    let a = (\'{\', "}}}", r#"}"}"#, b\'}\'); // }\n    /* } */BODY}',
}


@pytest.mark.parametrize("shape", RUST)
def test_a_rust_function_is_counted_from_its_name_to_its_end(tmp_path: Path, shape: str) -> None:
    """Whatever stands before its name, and in it."""
    source = tmp_path / "sample.rs"
    source.write_text(RUST[shape].replace("BODY", "\n    step();" * 70 + "\n"))
    [found] = [one for one in rust_functions(source) if one.name == "f"]
    assert 72 <= found.lines <= 75


PYTHON = {
    "plain": "def f():BODY",
    "async, in a class": "class A:\n  async def f(self):BODY",
    "in a function": "def g():\n  def f():BODY\n",
}


@pytest.mark.parametrize("shape", PYTHON)
def test_a_python_function_is_counted_without_its_docstring(tmp_path: Path, shape: str) -> None:
    """A docstring that says much must not be bought with code."""
    source = tmp_path / "sample.py"
    source.write_text(PYTHON[shape].replace("BODY", '\n    """Says\n    much."""' + "\n    step()" * 70))
    [found] = [one for one in python_functions(source) if one.name == "f"]
    assert found.lines == 71
