"""What a piece of software is to the runner, and what a run of it yields."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.harness.postgres import Postgres, Programs
from tests.harness.target import Target

Status = Literal["passed", "failed", "skipped"]

# Time for a whole suite, one way.
SUITE_S = 3600


@dataclass(frozen=True, slots=True)
class Result:
    """Of one test. message: the first line of what went wrong, or why it was skipped.

    output: all that it said, where a test that fails must say the same both ways.
    """

    status: Status
    message: str = ""
    output: str = ""


Results = dict[str, Result]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why tests differ. is_certain: it shows in every run; otherwise which server a client got decides."""

    reason: str
    tests: tuple[str, ...]
    is_certain: bool = True


@dataclass(frozen=True, slots=True)
class Run:
    """One way of running a suite.

    way: direct or through. home: what was downloaded and installed for the software. folder: of this run alone.
    """

    way: str
    target: Target
    postgres: Postgres
    programs: Programs
    home: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """With which suites are run: no PG* variable of the caller's, PostgreSQL's programs first, and no colours."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PYTEST", "COLOR"))}
        path = f"{self.programs.folder / 'bin'}:{kept.get('PATH', '')}"
        return {**kept, "PATH": path, "NO_COLOR": "1", "LC_ALL": "C.UTF-8", "TZ": "UTC"}

    @property
    def libpq(self) -> dict[str, str]:
        """PGHOST and its like, for suites that are told by them where the database is."""
        return {
            "PGHOST": self.target.host,
            "PGPORT": str(self.target.port),
            "PGUSER": self.target.user,
            "PGDATABASE": self.target.dbname,
            "PGSSLMODE": "disable",
        }


@dataclass(frozen=True, slots=True)
class Software:
    """name: as in ONLY=. version: of the driver or framework. suite: what is run, in a few words for the table.

    pins: everything that is installed for it, with versions; when it changes, all is installed anew.
    needs: programs that must be on the machine. prepare: downloads and installs into its home.
    setup: SQL that a superuser runs before, by database. execute: runs the suite one way.
    pool_size, neighbours: servers of the suite's pool, and clients that share it (neighbours.py).
    known: all tests that may differ, each of which must.
    """

    name: str
    version: str
    suite: str
    pins: tuple[str, ...]
    prepare: Callable[[Path, Programs], None]
    execute: Callable[[Run], Results]
    major: int = 18
    needs: tuple[str, ...] = ()
    dbname: str = "suite"
    user: str = "postgres"
    setup: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    server_settings: Mapping[str, str] = field(default_factory=dict)
    pool_settings: Mapping[str, object] = field(default_factory=dict)
    pool_size: int = 3
    neighbours: int = 3
    known: tuple[Reason, ...] = ()
