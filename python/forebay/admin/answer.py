"""What a command answers, and its encoding as PostgreSQL backend messages.

The only place that knows the wire format on the Python side. The engine adds ReadyForQuery.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from forebay._generated.errors import ForebayError

Value = str | int | None
Column = tuple[str, str]

# Type, object id and size, as pg_type has them.
TYPES: Final = {"text": (25, -1), "int4": (23, 4), "int8": (20, 8), "numeric": (1700, -1)}
ROW_BYTES_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Notice:
    """A notice shown before the command's end."""

    message: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns; a column is (name, type)."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command that worked says: an optional table, notices, and the command tag."""

    tag: str
    table: Table | None = None
    notices: Sequence[Notice] = field(default_factory=tuple)

    def encode(self) -> bytes:
        """RowDescription, DataRows, NoticeResponses and CommandComplete."""
        parts = [_notice(notice) for notice in self.notices]
        if self.table is not None:
            parts.append(_row_description(self.table.columns))
            parts.extend(_data_row(row) for row in self.table.rows)
        parts.append(_message(b"C", _text(self.tag)))
        return b"".join(parts)


def encode_error(error: ForebayError) -> bytes:
    """An ErrorResponse."""
    return _message(b"E", _report(error.severity, error.sqlstate, error.message, error.detail, error.hint))


def encode_empty() -> bytes:
    """EmptyQueryResponse."""
    return _message(b"I", b"")


def _notice(notice: Notice) -> bytes:
    return _message(b"N", _report("NOTICE", "00000", notice.message, notice.detail, None))


def _report(severity: str, sqlstate: str, message: str, detail: str | None, hint: str | None) -> bytes:
    fields = (("S", severity), ("V", severity), ("C", sqlstate), ("M", message), ("D", detail), ("H", hint))
    return b"".join(key.encode() + _text(value) for key, value in fields if value is not None) + b"\0"


def _row_description(columns: Sequence[Column]) -> bytes:
    parts = [struct.pack("!h", len(columns))]
    for name, kind in columns:
        oid, size = TYPES[kind]
        parts.append(_text(name) + struct.pack("!ihihih", 0, 0, oid, size, -1, 0))
    return _message(b"T", b"".join(parts))


def _data_row(row: Sequence[Value]) -> bytes:
    return _message(b"D", struct.pack("!h", len(row)) + b"".join(_values(row)))


def _values(row: Iterable[Value]) -> Iterable[bytes]:
    for value in row:
        if value is None:
            yield struct.pack("!i", -1)
        else:
            text = str(value).encode()[:ROW_BYTES_MAX]
            yield struct.pack("!i", len(text)) + text


def _text(value: str) -> bytes:
    # A zero byte would end the text early and shift every field behind it.
    return value.encode().replace(b"\0", b" ") + b"\0"


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body
