"""node-postgres, postgres.js and Sequelize: npm's packages have no suites, so these are programs of ours."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from tests.harness.postgres import Programs
from tests.software import results, sources
from tests.software.shape import SUITE_S, Results, Run, Software

FOLDER = sources.PROGRAMS / "node"
LOCK = hashlib.sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()


def prepare(home: Path, programs: Programs) -> None:
    """What the lock file names."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(FOLDER / name, home)
    cache = home / "npm"
    sources.step("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", f"--cache={cache}", cwd=home)
    shutil.rmtree(cache)


def run_file(run: Run, name: str) -> Results:
    """A file of tests, by Node's own runner."""
    for path in FOLDER.glob("*.mjs"):
        shutil.copy(path, run.home)
    found = run.folder / "results.xml"
    words = ("--test", "--test-reporter=junit", f"--test-reporter-destination={found}", "--test-timeout=600000", name)
    sources.do(
        ("node", *words), cwd=run.home, log=run.folder / "suite.log", within_s=SUITE_S,
        env={**run.environment, **run.libpq},
    )  # fmt: skip
    return results.junit(found)


def software(name: str, version: str, about: str, file: str) -> Software:
    """One of the three."""
    return Software(
        name, version, f"a program: {about}", (LOCK,), prepare, lambda run: run_file(run, file), needs=("node", "npm")
    )


PG = software("node-postgres", "8.23.1", "pool, named statements, cursors, COPY, notifications", "pg.test.mjs")
POSTGRES_JS = software("postgres.js", "3.4.9", "pipelines, pool, cursors, COPY, LISTEN, cancel", "postgres.test.mjs")
SEQUELIZE = software("sequelize", "6.37.8", "models, transactions, migrations by Umzug 3.8.3", "sequelize.test.mjs")
