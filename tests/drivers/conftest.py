"""Programs in other languages: built once from their own lock files, into the cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import is_ci
from tests.harness.postgres import CACHE

PROGRAMS = Path(__file__).parent / "programs"
BUILD_S = 600


def need(program: str) -> str:
    """The path of a runtime; the test is skipped where it is missing, unless CI=1."""
    found = shutil.which(program)
    if found is None:
        if is_ci():
            pytest.fail(f"{program} is missing, and CI=1 forbids skipping")
        pytest.skip(f"{program} is not installed")
    return found


@contextmanager
def folder_for(language: str) -> Iterator[Path]:
    """A copy of a program's sources in the cache, for one process at a time; what was built there before is kept."""
    folder = CACHE / "drivers" / language
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.copytree(PROGRAMS / language, folder, dirs_exist_ok=True)
        yield folder


def build(*arguments: str, folder: Path, **environment: str) -> None:
    """Runs a build step. Raises AssertionError with its output."""
    done = subprocess.run(
        arguments, cwd=folder, capture_output=True, text=True, timeout=BUILD_S, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="session")
def pgx() -> list[str]:
    """The Go program."""
    go = need("go")
    with folder_for("pgx") as folder:
        build(go, "build", "-mod=readonly", "-o", "program", ".", folder=folder, GOFLAGS="-buildvcs=false")
    return [str(folder / "program")]


@pytest.fixture(scope="session")
def pgjdbc() -> list[str]:
    """The Java program."""
    java, maven = need("java"), need("mvn")
    need("javac")
    with folder_for("pgjdbc") as folder:
        if not (folder / "target" / "classes" / "Program.class").exists():
            build(maven, "-q", "-B", "package", "dependency:copy-dependencies", folder=folder)
    return [java, "-cp", f"{folder}/target/classes:{folder}/target/dependency/*", "Program"]


@pytest.fixture(scope="session")
def node_postgres() -> list[str]:
    """The JavaScript program."""
    node, npm = need("node"), need("npm")
    with folder_for("node") as folder:
        if not (folder / "node_modules" / "pg").exists():
            build(npm, "ci", "--silent", "--no-audit", "--no-fund", folder=folder)
    return [node, str(folder / "program.js")]
