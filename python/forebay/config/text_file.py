"""Reads the files that settings stand in."""

from __future__ import annotations

from pathlib import Path

from forebay.config.finding import Report
from forebay.config.source import Place, Source, outside

CONFIG_BYTES_MAX = 16 << 20


def read_source(
    path: Path, shown: str, report: Report, *, named_at: Place | None = None, holds_secrets: bool = False
) -> Source | None:
    """The text of a file, or None after a report.

    named_at: where another file names this one; None: the user did.
    """
    place = named_at or outside(shown)
    try:
        with path.open("rb") as file:
            content = file.read(CONFIG_BYTES_MAX + 1)
        if len(content) > CONFIG_BYTES_MAX:
            cause = f"it is larger than {CONFIG_BYTES_MAX} bytes"
            report.add("unreadable_file", place, path=shown, cause=cause)
            return None
        return Source(shown, content.decode().removeprefix("\ufeff"), holds_secrets)
    except OSError as error:
        report.add("unreadable_file", place, path=shown, cause=error.strerror or error)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        report.add("not_text", outside(shown), cause=f"byte {error.start}, in line {line}")
    return None
