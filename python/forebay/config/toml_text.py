"""Values as text of a TOML document, so that reading it back gives the same."""

from __future__ import annotations

import re
from collections.abc import Iterable

from forebay.config.tree import Node

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
_CONTROL = re.compile(r'[\x00-\x1f\x7f"\\]')


def key(name: str) -> str:
    """A key; quoted where it has to be. A name with dots is one key."""
    return name if _BARE.fullmatch(name) else quoted(name)


def dotted(name: str) -> str:
    """A setting's name, whose dots are those of tables."""
    return ".".join(key(part) for part in name.split("."))


def quoted(text: str) -> str:
    """A string, control characters escaped."""
    escaped = _CONTROL.sub(lambda found: _SHORT.get(found[0]) or f"\\u{ord(found[0]):04x}", text)
    return f'"{escaped}"'


def value(text: str) -> str:
    """A string that stands for itself: what would be a variable (`${NAME}`) is none."""
    return quoted(text.replace("${", "$${"))


def array(items: Iterable[str]) -> str:
    """A list of strings that stand for themselves."""
    return f"[{', '.join(value(item) for item in items)}]"


def node(given: Node) -> str:
    """Any value, tables inline."""
    if given.kind == "array":
        return f"[{', '.join(node(item) for item in given.items)}]"
    if given.kind == "table":
        pairs = ", ".join(f"{dotted(entry.key)} = {node(entry.value)}" for entry in given.entries)
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(given.value, bool):
        return "true" if given.value else "false"
    if isinstance(given.value, int | float):
        return str(given.value)
    return value(str(given.value))
