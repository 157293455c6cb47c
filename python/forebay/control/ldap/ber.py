"""BER as LDAP uses it (RFC 4511, section 5.1): definite lengths only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

INTEGER: Final = 0x02
OCTETS: Final = 0x04
BOOLEAN: Final = 0x01
ENUMERATED: Final = 0x0A
SEQUENCE: Final = 0x30
SET: Final = 0x31
# Bytes of a length that are believed; a message is limited besides.
_LENGTH_BYTES_MAX: Final = 4


class BadMessage(Exception):
    """It is not BER, or not what LDAP allows."""


def element(tag: int, *contents: bytes) -> bytes:
    """An element with its length."""
    body = b"".join(contents)
    if len(body) < 0x80:
        return bytes((tag, len(body))) + body
    digits = len(body).to_bytes((len(body).bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(digits))) + digits + body


def integer(value: int, tag: int = INTEGER) -> bytes:
    """A number, at least 0."""
    return element(tag, value.to_bytes(value.bit_length() // 8 + 1))


def text(value: str, tag: int = OCTETS) -> bytes:
    """A text in UTF-8."""
    return element(tag, value.encode())


def head(data: bytes) -> tuple[int, int, int] | None:
    """Tag, bytes of the head and bytes of the contents of the element that data begin with; None: too few to tell."""
    if len(data) < 2:
        return None
    tag, first = data[0], data[1]
    if first < 0x80:
        return tag, 2, first
    digits = first & 0x7F
    if not 0 < digits <= _LENGTH_BYTES_MAX:
        raise BadMessage("a length is not definite, or too long")
    if len(data) < 2 + digits:
        return None
    return tag, 2 + digits, int.from_bytes(data[2 : 2 + digits])


def elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and contents of each element that data consist of. Raises BadMessage."""
    at = 0
    while at < len(data):
        found = head(data[at : at + 2 + _LENGTH_BYTES_MAX])
        if found is None or len(data) < at + found[1] + found[2]:
            raise BadMessage("an element is cut")
        tag, begin, size = found
        begin += at
        at = begin + size
        yield tag, data[begin:at]


def number(contents: bytes) -> int:
    """The value of a number's contents. Raises BadMessage."""
    if not 0 < len(contents) <= _LENGTH_BYTES_MAX:
        raise BadMessage("a number is too long, or empty")
    return int.from_bytes(contents, signed=True)
