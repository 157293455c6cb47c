"""pgjdbc: Maven's jars have no tests, so this is a program of ours, with HikariCP."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.harness.postgres import Programs
from tests.software import results, sources
from tests.software.shape import SUITE_S, Results, Run, Software

VERSION = "42.7.8"
FOLDER = sources.PROGRAMS / "pgjdbc"
PINS = ((FOLDER / "pom.xml").read_text(),)


def maven(home: Path) -> tuple[str, ...]:
    """Maven, with its repository in the home."""
    return ("mvn", "-q", "-B", f"-Dmaven.repo.local={home / 'repository'}")


def prepare(home: Path, programs: Programs) -> None:
    """The driver, the test runner, and the program built once."""
    shutil.copytree(FOLDER, home / "program")
    sources.step(*maven(home), "-Dreports=reports", "-Dtest=None*", "-Dsurefire.failIfNoSpecifiedTests=false", "test",
                 cwd=home / "program")  # fmt: skip


def execute(run: Run) -> Results:
    """The program as it is in this checkout."""
    program = run.home / "program"
    shutil.rmtree(program)
    shutil.copytree(FOLDER, program)
    reports = run.folder / "reports"
    sources.do(
        (*maven(run.home), f"-Dreports={reports}", "test"), cwd=program, log=run.folder / "suite.log",
        env={**run.environment, **run.libpq}, within_s=SUITE_S,
    )  # fmt: skip
    found: Results = {}
    for path in reports.glob("TEST-*.xml"):
        found |= results.junit(path)
    return found


SOFTWARE = Software(
    "pgjdbc", VERSION, "a program: four query modes, batches, COPY, XA, cancel, HikariCP 6.3.0", PINS, prepare, execute,
    needs=("java", "mvn"), setup={"suite": ("create schema jdbc_schema",)},
)  # fmt: skip
