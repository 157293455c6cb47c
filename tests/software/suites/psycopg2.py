"""psycopg2: its own suite, from the source that PyPI has."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.harness.postgres import Programs
from tests.software import results, sources
from tests.software.shape import Reason, Results, Run, Software

VERSION = "2.9.13"
PINS = (*sources.PYTEST, f"psycopg2-binary=={VERSION}")


def prepare(home: Path, programs: Programs) -> None:
    """The suite beside the installed driver."""
    sources.environment(home, *PINS)
    shutil.copytree(sources.source(home, f"psycopg2=={VERSION}", programs) / "tests", home / "tests")


def execute(run: Run) -> Results:
    """All of it, replication included: it asks for a database where its own settings say."""
    env = {
        "PSYCOPG2_TESTDB": run.target.dbname,
        "PSYCOPG2_TESTDB_HOST": run.target.host,
        "PSYCOPG2_TESTDB_PORT": str(run.target.port),
        "PSYCOPG2_TESTDB_USER": run.target.user,
        "PSYCOPG2_TEST_REPL_DSN": "",
    }
    return results.junit(sources.pytest(run, "-o", "python_functions=not_these", "tests", cwd=run.home, env=env))


KNOWN = (
    Reason(
        "ends a server by its process id: the client outlives it, or another client is on it by then",
        (
            "tests.test_connection.ConnectionTests::test_cleanup_on_badconn_close",
            "tests.test_cursor.CursorTests::test_external_close_async",
            "tests.test_cursor.CursorTests::test_external_close_sync",
        ),
        is_certain=False,
    ),
    Reason(
        "compares pg_backend_pid() with the process id that the client was told",
        ("tests.test_connection.TestConnectionInfo::test_backend_pid",),
    ),
)

SOFTWARE = Software(
    "psycopg2", VERSION, "its own suite", PINS, prepare, execute,
    known=KNOWN, setup={"suite": ("create extension hstore",)}, server_settings={"wal_level": "logical"},
)  # fmt: skip
