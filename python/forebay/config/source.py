"""Texts that settings come from, and places in them. A secret's characters never leave a text through here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# The value of a key that holds a secret: a quoted text over one or more lines, or a bare word.
_SECRET_VALUE = re.compile(
    r"""(\b(?:secret|password|verifier)["']?\s*=\s*)"""
    r'("{3}.*?"{3}|' + r"'{3}.*?'{3}" + r"""|"(?:\\.|[^"\\\n])*"?|'(?:''|[^'\n])*'?|[^\s{"'][^\s,}]*)""",
    re.DOTALL | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Source:
    """A text that settings came from.

    path: as the user wrote it; findings begin with it.
    holds_secrets: no line of it is ever shown (user lists).
    """

    path: str
    text: str = field(repr=False)
    holds_secrets: bool = False

    def line(self, number: int) -> str | None:
        """Line `number`, from 1, with secrets starred out; None where there is none to show."""
        if self.holds_secrets:
            return None
        lines = _SECRET_VALUE.sub(_starred, self.text).split("\n")
        return lines[number - 1].rstrip("\r") if 0 < number <= len(lines) else None

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


def _starred(match: re.Match[str]) -> str:
    return match[1] + re.sub(r"[^\n]", "*", match[2])
