"""The wheel in an empty environment: what a user without Rust gets."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.e2e.command import START_S, STOP_S, state_folder
from tests.harness.deadline import until

# Without a wheel at hand the first test makes one.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The newest wheel in dist for this machine; made if there is none."""
    pattern = f"forebay-*-abi3-manylinux*_{platform.machine()}.whl"
    if not list((CHECKOUT / "dist").glob(pattern)):
        subprocess.run(["make", "wheel"], cwd=CHECKOUT, check=True)
    return max((CHECKOUT / "dist").glob(pattern), key=lambda path: path.stat().st_mtime)


def test_a_wheel_says_whose_code_it_holds(wheel: Path) -> None:
    """Most licences ask for that; the grammar's stand inside the crate that binds it."""
    with zipfile.ZipFile(wheel) as archive:
        notices = archive.read("forebay/THIRD-PARTY-NOTICES.txt").decode()
    for part in ("--- libpg_query/LICENSE", "PostgreSQL Global Development Group", "\nrustls ", "\naws-lc-sys "):
        assert part in notices, part


def test_an_installed_wheel_needs_no_rust_and_no_checkout(wheel: Path, tmp_path: Path) -> None:
    """`pip install 'forebay[up]'`, `forebay up`, a client, Ctrl-C."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    programs = environment / "bin"
    # Nothing of the machine's but a shell's own programs: no cargo, no compiler of this checkout's.
    plain = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    assert shutil.which("cargo", path=plain["PATH"]) is None
    subprocess.run(
        [str(programs / "pip"), "install", "-q", f"{wheel}[up]", "psycopg[binary]"],
        check=True, cwd=tmp_path, env={**plain, **kept}, timeout=300,
    )  # fmt: skip
    said = subprocess.run(
        [str(programs / "forebay"), "--version"], check=True, cwd=tmp_path, env=plain, capture_output=True, text=True
    )
    assert said.stdout.startswith("forebay ")
    with state_folder() as folder, (tmp_path / "out").open("wb") as out:
        running = subprocess.Popen(
            [str(programs / "forebay"), "up", "--port", "0", "--metrics-port", "0", "--data", str(folder)],
            cwd=tmp_path, env=plain, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
        try:
            text = (tmp_path / "out").read_text
            until(lambda: "Ctrl-C" in text() or running.poll() is not None, within_s=START_S, what="the banner")
            assert running.poll() is None, text()
            dsn = next(line.split()[1] for line in text().splitlines() if line.strip().startswith("DSN"))
            code = f"import psycopg; print(psycopg.connect({dsn!r}).execute('select 41 + 1').fetchone())"
            asked = subprocess.run(
                [str(programs / "python"), "-c", code],
                cwd=tmp_path,
                env=plain,
                capture_output=True,
                text=True,
                check=True,
            )
            assert asked.stdout.strip() == "(42,)"
            os.killpg(running.pid, signal.SIGINT)
            assert running.wait(timeout=STOP_S) == 0
        finally:
            if running.poll() is None:
                running.terminate()
                running.wait(timeout=STOP_S)
