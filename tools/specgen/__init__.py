"""Turns the tables of spec/ into Rust, Python, reference pages and the sample configuration."""

from __future__ import annotations

from pathlib import Path

from specgen import rust, show
from specgen.tables import load_errors

__all__ = ["outputs"]


def outputs(spec: Path) -> dict[str, str]:
    """Every generated file: path from the root of the repository, and its text.

    Raises SpecError where a table is faulty.
    """
    errors = load_errors(spec / "errors.toml")
    console = show.load(spec / "show.toml")
    return {
        "python/forebay/_generated/show.py": show.python(console),
        "docs/reference/console.md": show.page(console),
        "crates/forebay-spec/src/generated/errors.rs": rust.errors(errors),
    }
