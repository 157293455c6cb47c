"""pgx: its own suite, from the module that Go's tools fetch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.harness.postgres import Programs
from tests.software import results, sources
from tests.software.shape import SUITE_S, Reason, Results, Run, Software

MODULE = "github.com/jackc/pgx/v5"
VERSION = "5.12.0"
PINS = (f"{MODULE}@v{VERSION}",)

# As its testsetup/postgresql_setup.sql has it; logins with passwords and TLS are left out.
SETUP = (
    "create extension hstore", "create extension ltree", "create domain uint64 as numeric(20,0)",
    """create user " tricky, ' } "" \\ test user " superuser password 'secret'""",
)  # fmt: skip


def go(home: Path) -> Mapping[str, str]:
    """Go's caches, in the home like everything else."""
    return {
        "GOMODCACHE": str(home / "modules"), "GOCACHE": str(home / "built"), "GOFLAGS": "-modcacherw -buildvcs=false",
        "GOTOOLCHAIN": "local", "GOWORK": "off",
    }  # fmt: skip


def prepare(home: Path, programs: Programs) -> None:
    """The module's folder, its dependencies, and the tests built once."""
    env = {**os.environ, **go(home)}
    sources.step("go", "mod", "init", "suite", cwd=home, env=env)
    sources.step("go", "mod", "download", *PINS, cwd=home, env=env)
    (fetched,) = (home / "modules" / "github.com" / "jackc" / "pgx").glob(f"v5@v{VERSION}")
    shutil.copytree(fetched, home / "pgx")
    env["PGX_TEST_DATABASE"] = ""
    sources.step("go", "test", "-run", "^$", "./...", cwd=home / "pgx", env=env)


def execute(run: Run) -> Results:
    """All of it, with its tests of a pooler before whatever stands there."""
    dsn = f"host={run.target.host} port={run.target.port} user={run.target.user} dbname={run.target.dbname}"
    log = run.folder / "suite.log"
    sources.do(
        ("go", "test", "-json", "-count=1", "-p=1", "-timeout=50m", "./..."), cwd=run.home / "pgx", log=log,
        env={**run.environment, **go(run.home), "PGX_TEST_DATABASE": f"{dsn} sslmode=disable",
             "PGX_TEST_TCP_CONN_STRING": f"{dsn} sslmode=disable",
             "PGX_TEST_PGBOUNCER_CONN_STRING": f"{dsn} sslmode=disable"},
        within_s=SUITE_S,
    )  # fmt: skip
    return results.go_events(log.read_text(errors="replace"))


KNOWN = (
    Reason(
        "ends a connection by the process id that it was told, which is forebay's and no server's",
        (
            f"{MODULE}::TestFatalRxError",
            f"{MODULE}::TestFatalTxError",
            f"{MODULE}/pgconn::TestConnCheckConn",
            f"{MODULE}/pgconn::TestConnPing",
            f"{MODULE}/pgxpool::TestPoolAcquireChecksIdleConns",
            f"{MODULE}/stdlib::TestCheckIdleConn",
        ),
    ),
    Reason(
        "ends a server by its process id: the client outlives it, or another client is on it by then",
        (
            f"{MODULE}::TestBeginTxFatalErrorKillsConn",
            f"{MODULE}/pgxpool::TestConnDestroyedWhenBeginFailsFatally",
        ),
    ),
    Reason(
        "counts pg_prepared_statements, in which the server's shared statements stand",
        tuple(
            f"{MODULE}/stdlib::TestConnMultiplePrepareAndDeallocate{mode}"
            for mode in ("", "/cache_describe", "/cache_statement", "/describe_exec", "/exec", "/simple_protocol")
        ),
        is_certain=False,
    ),
    Reason(
        "looks in pg_stat_activity for its query's text, which an idle server of the pool still shows",
        tuple(
            f"{MODULE}/pgconn::TestConnContextCanceledCancelsRunningQueryOnServer{part}"
            for part in ("", "/postgres", "/pgbouncer")
        ),
        is_certain=False,
    ),
    Reason(
        "looks for its statement's name in pg_prepared_statements, in which it has forebay's",
        (
            f"{MODULE}::TestPrepareHandlesTimeoutBetweenParseAndDescribe",
            f"{MODULE}::TestPrepareWithDigestedNameHandlesTimeoutBetweenParseAndDescribe",
        ),
    ),
)

# Its examples and its tests of database/sql leave connections open, each with a temporary table that pins a server.
SOFTWARE = Software(
    "pgx", VERSION, "its own suite, with its tests of a pooler", PINS, prepare, execute, needs=("go",),
    setup={"suite": SETUP}, pool_size=10, known=KNOWN,
)  # fmt: skip
