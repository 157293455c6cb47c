"""How a log line is written: as text, or as JSON. PgBouncer's lines have a module of their own."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

Field = str | int | float | bool | None

_NAMES: Final = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warn",
    logging.ERROR: "error",
    logging.CRITICAL: "error",
}
_FIELD_CHARACTERS_MAX: Final = 4096
# ASCII that can be printed, without space, quote, = and backslash.
_PLAIN: Final = re.compile(r"[!#-<>-\[\]-~]+")


class TextFormatter(logging.Formatter):
    """`time=… level=… event=… key=value …`; values with spaces, quotes or line ends are quoted as in JSON."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = Clock(_in_utc)

    def format(self, record: logging.LogRecord) -> str:
        head = f"time={self._clock.at(record.created)} level={_NAMES.get(record.levelno, 'info')}"
        fields: dict[str, Field] = getattr(record, "fields", {})
        tail = "".join([f" {key}={_quoted(value)}" for key, value in fields.items() if value is not None])
        return f"{head} event={_quoted(record.getMessage())}{tail}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line, keys in the order of the text form."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = Clock(_in_utc)
        self._encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

    def format(self, record: logging.LogRecord) -> str:
        flat: dict[str, Field] = {
            "time": self._clock.at(record.created),
            "level": _NAMES.get(record.levelno, "info"),
            "event": record.getMessage(),
        }
        fields: dict[str, Field] = getattr(record, "fields", {})
        flat.update((key, value) for key, value in fields.items() if value is not None)
        return self._encode(flat)


class Clock:
    """Writes times to the millisecond, and the second that many lines share once.

    write: of a second since 1970, what stands before the milliseconds and behind them.
    """

    __slots__ = ("_second", "_texts", "_write")

    def __init__(self, write: Callable[[int], tuple[str, str]]) -> None:
        self._write = write
        self._second = -1
        self._texts = ("", "")

    def at(self, seconds: float) -> str:
        """The time that many seconds after the beginning of 1970."""
        milliseconds = int(seconds * 1000)
        second = milliseconds // 1000
        if second != self._second:
            self._second, self._texts = second, self._write(second)
        return f"{self._texts[0]}{milliseconds % 1000:03}{self._texts[1]}"


def _in_utc(second: int) -> tuple[str, str]:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S."), "Z"


def _quoted(value: Field) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    text = str(value)[:_FIELD_CHARACTERS_MAX]
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
