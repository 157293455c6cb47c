"""asyncpg: its own suite, from the source that PyPI has."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.harness.postgres import Programs
from tests.software import results, sources
from tests.software.shape import Reason, Results, Run, Software

VERSION = "0.32.0"
PINS = (*sources.PYTEST, f"asyncpg=={VERSION}", "distro==1.9.0")

# Lints of its sources, and what needs a server of its own: the suite skips that when it is told where one is.
LEFT_OUT = ("test__sourcecode.py",)


def prepare(home: Path, programs: Programs) -> None:
    """The suite beside the installed driver: not the sources, which are not built."""
    sources.environment(home, *PINS)
    shutil.copytree(sources.source(home, f"asyncpg=={VERSION}", programs) / "tests", home / "tests")


def execute(run: Run) -> Results:
    """All of it."""
    ignored = [f"--ignore=tests/{name}" for name in LEFT_OUT]
    return results.junit(sources.pytest(run, "tests", *ignored, cwd=run.home, env=run.libpq))


KNOWN = (
    Reason(
        "counts pg_prepared_statements, in which the server's shared statements stand",
        ("tests.test_copy.TestCopyTo::test_copy_records_to_table_no_stmt_cache",),
        is_certain=False,
    ),
    Reason(
        "ends a server by its process id: the client outlives it, or another client is on it by then",
        (
            "tests.test_execute.TestExecuteScript::test_execute_script_interrupted_by_server",
            "tests.test_pool.TestPool::test_pool_min_size_restored_after_idle_connection_loss",
            "tests.test_pool.TestPool::test_pool_remote_close",
            # It is told of what the test before it has left.
            "tests.test_pool.TestPool::test_pool_shutdown_cleans_idle_connections",
        ),
        is_certain=False,
    ),
    Reason(
        "expects an error before 4 MB are sent: what stands between client and server holds a part of them",
        ("tests.test_execute.TestExecuteMany::test_executemany_server_failure_during_writes",),
        is_certain=False,
    ),
)

# Some of its tests name this database.
SOFTWARE = Software("asyncpg", VERSION, "its own suite", PINS, prepare, execute, dbname="postgres", known=KNOWN)
