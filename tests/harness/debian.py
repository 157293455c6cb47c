"""Programs out of Debian's packages, which stay in .cache of the checkout; nothing is installed on the machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import account
from tests.harness.etcd import FETCH_S, alone
from tests.harness.postgres import CACHE


@dataclass(frozen=True, slots=True)
class Installed:
    """A package with what it needs, unpacked into a folder."""

    folder: Path

    def path(self, program: str) -> str:
        """Of a program, as in the package."""
        return str(self.folder / program.lstrip("/"))

    @property
    def environment(self) -> dict[str, str]:
        """With which its programs find their libraries."""
        found = sorted({str(path.parent) for path in self.folder.rglob("lib*.so.*")})
        return {"LD_LIBRARY_PATH": ":".join(found)} if found else {}


def package(name: str) -> Installed:
    """A package with what the machine lacks of its dependencies. Skips the test where apt-get is missing."""
    folder = CACHE / name
    with alone(name):
        if not (folder / ".complete").exists():
            if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
                pytest.skip(f"there is no apt-get to fetch {name} with")
            packages = CACHE / "packages" / name
            packages.mkdir(parents=True, exist_ok=True)
            for each in _needed(name):
                done = _apt_get("download", each, into=packages)
                assert done.returncode == 0, f"{each} could not be fetched:\n{done.stderr}"
            for archive in packages.glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True, timeout=FETCH_S)
            (folder / ".complete").touch()
    return Installed(folder)


def _needed(name: str) -> list[str]:
    """The package, and those that installing it would bring along: apt-get's own list of addresses."""
    command = ("install", "--print-uris", "-qq", "--no-install-recommends", "--reinstall", name)
    done = _apt_get(*command, into=CACHE)
    if done.returncode and account.is_root():
        # A fresh machine has no lists of packages.
        _apt_get("update", into=CACHE)
        done = _apt_get(*command, into=CACHE)
    assert done.returncode == 0, f"apt-get knows no {name}: run apt-get update first\n{done.stderr}"
    found = re.findall(r"^'\S+' ([^_\s]+)_\S+\.deb ", done.stdout, re.MULTILINE)
    assert name in found, done.stdout
    return found


def _apt_get(*arguments: str, into: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["apt-get", "-q", *arguments], cwd=into, capture_output=True, text=True, timeout=FETCH_S, check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
