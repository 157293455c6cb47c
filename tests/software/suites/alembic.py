"""Alembic: its own suite on PostgreSQL, from the source that PyPI has."""

from __future__ import annotations

from pathlib import Path

from tests.harness.postgres import Programs
from tests.software import results, sources
from tests.software.shape import Results, Run, Software

VERSION = "1.20.1"
PINS = (
    *sources.PYTEST, f"alembic=={VERSION}", "Mako==1.4.3", "MarkupSafe==3.0.4", "SQLAlchemy==2.1.9", "greenlet==3.5.6",
    "typing_extensions==4.16.0", "pytest-xdist==3.8.0", "execnet==2.1.2", "psycopg==3.3.9", "psycopg-binary==3.3.9",
    "tzdata==2026.6",
)  # fmt: skip

# Of its own stubs and their linters; the database is not asked.
LEFT_OUT = ("test_stubs.py",)


def prepare(home: Path, programs: Programs) -> None:
    """Its tests beside the installed package, which they look for where the source has it."""
    sources.environment(home, *PINS)
    source = sources.source(home, f"alembic=={VERSION}", programs)
    for name in ("tests", "setup.cfg", "pyproject.toml"):
        (source / name).rename(home / name)
    (home / "pytest.ini").unlink()
    (installed,) = (home / "venv" / "lib").glob("python*/site-packages/alembic")
    (home / "alembic").symlink_to(installed)


def execute(run: Run) -> Results:
    """All of it; what is not marked for every database runs on PostgreSQL too, which is the only one it is given."""
    target = run.target
    url = f"postgresql+psycopg://{target.user}@{target.host}:{target.port}/{target.dbname}"
    ignored = [f"--ignore=tests/{name}" for name in LEFT_OUT]
    return results.junit(sources.pytest(run, "-p", "no:logging", f"--dburi={url}", *ignored, "tests", cwd=run.home))


SOFTWARE = Software(
    "alembic", VERSION, "its own suite", PINS, prepare, execute,
    setup={"suite": ("create schema test_schema", "create extension btree_gist")},
)  # fmt: skip
