"""A file of the highest timeline on which each cluster was seen to write, so that a restart does not forget it.

Without it a primary that was deposed is taken for the primary again, if forebay is started anew while the new one is
away. A file that can't be read or written stops nothing, and is told.

| the file | then |
|---|---|
| is not there | nothing is remembered |
| is not of this form | it is told, and put aside as FILE.broken |
| can't be read | it is told |
| can't be written | it is told, once until it can |
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from forebay.observe.log import event

NAME: Final = "clusters.json"
VERSION: Final = 1
_BYTES_MAX: Final = 1 << 22
_HINT: Final = "Until that is mended, a restart forgets which primaries were deposed."

# System identifier and timeline, by database.
Known = Mapping[str, tuple[int, int]]


class Memory:
    """What stands in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wanted: Known = {}
        self._written: Known = {}
        self._writing: asyncio.Task[None] | None = None
        self._is_told = False

    def read(self) -> Known:
        """What was kept last; nothing where it can't be read."""
        try:
            self._wanted = self._written = _parse(self._path)
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            aside = self._path.with_name(f"{self._path.name}.broken")
            with contextlib.suppress(OSError):
                self._path.replace(aside)
            event(logging.ERROR, "memory_broken", file=str(self._path), error=str(error), aside=str(aside),
                  hint="Which primaries were deposed before this start is not known.")  # fmt: skip
        except OSError as error:
            event(logging.ERROR, "memory_unreadable", file=str(self._path), error=error.strerror, hint=_HINT)
        return self._written

    def keep(self, known: Known) -> None:
        """Begins to write it, if it is other than what was written last."""
        self._wanted = dict(known)
        if self._wanted != self._written and (self._writing is None or self._writing.done()):
            self._writing = asyncio.ensure_future(self._write())

    async def flush(self) -> None:
        """Returns when all is written that can be."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)

    async def _write(self) -> None:
        while self._wanted != self._written:
            wanted = self._wanted
            try:
                # On another thread: a disk that hangs must not hold up what is found out.
                await asyncio.to_thread(_save, self._path, wanted)
            except OSError as error:
                if not self._is_told:
                    event(logging.ERROR, "memory_unwritable", file=str(self._path), error=error.strerror, hint=_HINT)
                self._is_told = True
                return
            self._written, self._is_told = wanted, False


def _parse(path: Path) -> Known:
    """Raises OSError, and what comes of a file of another form."""
    with path.open("rb") as file:
        words: dict[str, Any] = json.loads(file.read(_BYTES_MAX))
    if words["version"] != VERSION:
        raise ValueError(f"version {words['version']} is not {VERSION}")
    known = {str(name): (int(each["system"]), int(each["timeline"])) for name, each in words["clusters"].items()}
    if not all(0 <= system < 1 << 64 and 0 <= timeline < 1 << 32 for system, timeline in known.values()):
        raise ValueError("a number is out of its range")
    return known


def _save(path: Path, known: Known) -> None:
    """Whole or not at all, and on the disk. Raises OSError."""
    # The identifier as text: not all that read JSON have numbers of 64 bits.
    clusters = {name: {"system": str(system), "timeline": timeline} for name, (system, timeline) in known.items()}
    text = json.dumps({"version": VERSION, "clusters": clusters}, indent=1) + "\n"
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
