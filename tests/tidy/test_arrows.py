"""Arrows go down: between crates, and between Python packages."""

from __future__ import annotations

import ast
import json
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.tidy.sources import ROOT, files

# Crates of ours that each crate may use in what it ships. Tests and benches of a crate may use more.
CRATES = {
    "forebay-spec": set(),
    "forebay-pgwire": {"forebay-spec"},
    "forebay-config": {"forebay-spec"},
    "forebay-sql": set(),
    "forebay-core": {"forebay-pgwire", "forebay-sql", "forebay-spec"},
    "forebay-runtime": {"forebay-core", "forebay-pgwire", "forebay-spec"},
    "forebay-diff": {"forebay-pgwire"},
    "forebay-sim": {"forebay-core", "forebay-pgwire", "forebay-spec", "forebay-sql"},
    "forebay-py": {
        "forebay-runtime",
        "forebay-core",
        "forebay-config",
        "forebay-pgwire",
        "forebay-spec",
        "forebay-sql",
    },
}

# Packages under python/forebay that each may import. `_engine`, `_generated`, `failure` and the package itself: all.
PACKAGES = {
    "dropin": {"control", "admin", "config", "observe", "api"},
    "cli": {"control", "admin", "config", "observe", "api"},
    "control": {"admin", "config", "observe", "api"},
    "admin": {"config", "observe"},
    "config": {"api"},
    "observe": set(),
    "api": set(),
}

# What a crate below runtime may not touch: decisions are pure.
IMPURE = ("std::net", "std::thread", "Instant::now", "SystemTime::now", "std::env", "std::fs")
# Files that no build which serves contains.
AWAY_FROM_THE_LOOP = {"tests", "traces", "fuzz_entry", "planted"}
PURE_CRATES = ("forebay-core", "forebay-pgwire", "forebay-spec", "forebay-sql")


@cache
def crates() -> dict[str, set[str]]:
    """Crates of the workspace and what of it they ship with."""
    done = subprocess.run(
        ["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    packages = json.loads(done.stdout)["packages"]
    return {
        package["name"]: {
            dependency["name"]
            for dependency in package["dependencies"]
            if dependency["kind"] is None and dependency["name"].startswith("forebay-")
        }
        for package in packages
    }


def test_crates_depend_downwards_only() -> None:
    """A decision that reaches for a socket can't be simulated."""
    assert set(crates()) == set(CRATES)
    wrong = {name: uses - CRATES[name] for name, uses in crates().items() if uses - CRATES[name]}
    assert wrong == {}


@pytest.mark.parametrize("name", PURE_CRATES)
def test_pure_crates_are_guarded_by_clippy(name: str) -> None:
    """The compiler's lint is what really stops an impure call; it must be there."""
    text = (ROOT / "crates" / name / "clippy.toml").read_text()
    assert "disallowed" in text


@pytest.mark.parametrize("name", PURE_CRATES)
def test_pure_crates_name_nothing_impure(name: str) -> None:
    """Time, bytes and luck come in as arguments."""
    bad = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in files(".rs")
        if path.is_relative_to(ROOT / "crates" / name / "src")
        for word in IMPURE
        if word in path.read_text().replace("std::net::Ip", "").replace("std::net::{Ip", "")
        and not AWAY_FROM_THE_LOOP & set(path.with_suffix("").parts)
    ]
    assert bad == []


def imported(path: Path) -> set[str]:
    """Packages of ours that a file imports, also in functions; what only type checkers see counts too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {name.split(".")[1] for name in names if name.startswith("forebay.") and name.count(".") >= 1}


@pytest.mark.parametrize("package", PACKAGES)
def test_python_packages_import_downwards_only(package: str) -> None:
    """The console must not know the command line, nor the configuration the console."""
    folder = ROOT / "python" / "forebay" / package
    allowed = PACKAGES[package] | {package, "_engine", "_generated", "failure"}
    wrong = {
        str(path.relative_to(ROOT)): imported(path) - allowed
        for path in files(".py")
        if path.is_relative_to(folder) and imported(path) - allowed
    }
    assert wrong == {}


def test_every_python_package_has_its_place() -> None:
    """A new one must be entered above before anything can import it."""
    there = {path.parent.name for path in (ROOT / "python" / "forebay").glob("*/__init__.py")}
    assert there - {"_generated"} == set(PACKAGES)
