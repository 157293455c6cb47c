"""Durations and sizes: text to microseconds and bytes, and back."""

from __future__ import annotations

import re

_MICROSECONDS = {"d": 86_400_000_000, "h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1_000, "us": 1}
_BYTES = {"GB": 1 << 30, "MB": 1 << 20, "KB": 1 << 10, "B": 1}

_DURATION_PART = re.compile(r"(\d{1,18})(?:\.(\d{1,9}))?\s*(us|ms|s|min|m|h|d)\s*", re.ASCII)
_SIZE = re.compile(r"(\d{1,18})\s*(B|[KMG]i?B)", re.ASCII | re.IGNORECASE)


def duration_us(text: str) -> int | None:
    """Microseconds of "500ms", "5s", "1.5h" or "1h30m"; None where `text` is no duration.

    Units come from large to small, each once; "0" needs none.
    """
    text = text.strip()
    if text == "0":
        return 0
    total, position, smallest = 0, 0, None
    while position < len(text):
        part = _DURATION_PART.match(text, position)
        if part is None:
            return None
        whole, fraction, unit = part[1], part[2] or "", "m" if part[3] == "min" else part[3]
        size = _MICROSECONDS[unit]
        if smallest is not None and size >= smallest:
            return None
        numerator = int(whole + fraction) * size
        if numerator % 10 ** len(fraction):
            return None
        total, position, smallest = total + numerator // 10 ** len(fraction), part.end(), size
    return total if position else None


def duration_text(us: int) -> str:
    """The shortest text of so many microseconds, such as "1h30m"."""
    if us == 0:
        return "0s"
    out, rest = "", us
    for unit, size in _MICROSECONDS.items():
        count, rest = divmod(rest, size)
        out += f"{count}{unit}" if count else ""
    return out


def size_bytes(text: str) -> int | None:
    """Bytes of "512B", "16KB" or "1GB" (a KB is 1,024); None where `text` is no size. "0" needs no unit."""
    text = text.strip()
    if text == "0":
        return 0
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    return int(match[1]) * _BYTES[match[2].upper().replace("I", "")]


def size_text(size: int) -> str:
    """The text of so many bytes in the largest unit that keeps it whole."""
    unit = next((unit for unit, bytes_ in _BYTES.items() if size and size % bytes_ == 0), "B")
    return f"{size // _BYTES[unit]}{unit}"
