"""The unprivileged user under whom servers run when the tests run as root: PostgreSQL refuses to be root."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path
from typing import Any

UNPRIVILEGED = "nobody"


def is_root() -> bool:
    """Whether the tests run as root."""
    return os.geteuid() == 0


def process_options() -> dict[str, Any]:
    """What subprocess needs to start a server's program."""
    if not is_root():
        return {}
    entry = pwd.getpwnam(UNPRIVILEGED)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def give(path: Path) -> None:
    """Makes the server's user the owner of a file or folder."""
    if is_root():
        shutil.chown(path, UNPRIVILEGED, pwd.getpwnam(UNPRIVILEGED).pw_gid)
