"""pg8000: its own suite, from the source that PyPI has, in all of the driver's interfaces."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.harness.postgres import Programs
from tests.software import results, sources
from tests.software.shape import Reason, Results, Run, Software

VERSION = "1.31.6"
PINS = (
    *sources.PYTEST, f"pg8000=={VERSION}", "scramp==1.5.0", "asn1crypto==1.5.1", "python-dateutil==2.9.0.post0",
    "six==1.17.0", "pytest-mock==3.17.0", "pytz==2026.6",
)  # fmt: skip


def prepare(home: Path, programs: Programs) -> None:
    """The suite beside the installed driver."""
    sources.environment(home, *PINS)
    shutil.copytree(sources.source(home, f"pg8000=={VERSION}", programs) / "test", home / "test")


# Logins want a server of their own, the examples of its README one on the usual port; benchmarks are no tests.
LEFT_OUT = (
    *(f"{part}/{name}" for part in ("native", "dbapi", "legacy") for name in ("auth", "test_benchmarks.py")),
    "test_readme.py",
)


def execute(run: Run) -> Results:
    """The driver in all of its interfaces."""
    ignored = [f"--ignore=test/{name}" for name in LEFT_OUT]
    env = {**run.libpq, "PGPASSWORD": "pw"}
    return results.junit(sources.pytest(run, "test", *ignored, cwd=run.home, env=env))


KNOWN = (
    Reason(
        "ends a server by its process id: the client outlives it, or another client is on it by then",
        (
            "test.dbapi.test_connection::test_broken_pipe_flush",
            "test.dbapi.test_connection::test_broken_pipe_read",
            "test.dbapi.test_connection::test_broken_pipe_unpack",
            "test.legacy.test_connection::test_broken_pipe_flush",
            "test.legacy.test_connection::test_broken_pipe_read",
            "test.legacy.test_connection::test_broken_pipe_unpack",
            "test.native.test_connection::test_broken_pipe_flush",
            "test.native.test_connection::test_broken_pipe_read",
            "test.native.test_connection::test_broken_pipe_unpack",
        ),
        is_certain=False,
    ),
    Reason(
        "compares the sender's process id in a notification with pg_backend_pid()",
        (
            "test.dbapi.test_connection::test_notify",
            "test.dbapi.test_connection::test_notify_with_payload",
            "test.legacy.test_connection::test_notify",
            "test.legacy.test_connection::test_notify_with_payload",
            "test.native.test_connection::test_notify",
            "test.native.test_connection::test_notify_with_payload",
        ),
    ),
    Reason(
        "counts pg_prepared_statements, in which the server's shared statements stand",
        (
            "test.legacy.test_query::test_close_prepared_statement",
            "test.native.test_query::test_close_prepared_statement",
        ),
        is_certain=False,
    ),
)

SOFTWARE = Software(
    "pg8000", VERSION, "its own suite, but logins and benchmarks", PINS, prepare, execute, dbname="postgres",
    known=KNOWN, setup={"postgres": ("create extension hstore",)},
)  # fmt: skip
