"""How a log line is written: as text, or as JSON. PgBouncer's lines have a module of their own."""

from __future__ import annotations

import json
import logging
import re
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
        self._clock = _Clock()

    def format(self, record: logging.LogRecord) -> str:
        head = f"time={self._clock.at(record.created)} level={_NAMES.get(record.levelno, 'info')}"
        fields: dict[str, Field] = getattr(record, "fields", {})
        tail = "".join([f" {key}={_quoted(value)}" for key, value in fields.items() if value is not None])
        return f"{head} event={_quoted(record.getMessage())}{tail}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line, keys in the order of the text form."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = _Clock()
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


class _Clock:
    """Writes times in UTC, and the second that many lines share once."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def at(self, seconds: float) -> str:
        milliseconds = int(seconds * 1000)
        second = milliseconds // 1000
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        return f"{self._text}{milliseconds % 1000:03}Z"


def _quoted(value: Field) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    text = str(value)[:_FIELD_CHARACTERS_MAX]
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
