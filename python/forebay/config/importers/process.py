"""What of a pgbouncer.ini is about the process: read for `forebay-pgbouncer`, which does it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from forebay._generated.pgbouncer import KNOWN, Known
from forebay.config.finding import Report
from forebay.config.setting_line import SettingLine
from forebay.config.text_file import Files
from forebay.config.tree import Entry

FACILITIES: Final = ("auth", "authpriv", "daemon", "user", *(f"local{number}" for number in range(8)))
TRUTH: Final = ("0", "1", "no", "yes", "off", "on", "false", "true")
_BIND_PASSWORD = re.compile(r'(ldapbindpasswd\s*=\s*)("(?:[^"]|"")*"|\S+)', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DropIn:
    """That an ini is read as PgBouncer reads it.

    overrides: what the console's SET gave, by PgBouncer's names, where the file gives nothing.
    now: what it gives at this moment, whatever stands in the file. verbose: how often -v was given.
    bound: addresses of sockets that a service manager has bound, in place of those of the file.
    files: where the texts of the ini and of what it names come from.
    """

    overrides: Mapping[str, str] = field(default_factory=dict)
    now: Mapping[str, str] = field(default_factory=dict)
    verbose: int = 0
    bound: tuple[str, ...] | None = None
    files: Files = field(default_factory=Files)


@dataclass(frozen=True, slots=True)
class Process:
    """The settings of a pgbouncer.ini that `forebay-pgbouncer` itself acts on.

    given: all values of [pgbouncer] by name, as they are written; of_file: those that the file itself gives.
    folder: where relative paths start. file: the ini.
    """

    given: Mapping[str, str]
    of_file: frozenset[str]
    folder: Path
    file: str = ""

    def text(self, name: str) -> str:
        """A setting as written, or its default."""
        return self.given.get(name, KNOWN[name].default)

    def is_on(self, name: str) -> bool:
        """A setting that is on or off."""
        return self.text(name).lower() in TRUTH[1::2]

    def number(self, name: str) -> float:
        """A count, or seconds."""
        return float(self.text(name))

    def path(self, name: str) -> Path | None:
        """A path, or None where it is not set."""
        written = self.text(name)
        return self.folder / written if written else None

    def until_restart(self, read: Process) -> Process:
        """What a reload puts in force: `read`, but settings that only a start reads as they have run since then."""
        taken = {name: value for name, value in read.given.items() if _is_live(name)}
        kept = {name: value for name, value in self.given.items() if not _is_live(name)}
        return replace(read, given={**taken, **kept})

    def shown(self, name: str) -> str:
        """A setting for SHOW CONFIG; the password in LDAP's options is not shown."""
        if name == "conffile":
            return self.text(name) or self.file
        return _BIND_PASSWORD.sub(r"\1*****", self.text(name))


def _is_live(name: str) -> bool:
    known = KNOWN.get(name)
    return known is None or known.is_live


def ini_settings(process: Process) -> tuple[SettingLine, ...]:
    """All settings of PgBouncer, for SHOW CONFIG."""
    return tuple(
        SettingLine(known.name, process.shown(known.name), known.default, known.is_live) for known in KNOWN.values()
    )


def read_process(
    settings: Mapping[str, Entry], of_file: frozenset[str], folder: Path, report: Report, *, file: str
) -> Process:
    """Checks the values; what can't be used is reported."""
    for name, entry in settings.items():
        known = KNOWN.get(name)
        if known is None or known.process is None:
            continue
        written = str(entry.value.value)
        wanted = _fault(known, written)
        if wanted:
            report.add("bad_ini_value", entry.value.place, name=name, text=written, wanted=wanted)
    return Process({name: str(entry.value.value) for name, entry in settings.items()}, of_file, folder, file)


def _fault(known: Known, written: str) -> str | None:
    """What the value should have been, or None."""
    if known.name == "syslog_facility":
        return None if written in FACILITIES else f"one of {', '.join(FACILITIES)}"
    is_right, wanted = _KINDS[known.kind or "text"]
    return None if is_right(written) else wanted


_KINDS: Final[dict[str, tuple[Callable[[str], bool], str]]] = {
    "bool": (lambda text: text.lower() in TRUTH, "0 or 1"),
    "count": (lambda text: re.fullmatch(r"\d{1,9}", text, re.ASCII) is not None, "a whole number"),
    "seconds": (lambda text: re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text, re.ASCII) is not None, "a number of seconds"),
    "text": (lambda text: "\0" not in text, "text"),
}
