"""psycopg 3: its source on PyPI has no suite, so this is a program of ours that uses it in earnest."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.harness.postgres import Programs
from tests.software import results, sources
from tests.software.shape import Results, Run, Software

VERSION = "3.3.9"
PINS = (
    *sources.PYTEST, f"psycopg=={VERSION}", f"psycopg-binary=={VERSION}", "psycopg-pool==3.3.3",
    "typing_extensions==4.16.0", "tzdata==2026.6",
)  # fmt: skip


def prepare(home: Path, programs: Programs) -> None:
    """The driver and its pool."""
    sources.environment(home, *PINS)


def execute(run: Run) -> Results:
    """A copy of the program, as it is in this checkout."""
    folder = run.folder / "program"
    shutil.copytree(sources.PROGRAMS / "psycopg", folder)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return results.junit(sources.pytest(run, ".", cwd=folder, env=run.libpq))


SOFTWARE = Software(
    "psycopg", VERSION, "a program: sync, async, pipelines, pools, COPY, notifications, cancel", PINS, prepare, execute
)
