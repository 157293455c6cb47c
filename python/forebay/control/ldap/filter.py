"""Search filters as text (RFC 4515) in BER."""

from __future__ import annotations

import re
from typing import Final

from forebay.control.ldap import ber

_AND, _OR, _NOT, _EQUAL, _SUBSTRINGS, _GREATER, _LESS, _PRESENT, _APPROX = range(0xA0, 0xA9)
_PRESENT = 0x87
_DEPTH_MAX: Final = 16
_ITEM: Final = re.compile(r"([A-Za-z0-9.;-]+)(=|>=|<=|~=)((?:[^()\\\0]|\\[0-9A-Fa-f]{2})*)", re.ASCII)
_COMPARED: Final = {"=": _EQUAL, ">=": _GREATER, "<=": _LESS, "~=": _APPROX}


class BadFilter(Exception):
    """The text is no filter."""


def escaped(value: str) -> str:
    """A value that means itself in a filter."""
    return "".join(f"\\{ord(sign):02x}" if sign in "*()\\\0" else sign for sign in value)


def encode(text: str) -> bytes:
    """The filter; it may stand without its outer parentheses. Raises BadFilter."""
    text = text.strip()
    filtered, rest = _filter(text if text.startswith("(") else f"({text})", 0)
    if rest:
        raise BadFilter("something follows the filter")
    return filtered


def _filter(text: str, depth: int) -> tuple[bytes, str]:
    if depth > _DEPTH_MAX:
        raise BadFilter("it is nested too deep")
    if not text.startswith("("):
        raise BadFilter("a parenthesis is missing")
    sign, rest = text[1:2], text[1:]
    if sign == "&":
        encoded, rest = _several(rest[1:], _AND, depth)
    elif sign == "|":
        encoded, rest = _several(rest[1:], _OR, depth)
    elif sign == "!":
        inner, rest = _filter(rest[1:], depth + 1)
        encoded = ber.element(_NOT, inner)
    else:
        found = _ITEM.match(rest)
        if found is None:
            raise BadFilter("a comparison can't be read")
        encoded, rest = _item(found[1], found[2], found[3]), rest[found.end() :]
    if not rest.startswith(")"):
        raise BadFilter("a parenthesis is not closed")
    return encoded, rest[1:]


def _several(rest: str, tag: int, depth: int) -> tuple[bytes, str]:
    parts = []
    while rest.startswith("("):
        part, rest = _filter(rest, depth + 1)
        parts.append(part)
    return ber.element(tag, *parts), rest


def _item(attribute: str, comparison: str, value: str) -> bytes:
    if comparison == "=" and value == "*":
        return ber.text(attribute, _PRESENT)
    if comparison == "=" and "*" in value:
        first, *middle, last = value.split("*")
        parts = [ber.element(0x80, _bytes(first))] if first else []
        parts += [ber.element(0x81, _bytes(part)) for part in middle if part]
        parts += [ber.element(0x82, _bytes(last))] if last else []
        return ber.element(_SUBSTRINGS, ber.text(attribute), ber.element(ber.SEQUENCE, *parts))
    return ber.element(_COMPARED[comparison], ber.text(attribute), ber.element(ber.OCTETS, _bytes(value)))


def _bytes(value: str) -> bytes:
    return re.sub(rb"\\([0-9A-Fa-f]{2})", lambda found: bytes.fromhex(found[1].decode()), value.encode())
