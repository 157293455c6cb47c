"""Settings as a tree in which every key and value knows its place. The engine reads the text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from forebay.config.finding import Report
from forebay.config.source import Place, Source

Kind = Literal["table", "array", "string", "integer", "float", "boolean", "datetime"]
At = tuple[int, int, int, int]


class RawNode(msgspec.Struct, frozen=True):
    """A node as forebay-config writes it."""

    kind: Kind
    at: At
    value: str | int | float | bool | None = None
    entries: list[RawEntry] = []
    items: list[RawNode] = []


class RawEntry(msgspec.Struct, frozen=True):
    """A key and its value."""

    key: str
    at: At
    value: RawNode


class RawError(msgspec.Struct, frozen=True):
    """A place that could not be read."""

    at: At
    message: str


class RawDocument(msgspec.Struct, frozen=True):
    """A whole text."""

    root: RawNode
    errors: list[RawError]


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its place.

    is_text: a string that may stand for a number, a truth value or a list (an ini, the environment).
    is_outside: the value does not stand in the file (the environment), so a secret is not exposed by the file.
    """

    kind: Kind
    place: Place
    value: str | int | float | bool | None = None
    entries: tuple[Entry, ...] = ()
    items: tuple[Node, ...] = ()
    is_text: bool = False
    is_outside: bool = False

    def get(self, key: str) -> Node | None:
        """The value of `key`, the last one where it stands several times."""
        return next((entry.value for entry in reversed(self.entries) if entry.key == key), None)


@dataclass(frozen=True, slots=True)
class Entry:
    """A key and its value."""

    key: str
    place: Place
    value: Node


def read(source: Source, parse: Callable[[str], str], report: Report) -> Node:
    """The tree of a text; what can't be read is reported.

    parse: one of the readers of forebay._engine: text in, JSON out.
    """
    document = msgspec.json.decode(parse(source.text), type=RawDocument)
    for error in document.errors:
        row = "bad_user_line" if source.holds_secrets else "syntax"
        report.add(row, Place(source, *error.at), cause=error.message)
    return _node(source, document.root)


def text(value: str, place: Place, *, is_outside: bool = False) -> Node:
    """A string that may stand for something else."""
    return Node("string", place, value, is_text=True, is_outside=is_outside)


def table(place: Place, *entries: Entry) -> Node:
    """A table."""
    return Node("table", place, entries=entries)


def _node(source: Source, raw: RawNode) -> Node:
    return Node(
        raw.kind,
        Place(source, *raw.at),
        raw.value,
        tuple(Entry(entry.key, Place(source, *entry.at), _node(source, entry.value)) for entry in raw.entries),
        tuple(_node(source, item) for item in raw.items),
    )
