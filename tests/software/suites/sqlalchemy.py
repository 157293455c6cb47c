"""SQLAlchemy 2: parts of its own suite that speak to a database, over a driver of each kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.harness.postgres import Programs
from tests.software import results, sources
from tests.software.shape import Reason, Results, Run, Software

VERSION = "2.1.9"
PINS = (
    *sources.PYTEST, f"SQLAlchemy=={VERSION}", "greenlet==3.5.6", "typing_extensions==4.16.0", "pytest-xdist==3.8.0",
    "execnet==2.1.2", "psycopg==3.3.9", "psycopg-binary==3.3.9", "psycopg2-binary==2.9.13", "asyncpg==0.32.0",
    "pg8000==1.31.6", "scramp==1.5.0", "asn1crypto==1.5.1", "python-dateutil==2.9.0.post0", "six==1.17.0",
    "tzdata==2026.6",
)  # fmt: skip

# Not the hours of types and of what every dialect must do (dialect/test_suite.py): those ask for no session.
DIALECTS = (
    *(f"dialect/postgresql/test_{name}.py" for name in ("async_pg", "dialect", "on_conflict", "query", "reflection")),
    "engine/test_execute.py", "engine/test_transaction.py",
)  # fmt: skip
ORM = ("orm/test_session.py", "orm/test_transaction.py")
ASYNCIO = ("ext/asyncio",)
# One of each kind: the others have suites of their own here, and with all five the dialects alone take hours.
DRIVERS = ("psycopg", "asyncpg")


def prepare(home: Path, programs: Programs) -> None:
    """Its tests beside the installed library, which they look for where the source has it."""
    sources.environment(home, *PINS)
    source = sources.source(home, f"SQLAlchemy=={VERSION}", programs)
    for name in ("test", "setup.cfg", "pyproject.toml"):
        (source / name).rename(home / name)
    (home / "pytest.ini").unlink()
    (installed,) = (home / "venv" / "lib").glob("python*/site-packages")
    (home / "lib").symlink_to(installed)


def execute(run: Run) -> Results:
    """The dialects' tests and those of all back ends by both drivers; the ORM's by one, asyncio's by the other."""
    found: Results = {}
    for part, drivers, paths in (
        ("dialects", DRIVERS, DIALECTS),
        ("orm", DRIVERS[:1], ORM),
        ("asyncio", ("asyncpg",), ASYNCIO),
    ):
        target = run.target
        urls = [
            f"--dburi=postgresql+{name}://{target.user}@{target.host}:{target.port}/{target.dbname}" for name in drivers
        ]
        only = ("--backend-only",) if part == "dialects" else ()
        folder = run.folder / part
        folder.mkdir()
        words = ("-p", "no:logging", *only, "--dropfirst", *urls, *(f"test/{path}" for path in paths))
        found |= results.junit(sources.pytest(replace(run, folder=folder), *words, cwd=run.home))
    return found


KNOWN = (
    Reason(
        "ends the server that it is on: the client outlives it",
        (
            "test.dialect.postgresql.test_async_pg.AsyncPgTest_postgresql+asyncpg_async_18_6"
            "::test_closed_during_execute",
        ),
    ),
)

# Connections that its tests leave open hold or pin some servers each.
SOFTWARE = Software(
    "sqlalchemy", VERSION, f"dialects of its own suite over {', '.join(DRIVERS)}; ORM, asyncio", PINS, prepare, execute,
    pool_size=6, known=KNOWN, setup={"suite": (
        "create schema test_schema", "create schema test_schema_2", "create extension hstore",
        "create extension citext",
        "alter database suite set default_text_search_config = 'pg_catalog.english'",
    )},
)  # fmt: skip
