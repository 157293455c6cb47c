"""Reads the files that settings stand in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from forebay.config.finding import Report
from forebay.config.source import Place, Source, outside

CONFIG_BYTES_MAX = 16 << 20


@dataclass(frozen=True, slots=True)
class FileText:
    """The text of a file. changed_at: when the file was last changed (ns), looked up before it was read."""

    source: Source
    changed_at: int | None


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one load of a configuration.

    before: texts that are taken as they are, whatever their files hold by now. used: all that the load made use of.
    """

    before: Mapping[Path, FileText] = field(default_factory=dict)
    used: dict[Path, FileText] = field(default_factory=dict)

    def source(
        self, path: Path, shown: str, report: Report, *, named_at: Place | None = None, holds_secrets: bool = False
    ) -> Source | None:
        """The text of a file, or None after a report; as `read_source`."""
        text = self.before.get(path)
        if text is None:
            at = changed_at(path)
            source = read_source(path, shown, report, named_at=named_at, holds_secrets=holds_secrets)
            if source is None:
                return None
            text = FileText(source, at)
        self.used[path] = text
        return text.source


def changed_at(path: Path) -> int | None:
    """When a file was last changed (ns); None where that can't be told."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


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
