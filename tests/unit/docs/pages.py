"""The pages people read, taken apart: fenced blocks, links, and the names that stand in them.

A fence's words after the language tell what a test does with it:

| fence | meaning |
|---|---|
| `toml` | a whole configuration, checked |
| `toml fragment` | part of one, completed and checked |
| `toml file=NAME` | a whole one that commands of the page find under NAME |
| `sh run` | commands that are run, in the page's folder |
| `sh serve` | a command that goes on until the page says `Ctrl-C` in a comment, or ends |
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
STOP: Final = "<!-- Ctrl-C -->"

_FENCE: Final = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_STEP: Final = re.compile(f"{_FENCE.pattern}|^(?P<stop> *{re.escape(STOP)})$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_CODE: Final = re.compile(r"`([^`\n]+)`")
_HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. words: those after the language."""

    page: Page
    language: str
    words: tuple[str, ...]
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The name that commands of the page find it under."""
        return next((word.removeprefix("file=") for word in self.words if word.startswith("file=")), None)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, slots=True)
class Page:
    """A page. name: its path in the repository."""

    name: str
    text: str

    def __str__(self) -> str:
        return self.name

    @property
    def path(self) -> Path:
        """Where it lies."""
        return ROOT / self.name

    def steps(self) -> Iterator[Block | None]:
        """Its blocks in order, and None where it says Ctrl-C."""
        for found in _STEP.finditer(self.text):
            if found["stop"]:
                yield None
                continue
            language, *words = found["info"].split() or [""]
            line = self.text.count("\n", 0, found.start()) + 1
            yield Block(self, language, tuple(words), textwrap.dedent(found["text"]), line)

    def blocks(self, language: str) -> list[Block]:
        """Its blocks in one language."""
        return [step for step in self.steps() if step is not None and step.language == language]

    def prose(self) -> str:
        """Its text without the blocks."""
        return _FENCE.sub("", self.text)

    def links(self) -> list[str]:
        """Targets inside the repository."""
        targets = [found["target"] for found in _LINK.finditer(self.prose())]
        return [target for target in targets if "://" not in target]

    def code(self) -> list[str]:
        """What stands between single backticks."""
        return _CODE.findall(self.prose())

    def anchors(self) -> set[str]:
        """Where links with a # may lead, as renderers make them from headings."""
        return {
            re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(self.prose())
        }


@cache
def pages() -> tuple[Page, ...]:
    """All pages written by hand."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("changes/*.md"), *ROOT.glob("docs/**/*.md")]
    names = sorted(str(path.relative_to(ROOT)) for path in found)
    return tuple(page(name) for name in names if not name.startswith("docs/reference/"))


@cache
def page(name: str) -> Page:
    """One page by its path."""
    return Page(name, (ROOT / name).read_text(encoding="utf-8"))
