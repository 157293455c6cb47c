"""A console statement's text to words.

The grammar is PgBouncer's: a command word, then bare words, "quoted names" or 'quoted texts', then an optional
semicolon. `SELECT x` and `EXPLAIN x` are read as `SHOW x`. Comments are skipped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*|/\*.*?\*/)
      | "(?P<name>(?:[^"]|"")*)"
      | '(?P<text>(?:[^']|'')*)'
      | (?P<mark>[;=,*])
      | (?P<word>[^\s;=,"']+)""",
    re.VERBOSE | re.DOTALL,
)


_SHOWS = ("select", "explain")


class Unreadable(Exception):
    """The text is not a statement: an open quote, or more than one statement."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A command word in lower case and what follows it. Quoted arguments keep their case, as bare ones do.

    spelled: the command word as it was written, for errors.
    """

    command: str
    arguments: tuple[str, ...]
    spelled: str = field(default="", compare=False)


def parse(text: str) -> Statement | None:
    """Reads one statement; None for an empty one.

    Raises Unreadable.
    """
    words = _words(text)
    if not words:
        return None
    command = words[0].lower()
    return Statement("show" if command in _SHOWS else command, tuple(words[1:]), spelled=words[0])


def _words(text: str) -> list[str]:
    words: list[str] = []
    position, ended = 0, False
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unreadable("a quote is not closed")
        position = match.end()
        if match["space"] is not None:
            continue
        if match["mark"] == ";":
            ended = bool(words)
            continue
        if ended:
            raise Unreadable("more than one statement")
        words.append(_word(match))
    return words


def _word(match: re.Match[str]) -> str:
    if match["name"] is not None:
        return match["name"].replace('""', '"')
    if match["text"] is not None:
        return match["text"].replace("''", "'")
    return match[0]
