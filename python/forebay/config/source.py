"""Texts that settings come from, and places in them. A secret's characters never leave a text through here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_QUOTED = r"""("{3}.*?"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\\n])*"?|'(?:''|[^'\n])*'?"""
# The value of a key that holds a secret: quoted text over one or more lines, a list, a table, or a bare word.
_SECRET_VALUE = re.compile(
    r"""(\b(?:\w+_)?(?:secret|password|verifier)["']?\s*=\s*)""" + _QUOTED + r"|\[[^\n]*|\{[^\n}]*|[^\s,}]+)",
    re.DOTALL | re.IGNORECASE,
)
# Among the options of a directory, quotes may stand anywhere, and a backslash continues a line: all behind the name is
# starred out. People write ldapbindpassword as well.
_GAP = r'(?:\\?"|\\\r?\n[ \t]*)*'
_BIND_PASSWORD = re.compile(f"({_GAP.join('ldapbindp')})" + r"((?:[^\n]*\\\r?\n)*[^\n]*)", re.IGNORECASE)
# A text of a forebay.toml may write any character as its number.
_NUMBERED = re.compile(r"""(\bldap_options["']?\s*=)([^\n]*\\[uUx][^\n]*)""")
# In such a table, the values that say where the secret is are shown.
_TABLE_VALUE = re.compile(r"(\w+\s*=\s*)" + _QUOTED + r"|[^\s,}]+)", re.DOTALL)
_SHOWN_KEYS = ("env", "file", "command", "timeout")
_OF_PGBOUNCER = re.compile(r"^[ \t]*\[pgbouncer\]", re.MULTILINE)
# user:password@ of a URL.
_CREDENTIALS = re.compile(r"(://)([^@\s\"']*)(?=@)")
# The same of a source, or of a fleet's etcd, whose scheme may be missing or misspelt.
_SOURCE_LOGIN = re.compile(r"""(\b(?:topology_source|etcd)["']?\s*=\s*["']+)([^\n]*)(?=@)""")


@dataclass(frozen=True, slots=True)
class Source:
    """A text that settings came from.

    path: as the user wrote it; findings begin with it.
    holds_secrets: no line of it is ever shown (user lists).
    is_ini: it is a pgbouncer.ini; hints speak of its settings.
    """

    path: str
    text: str = field(repr=False)
    holds_secrets: bool = False
    _lines: tuple[str, ...] = field(init=False, repr=False, compare=False)

    is_ini: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_lines", tuple(without_secrets(self.text).split("\n")))
        # Packages and scripts name the file as they like; no forebay.toml has that section.
        is_ini = self.path.endswith(".ini") or _OF_PGBOUNCER.search(self.text) is not None
        object.__setattr__(self, "is_ini", is_ini)

    def line(self, number: int) -> str | None:
        """Line `number`, from 1, with secrets starred out; None where there is none to show."""
        if self.holds_secrets:
            return None
        return self._lines[number - 1].rstrip("\r") if 0 < number <= len(self._lines) else None

    def whole(self) -> Place:
        """The place of what concerns the whole text."""
        return Place(self, 0, 0, 1, 1)


def outside(name: str) -> Place:
    """The place of what stands in no text, such as an environment variable."""
    return Place(Source(name, ""), 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Place:
    """A range of a text: bytes from start to end, line and column of its first character, from 1.

    Line and column are 0 where there is no text (`outside`).
    """

    source: Source
    start: int
    end: int
    line: int
    column: int

    @property
    def width(self) -> int:
        """Characters of the range on its first line, at least 1."""
        covered = self.source.text.encode()[self.start : self.end].decode(errors="replace")
        return max(1, len(covered.split("\n", 1)[0].rstrip()))


def without_secrets(text: str) -> str:
    """`text` with a star for each character of a secret; lines and columns stay."""
    for pattern in (_NUMBERED, _BIND_PASSWORD, _SOURCE_LOGIN):
        text = pattern.sub(_starred, text)
    return _CREDENTIALS.sub(_starred, _SECRET_VALUE.sub(_without_secret, text))


def names_bind_password(text: str) -> bool:
    """Whether a directory's password may stand in the text, or begin there."""
    return _BIND_PASSWORD.search(text) is not None


def without_quoted(cause: str) -> str:
    """A message without what it quotes."""
    return re.sub(r'".*"', '"…"', cause, flags=re.DOTALL)


def _without_secret(match: re.Match[str]) -> str:
    if not match[2].startswith("{"):
        return _starred(match)
    return match[1] + _TABLE_VALUE.sub(
        lambda pair: pair[0] if pair[1].rstrip("= \t") in _SHOWN_KEYS else _starred(pair), match[2]
    )


def _starred(match: re.Match[str]) -> str:
    return match[1] + re.sub(r"[^\r\n]", "*", match[2])
