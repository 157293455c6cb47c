"""Programs that once differed, and new ones: the same direct and through forebay."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.diff import run
from tests.harness.pooler import Forebay
from tests.harness.postgres import Postgres

SETUP = run.Setup(levels=("safe", "strict"))

# New programs that every run of the tests makes; those at `fast` are made of less.
PROGRAMS = 400
PROGRAMS_FAST = 100

FOLDER = Path(__file__).parent / "regressions"

# Regressions whose cause is still there. One that passes fails its test, so that it leaves this list.
OPEN: set[str] = set()

REGRESSIONS = [
    pytest.param(path, id=path.stem, marks=pytest.mark.xfail(strict=True) if path.stem in OPEN else ())
    for path in sorted(FOLDER.glob("*.json"))
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postgres, Forebay]]:
    """PostgreSQL 18, and forebay before it."""
    with run.pair(18, SETUP, tmp_path_factory.mktemp("diff")) as both:
        yield both


@pytest.fixture(scope="module")
def build() -> Path:
    """The tool, built before the clock of a test runs."""
    return run.build()


def ran(
    pair: tuple[Postgres, Forebay], build: Path, *words: str, setup: run.Setup = SETUP
) -> subprocess.CompletedProcess[str]:
    """The tool's run, with what it said."""
    line = run.command_line(*pair, setup, words, build)
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", REGRESSIONS)
def test_a_program_that_once_differed_is_the_same(pair: tuple[Postgres, Forebay], build: Path, path: Path) -> None:
    """A session lost something, or saw what was another's."""
    done = ran(pair, build, "replay", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_open_is_there() -> None:
    """A name of no file would hide nothing, and say so to nobody."""
    assert {path.stem for path in FOLDER.glob("*.json")} >= OPEN


@pytest.mark.timeout(300)
def test_new_programs_are_the_same(pair: tuple[Postgres, Forebay], build: Path, tmp_path: Path) -> None:
    """An application must not be able to tell forebay from PostgreSQL.

    A difference that does not come again on fresh servers is a race, and fails the test like any other: it was seen.
    """
    done = ran(pair, build, "run", "--programs", str(PROGRAMS), "--out", str(tmp_path / "found"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{PROGRAMS} programs" in done.stdout


@pytest.mark.timeout(300)
def test_new_programs_are_the_same_at_fast(build: Path, tmp_path: Path) -> None:
    """What texts say is kept and undone at every level; programs have nothing else at this one."""
    setup = run.Setup(levels=("fast",))
    with run.pair(18, setup, tmp_path / "servers") as both:
        done = ran(both, build, "run", "--programs", str(PROGRAMS_FAST), "--out", str(tmp_path / "found"), setup=setup)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{PROGRAMS_FAST} programs" in done.stdout


@pytest.mark.timeout(300)
def test_where_every_client_has_a_server_nothing_differs(build: Path, tmp_path: Path) -> None:
    """A tool that cries at what is the same would be switched off: these sessions share nothing at any time.

    But for libraries, which the DISCARD ALL between two of them leaves.
    """
    setup = run.Setup(settings={"pool_mode": "session", "pool_size": 40})
    with run.pair(18, setup, tmp_path / "servers") as both:
        words = ["run", "--programs", "200", "--without", "startup,load", "--out", str(tmp_path)]
        line = run.command_line(*both, setup, words, build)
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_difference_is_found(build: Path, tmp_path: Path) -> None:
    """A tool that can't fail proves nothing: statement pooling refuses transactions, which PostgreSQL does not."""
    setup = run.Setup(lanes=1, settings={"pool_mode": "statement"})
    with run.pair(18, setup, tmp_path / "servers") as (server, forebay):
        words = ["run", "--programs", "20", "--features", "txn", "--max-signatures", "1", "--out", str(tmp_path)]
        line = run.command_line(server, forebay, setup, words, build)
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    found = list(tmp_path.glob("txn*.json"))
    assert found
    assert all(path.with_suffix(".txt").exists() for path in found)
