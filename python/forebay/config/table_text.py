"""Lines of a TOML document that is written: a setting, its value, and comments above and behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Comments behind settings stand below each other, unless one setting is very long.
_COLUMN_MAX = 40


@dataclass(frozen=True, slots=True)
class Line:
    """One setting. behind: without its sign; above: whole lines."""

    key: str
    value: str
    behind: str = ""
    above: tuple[str, ...] = ()


def table_text(lines: Sequence[Line]) -> str:
    """The lines of one table, with the comments behind them in one column."""
    pairs = [f"{line.key} = {line.value}" for line in lines]
    column = max((len(pair) for pair in pairs if len(pair) <= _COLUMN_MAX), default=0)
    out: list[str] = []
    for line, pair in zip(lines, pairs, strict=True):
        out += line.above
        out.append(f"{pair.ljust(column)}  # {line.behind}" if line.behind else pair)
    return "".join(f"{one}\n" for one in out)
