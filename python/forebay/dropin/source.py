"""A pgbouncer.ini that is read again and again, with what the console's SET gave meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from forebay._generated.pgbouncer import ALIAS, KNOWN
from forebay.admin.backend import Refused
from forebay.config.importers.process import DropIn
from forebay.config.load import load
from forebay.control.source import Configuration, usable


class IniSource:
    """Implements ConfigurationSource and SettableSource.

    bound: addresses of sockets that a service manager has bound, in place of those that the file names.
    A setting that SET gave holds until a RELOAD finds it in the file. `conffile` names the file of the next load.
    """

    def __init__(
        self, path: Path, *, environment: Mapping[str, str], verbose: int = 0, bound: tuple[str, ...] | None = None
    ) -> None:
        self._path = path
        self._environment = environment
        self._verbose = verbose
        self._bound = bound
        self._given: dict[str, str] = {}
        self._users: Path | None = None
        self._seen: tuple[int | None, int | None] = (None, None)

    def load(self) -> Configuration:
        """Reads the file anew. Raises ConfigurationRefused."""
        read = self._read({})
        if read.process is not None:
            of_file = read.process.of_file
            self._given = {name: value for name, value in self._given.items() if name not in of_file}
            self._path = read.process.path("conffile") or self._path
        return read

    def load_with(self, name: str, value: str) -> Configuration:
        """Reads it with one setting more. Raises ConfigurationRefused, and Refused for what can't be set."""
        known = KNOWN.get(ALIAS.get(name, name))
        if known is None:
            raise Refused(f'there is no setting "{name}"')
        if not known.is_live:
            raise Refused(f"{known.name} is read at the start only")
        return self._read({known.name: value})

    def have_users_changed(self) -> bool:
        """Whether auth_file is another than at the last load, and the ini is not: PgBouncer reads it anew by itself."""
        users, ini = self._look()
        return users is not None and users != self._seen[0] and ini == self._seen[1]

    def keep(self, name: str, value: str) -> None:
        """From here on it is part of what `load` gives."""
        self._given[ALIAS.get(name, name)] = value
        if name == "conffile":
            self._path = Path(value)

    def _read(self, now: Mapping[str, str]) -> Configuration:
        # What was set before stands in for the file until that is read for its own sake.
        self._seen = self._look()
        drop_in = DropIn(overrides=self._given if not now else {}, now={**self._given, **now} if now else {},
                         verbose=self._verbose, bound=self._bound)  # fmt: skip
        read = usable(load(self._path, environ=self._environment, drop_in=drop_in))
        users = read.process.path("auth_file") if read.process else None
        if users != self._users:
            self._users = users
            self._seen = self._look()
        return read

    def _look(self) -> tuple[int | None, int | None]:
        """When auth_file and the ini were last changed."""
        return _changed_at(self._users), _changed_at(self._path)


def _changed_at(path: Path | None) -> int | None:
    try:
        return path.stat().st_mtime_ns if path else None
    except OSError:
        return None
