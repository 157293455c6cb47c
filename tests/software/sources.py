"""Where suites and drivers come from: the package registries, by their usual clients, into the checkout's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.harness.postgres import CACHE, Programs, unpack
from tests.software.shape import SUITE_S, Run, Software

HOME = CACHE / "drivers"

# Programs of ours, for drivers that come without a suite.
PROGRAMS = Path(__file__).parent / "programs"

# Time for a download with what is built from it.
STEP_S = 1200

# What every environment of a Python suite has beside its own: pytest's results as XML, and an end to tests that hang.
PYTEST = (
    "iniconfig==2.3.1", "packaging==26.4", "pluggy==1.7.0", "Pygments==2.21.0", "pytest==9.2.0",
    "pytest-timeout==2.4.0",
)  # fmt: skip

# Time for one test of a Python suite.
TEST_S = 600


class Failed(Exception):
    """A step did not end well; its output tells more."""


def do(
    arguments: Sequence[str | Path], *, cwd: Path, log: Path, env: Mapping[str, str], within_s: float = STEP_S
) -> int:
    """Runs a program with its output at the end of `log`. Returns its exit status; raises Failed past the time."""
    with log.open("ab") as output:
        output.write(f"$ {' '.join(map(str, arguments))}\n".encode())
        output.flush()
        try:
            return subprocess.run(
                [str(word) for word in arguments], cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, timeout=within_s, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Failed(f"{arguments[0]} took longer than {within_s:.0f} s; {log} tells more") from None


def step(*arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> None:
    """A step of a preparation. Raises Failed unless it ends with 0."""
    log = cwd / "prepare.log"
    if do(arguments, cwd=cwd, log=log, env=env or os.environ) != 0:
        raise Failed(f"{arguments[0]} failed:\n{log.read_text(errors='replace')[-3000:]}")


def clients(major: int) -> Programs:
    """psql, pg_config, pg_regress and libpq of a release, for suites that need them."""
    folder = HOME / f"clients-{major}"
    top = folder / f"postgresql-{major}"
    if not top.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / "unpacking"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        unpack(major, fresh)
        (fresh / top.name).rename(top)
        fresh.rmdir()
    (only,) = top.iterdir()
    return Programs(major, only)


def prepared(software: Software) -> Path:
    """The software's home, with everything in it that its pins name."""
    home = HOME / software.name
    ready = home / ".ready"
    stamp = "\n".join((software.version, *software.pins))
    if not (ready.exists() and ready.read_text() == stamp):
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        software.prepare(home, clients(software.major))
        ready.write_text(stamp)
    return home


def missing(software: Software) -> list[str]:
    """Programs that it needs and that this machine does not have."""
    return [name for name in software.needs if shutil.which(name) is None]


def environment(home: Path, *requirements: str) -> None:
    """A virtual environment in `home`/venv with exactly these packages and no others."""
    step(sys.executable, "-m", "venv", "venv", cwd=home)
    pip = (python(home), "-m", "pip", "--disable-pip-version-check", "-q", "install")
    step(*pip, "--no-deps", "--only-binary=:all:", *requirements, cwd=home)
    step(python(home), "-m", "pip", "--disable-pip-version-check", "check", cwd=home)
    # Without one of its own pytest would find that of this checkout.
    (home / "pytest.ini").write_text("[pytest]\n")


def python(home: Path) -> Path:
    """The interpreter of its virtual environment."""
    return home / "venv" / "bin" / "python"


def source(home: Path, requirement: str, programs: Programs) -> Path:
    """Unpacks the source of a Python package, whose suite is in it, and returns its folder.

    pip builds its metadata on the way, for which drivers of libpq want a pg_config.
    """
    name = requirement.partition("==")[0]
    env = {**os.environ, "PATH": f"{programs.folder / 'bin'}:{os.environ.get('PATH', '')}"}
    step(
        python(home), "-m", "pip", "--disable-pip-version-check", "-q", "download", "--no-deps",
        f"--no-binary={name}", "-d", "download", requirement, cwd=home, env=env,
    )  # fmt: skip
    (archive,) = (home / "download").iterdir()
    with tarfile.open(archive) as packed:
        packed.extractall(home / "source", filter="data")
    archive.unlink()
    (top,) = (home / "source").iterdir()
    return top


def pytest(run: Run, *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> Path:
    """Runs pytest of the software's own environment; returns the XML with its results."""
    results = run.folder / "results.xml"
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--timeout={TEST_S}", f"--junitxml={results}")
    do(
        (python(run.home), *words, *arguments), cwd=cwd, log=run.folder / "suite.log", within_s=SUITE_S,
        env={**run.environment, **(env or {})},
    )  # fmt: skip
    return results
