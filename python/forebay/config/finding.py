"""What is wrong with a configuration: findings, and how they are printed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from forebay._generated.errors import FINDINGS
from forebay.config.source import Place


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong, at one place.

    code: FBC and three digits (docs/reference/errors.md).
    line, column: from 1; both 0 where the place is no text (the environment).
    excerpt: the line, without secrets; width: how many characters of it are meant.
    """

    code: str
    severity: Literal["error", "warning", "info"]
    path: str
    line: int
    column: int
    message: str
    hint: str | None = None
    excerpt: str | None = None
    width: int = 1

    @property
    def is_error(self) -> bool:
        """Whether forebay does not start with it."""
        return self.severity == "error"

    @property
    def where(self) -> str:
        """path:line:column, or the path alone where the place is no text."""
        return f"{self.path}:{self.line}:{self.column}" if self.line else self.path

    def __str__(self) -> str:
        return f"{self.where}: {self.severity} {self.code}: {self.message}"


class Report:
    """Collects findings while a configuration is read."""

    def __init__(self) -> None:
        self._findings: list[Finding] = []

    def add(self, row: str, place: Place, /, *, meant: str | None = None, **fields: object) -> None:
        """Adds the finding `row` of spec/errors.toml with its placeholders filled from `fields`.

        meant: what the user probably wanted to write; it takes the hint's place.
        """
        words = FINDINGS[row]
        given = words.hint_ini if place.source.is_ini and words.hint_ini else words.hint
        hint = f'did you mean "{meant}"?' if meant else given and given.format(**fields)
        self._findings.append(
            Finding(
                code=words.code,
                severity=words.severity,
                path=place.source.path,
                line=place.line,
                column=place.column,
                message=words.message.format(**fields),
                hint=hint or None,
                excerpt=place.source.line(place.line) if place.end else None,
                width=place.width,
            )
        )

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them, by file and line, each once."""
        return tuple(in_order(self._findings))

    @property
    def has_errors(self) -> bool:
        """Whether forebay would not start."""
        return any(one.is_error for one in self._findings)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """By file and line, each once."""
    return sorted(dict.fromkeys(findings), key=lambda one: (one.path, one.line, one.column))


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` is most like, or None where none is."""
    found = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.65)
    return found[0] if found else None


def render(findings: Sequence[Finding]) -> str:
    """The findings for a terminal: place, words, the line with a caret under it, and the hint."""
    return "".join(_rendered(one) for one in findings)


def _rendered(finding: Finding) -> str:
    lines = [str(finding)]
    if finding.excerpt is not None and finding.excerpt.strip():
        gutter = f"{finding.line:>5}"
        # A tab stays a tab, so that the caret stands where the terminal puts the character.
        before = "".join("\t" if sign == "\t" else " " for sign in finding.excerpt[: finding.column - 1])
        lines.append(f"{gutter} | {finding.excerpt}")
        lines.append(f"{' ' * len(gutter)} | {before}{'^' * finding.width}")
    if finding.hint:
        lines.append(f"      = {finding.hint}")
    return "\n".join(lines) + "\n"
