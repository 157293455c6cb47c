"""A pgbouncer.ini that is read again and again, with what the console's SET gave meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from forebay._generated.pgbouncer import ALIAS, KNOWN
from forebay.admin.backend import Refused
from forebay.config.finding import closest
from forebay.config.importers.process import DropIn
from forebay.config.load import load
from forebay.config.text_file import Files, FileText, changed_at
from forebay.control.source import Configuration, usable
from forebay.failure import Failure

# How long a change of auth_file that was told, and has not come into force, goes without being told again.
TELL_AGAIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class _InForce:
    """What the source remembers of the configuration that was last accepted.

    path: the ini. next_path: that of the next RELOAD. given: what SET gave.
    texts: of the ini and all it names. users: auth_file.
    """

    path: Path
    next_path: Path
    given: Mapping[str, str]
    texts: Mapping[Path, FileText]
    users: Path | None


class IniSource:
    """Implements ConfigurationSource and SettableSource.

    bound: addresses of sockets that a service manager has bound, in place of those that the file names.
    A setting that SET gave holds until a RELOAD finds it in the file. `conffile` names the file of the next RELOAD.
    What a load found is remembered only once it was accepted.
    """

    def __init__(
        self, path: Path, *, environment: Mapping[str, str], verbose: int = 0, bound: tuple[str, ...] | None = None
    ) -> None:
        self._environment = environment
        self._verbose = verbose
        self._bound = bound
        self._in_force = _InForce(path, path, {}, {}, None)
        self._told: tuple[int, float] | None = None

    def load(self) -> Configuration:
        """Reads the file anew. Raises ConfigurationRefused, and Failure for a `conffile` that can't be read."""
        before = self._in_force
        files = Files()
        read = self._read(before.next_path, DropIn(overrides=before.given, verbose=self._verbose, files=files))
        given, next_path = before.given, before.next_path
        if (process := read.process) is not None:
            given = {name: value for name, value in given.items() if name not in process.of_file}
            next_path = process.path("conffile") or next_path
        # Otherwise the file would never be read again, whatever is corrected in it.
        if next_path != before.next_path and (cause := _unreadable(next_path)):
            raise Failure(f"conffile names {next_path}, which can't be read: {cause}", hint="Correct it, or remove it.")
        return self._remembered(read, before.next_path, next_path, given, files)

    def load_with(self, name: str, value: str) -> Configuration:
        """What is in force, with one setting more. Raises ConfigurationRefused, and Refused for what can't be set."""
        known = KNOWN.get(ALIAS.get(name, name))
        if known is None:
            near = closest(name, KNOWN)
            hint = f"Did you mean {near}? SHOW CONFIG lists them." if near else "SHOW CONFIG lists them."
            raise Refused(f'there is no setting "{name}"', hint=hint)
        if not known.is_live:
            hint = "Write it into the file, and start anew: SHOW CONFIG has changeable = no for such settings."
            raise Refused(f"{known.name} is read at the start only", hint=hint)
        before = self._in_force
        next_path = before.next_path
        if known.name == "conffile":
            next_path = before.path.parent / value
            if cause := _unreadable(next_path) if value else "it is empty":
                raise Refused(f'conffile can\'t be "{value}": {cause}')
            value = str(next_path)
        return self._changed({**before.given, known.name: value}, next_path, before.texts)

    def load_users(self) -> Configuration:
        """What is in force, with auth_file read anew. Raises ConfigurationRefused."""
        before = self._in_force
        texts = {path: text for path, text in before.texts.items() if path != before.users}
        return self._changed(before.given, before.next_path, texts)

    def have_users_changed(self, *, now_s: float) -> bool:
        """Whether auth_file is another than in the configuration that is in force: PgBouncer reads it by itself.

        A change that was told is not told again for a while, for it may be under way, or refused.
        now_s: of a clock that is never set back.
        """
        users = self._in_force.users
        if users is None:
            return False
        at = changed_at(users)
        if at is None or at == self._in_force.texts[users].changed_at:
            return False
        if self._told is not None and self._told[0] == at and now_s - self._told[1] < TELL_AGAIN_S:
            return False
        self._told = (at, now_s)
        return True

    def _changed(self, given: Mapping[str, str], next_path: Path, texts: Mapping[Path, FileText]) -> Configuration:
        """What is in force with other values of SET, or without some of its texts, which are read anew."""
        path, files = self._in_force.path, Files(texts)
        read = self._read(path, DropIn(now=given, verbose=self._verbose, files=files))
        return self._remembered(read, path, next_path, given, files)

    def _read(self, path: Path, drop_in: DropIn) -> Configuration:
        return usable(load(path, environ=self._environment, drop_in=replace(drop_in, bound=self._bound)))

    def _remembered(
        self, read: Configuration, path: Path, next_path: Path, given: Mapping[str, str], files: Files
    ) -> Configuration:
        """The configuration, which puts what the source is to remember of it in place once it is accepted."""
        written = read.config.draft.value("auth", "file")
        users = Path(str(written)) if written else None
        in_force = _InForce(path, next_path, given, files.used, users)

        def accepted() -> None:
            self._in_force = in_force

        return replace(read, accepted=accepted)


def _unreadable(path: Path) -> str | None:
    """Why a file can't be read, or None."""
    try:
        if not path.exists():
            return "there is no such file"
        if not path.is_file():
            return "it is not a file"
        with path.open("rb"):
            return None
    except (OSError, ValueError) as error:
        return str(error.args[-1]) if isinstance(error, ValueError) else error.strerror or str(error)
