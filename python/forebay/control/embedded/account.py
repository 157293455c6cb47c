"""Which operating system user the embedded server runs as.

PostgreSQL refuses to run as root. An ordinary user runs it as itself. Root runs it as the owner of the data where there
is data, else as the system user `forebay-pg`, which is created; where that can't be done, as `postgres` or `nobody`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from forebay.failure import Failure

SYSTEM_USER: Final = "forebay-pg"
_FALLBACKS: Final = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the operating system.

    is_switched: processes must be started as this user, because we are root.
    """

    name: str
    uid: int
    gid: int
    is_switched: bool


def server_account(data: Path) -> Account:
    """The account for the server whose data is, or will be, at `data`.

    Raises Failure when we are root and there is no user to switch to, or when the user has no name.
    """
    uid = os.geteuid()
    if uid != 0:
        return _account(_entry(uid), is_switched=False)
    if data.exists() and (owner := data.stat().st_uid) != 0:
        return _account(_entry(owner), is_switched=True)
    entry = _named(SYSTEM_USER) or _created() or next(filter(None, map(_named, _FALLBACKS)), None)
    if entry is None:
        raise Failure(
            "PostgreSQL does not run as root, and no other user could be found or created",
            hint=f"Run forebay as an ordinary user, or create the system user {SYSTEM_USER}.",
        )
    return _account(entry, is_switched=True)


def may_enter(account: Account, folder: Path) -> bool:
    """Whether the account may pass through `folder`, by its mode."""
    status = folder.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & 0o100)
    return bool(status.st_mode & (0o010 if status.st_gid == account.gid else 0o001))


def _account(entry: pwd.struct_passwd, *, is_switched: bool) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, is_switched)


def _entry(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise Failure(
            f"the user id {uid} has no name on this system, and PostgreSQL's initdb wants one",
            hint="Add it to /etc/passwd, or use `forebay up --server DSN` with a PostgreSQL of your own.",
        ) from None


def _named(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _created() -> pwd.struct_passwd | None:
    program = shutil.which("useradd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        return None
    arguments = [program, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    arguments += ["--shell", "/usr/sbin/nologin", SYSTEM_USER]
    done = subprocess.run(arguments, capture_output=True, check=False, timeout=30)
    return _named(SYSTEM_USER) if done.returncode == 0 else None
