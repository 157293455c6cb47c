"""What a command answers, and its encoding as PostgreSQL backend messages.

The only place that knows the wire format on the Python side. The engine adds ReadyForQuery.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from forebay._generated.errors import ForebayError, console_syntax

Value = str | int | None
Column = tuple[str, str]
Encoder = Callable[[str | int], bytes]

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

    def encode(self, formats: Sequence[int] = (), *, is_described: bool = False) -> bytes:
        """RowDescription, DataRows, NoticeResponses and CommandComplete.

        formats: of columns, as Bind gives them: none for text, one for all columns, or one for each; 0 text, 1 binary.
        is_described: the RowDescription has been sent before.
        """
        parts = [encode_notice(notice) for notice in self.notices]
        if self.table is not None:
            of_columns = formats_of(self.table.columns, formats)
            if not is_described:
                parts.append(_row_description(self.table.columns, of_columns))
            kinds = (kind for _, kind in self.table.columns)
            encoders = [_ENCODERS[kind] if form else _text_value for kind, form in zip(kinds, of_columns, strict=True)]
            parts.extend(_data_row(row, encoders) for row in self.table.rows)
        parts.append(_message(b"C", _text(self.tag)))
        return b"".join(parts)


def formats_of(columns: Sequence[Column], formats: Sequence[int]) -> Sequence[int]:
    """A format for each column. Raises ForebayError where there are more or fewer."""
    if len(formats) <= 1:
        return [formats[0] if formats else 0] * len(columns)
    if len(formats) != len(columns):
        raise console_syntax(cause=f"{len(formats)} formats were given for {len(columns)} columns")
    return formats


def encode_description(columns: Sequence[Column] | None, formats: Sequence[int]) -> bytes:
    """RowDescription, or NoData for a statement without rows."""
    return _message(b"n", b"") if columns is None else _row_description(columns, formats_of(columns, formats))


def encode_error(error: ForebayError, *, in_pgbouncers_words: bool = False) -> bytes:
    """An ErrorResponse."""
    message = (error.pgbouncer if in_pgbouncers_words else None) or error.message
    return _message(b"E", _report(error.severity, error.sqlstate, message, error.detail, error.hint))


def encode_empty() -> bytes:
    """EmptyQueryResponse."""
    return _message(b"I", b"")


def encode_notice(notice: Notice) -> bytes:
    """A NoticeResponse."""
    return _message(b"N", _report("NOTICE", "00000", notice.message, notice.detail, None))


def _report(severity: str, sqlstate: str, message: str, detail: str | None, hint: str | None) -> bytes:
    fields = (("S", severity), ("V", severity), ("C", sqlstate), ("M", message), ("D", detail), ("H", hint))
    return b"".join(key.encode() + _text(value) for key, value in fields if value is not None) + b"\0"


def _row_description(columns: Sequence[Column], formats: Sequence[int]) -> bytes:
    parts = [struct.pack("!h", len(columns))]
    for (name, kind), form in zip(columns, formats, strict=True):
        oid, size = TYPES[kind]
        parts.append(_text(name) + struct.pack("!ihihih", 0, 0, oid, size, -1, form))
    return _message(b"T", b"".join(parts))


def _data_row(row: Sequence[Value], encoders: Sequence[Encoder]) -> bytes:
    return _message(b"D", struct.pack("!h", len(row)) + b"".join(_values(row, encoders)))


def _values(row: Sequence[Value], encoders: Sequence[Encoder]) -> Iterable[bytes]:
    for value, encoder in zip(row, encoders, strict=True):
        if value is None:
            yield struct.pack("!i", -1)
        else:
            encoded = encoder(value)
            yield struct.pack("!i", len(encoded)) + encoded


def _text_value(value: str | int) -> bytes:
    return str(value).encode()[:ROW_BYTES_MAX]


def _numeric(value: str | int) -> bytes:
    """Digits to the base of 10,000, as numeric_recv of PostgreSQL reads them."""
    number = Decimal(str(value))
    scale = max(0, -int(number.as_tuple().exponent))
    whole, fraction = f"{abs(number):.{scale}f}".partition(".")[::2]
    whole = whole.zfill(-(-len(whole) // 4) * 4)
    fraction = fraction.ljust(-(-len(fraction) // 4) * 4, "0")
    text = whole + fraction
    digits = [int(text[at : at + 4]) for at in range(0, len(text), 4)]
    sign = 0x4000 if number < 0 else 0
    return struct.pack(f"!hhHh{len(digits)}h", len(digits), len(whole) // 4 - 1, sign, scale, *digits)


_ENCODERS: Final[dict[str, Encoder]] = {
    "text": _text_value,
    "int4": lambda value: struct.pack("!i", int(value)),
    "int8": lambda value: struct.pack("!q", int(value)),
    "numeric": _numeric,
}


def _text(value: str) -> bytes:
    # A zero byte would end the text early and shift every field behind it.
    return value.encode().replace(b"\0", b" ") + b"\0"


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body
