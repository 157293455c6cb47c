"""The state folder of `forebay up`: where it is, its lock, and the secrets in it.

lock           held while a `forebay up` runs on the folder
password       the role's password, 0600
passfile       the same for libpq, 0600
postgres-18/   the data, 0700, the server's user
run/           the server's Unix socket, 0700, the server's user
postgres.log   what the server logs
programs-…/    root only: a copy of the server's programs
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from forebay.failure import Failure


@dataclass(frozen=True, slots=True)
class State:
    """A state folder."""

    folder: Path

    @property
    def password_file(self) -> Path:
        """Holds the role's password."""
        return self.folder / "password"

    @property
    def passfile(self) -> Path:
        """Holds the same in libpq's form."""
        return self.folder / "passfile"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder's lock. Raises Failure when another process has it."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Failure(
                    f"another `forebay up` is running on {self.folder}",
                    hint="Stop that one first, or give this one a folder of its own with --data.",
                ) from None
            yield
        finally:
            os.close(descriptor)

    def password(self) -> str:
        """The role's password; made at the first call, the same ever after."""
        try:
            return self.password_file.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            password = secrets.token_urlsafe(24)
            write_private(self.password_file, password + "\n")
            return password

    def write_passfile(self, *, user: str, password: str) -> None:
        """Writes a passfile for `user` on this machine's addresses only."""
        hosts = ("127.0.0.1", "localhost", "::1")
        lines = (":".join(map(_escaped, (host, "*", "*", user, password))) for host in hosts)
        write_private(self.passfile, "".join(f"{line}\n" for line in lines))


def default_folder() -> Path:
    """Root: /var/lib/forebay; else forebay/ in the user's state folder (XDG Base Directory Specification)."""
    if os.geteuid() == 0:
        return Path("/var/lib/forebay")
    # The specification says to ignore a relative path.
    named = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".local/state") / "forebay"


def open_state(folder: Path) -> State:
    """Makes the folder where there is none: private for a user, passable for root, whose server has another user.

    Raises Failure when it can't be made.
    """
    try:
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700)
    except OSError as error:
        raise Failure(
            f"the state folder {folder} can't be made: {error.strerror}", hint="Name one with --data."
        ) from None
    return State(folder.resolve())


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    partial.rename(path)


def _escaped(field: str) -> str:
    if field == "*":
        return field
    return field.replace("\\", "\\\\").replace(":", "\\:")
