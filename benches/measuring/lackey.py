"""What valgrind's lackey writes of a program: each instruction, what memory it reads and writes, and which thread it is
of. Nothing is counted but what comes between `begin` and `end`.

Lines: `I  ADDRESS,SIZE` an instruction; ` L`, ` S`, ` M` the memory that it loads, stores or modifies; `SCHED[T]:
acquired lock` with --trace-sched=yes: from here on thread T runs, since valgrind runs one at a time.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

# Of a cache line.
LINE_BITS = 6
# Of what came before `begin`, enough to find which thread ran last.
TAIL_BYTES = 1 << 20
RUNS = re.compile(rb"SCHED\[(\d+)\]:\s+acquired lock")


@dataclass(slots=True)
class Touched:
    """A cache line, by thread and the place of the instruction that reads or writes it."""

    written: Counter[tuple[int, int]] = field(default_factory=Counter)
    read: Counter[tuple[int, int]] = field(default_factory=Counter)

    def is_shared(self) -> bool:
        """Whether one thread writes what another one reads or writes."""
        return bool(self.written) and len({thread for thread, _ in self.written.keys() | self.read.keys()}) > 1


class Trace:
    """The file that lackey writes to. What is traced must be at rest at `begin` and `end`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin = 0
        # By thread and place.
        self.executed: Counter[tuple[int, int]] = Counter()
        self.lines: defaultdict[int, Touched] = defaultdict(Touched)

    def forget(self) -> None:
        """Gives back what was written: gigabytes, of a start. lackey writes on where it was, behind a hole."""
        os.truncate(self._path, 0)

    def begin(self) -> None:
        """Counts from here on, and from nought."""
        self._begin = self._path.stat().st_size
        self.executed.clear()
        self.lines.clear()

    def end(self) -> None:
        """Counts what came since."""
        tail = max(0, self._begin - TAIL_BYTES)
        with self._path.open("rb") as opened:
            opened.seek(tail)
            before = opened.read(self._begin - tail)
            ran = RUNS.findall(before)
            self._count(opened, int(ran[-1]) if ran else 0)

    def _count(self, text: Iterable[bytes], running: int) -> None:
        place = 0
        for told in text:
            kind = told[:3]
            if kind == b"I  ":
                place = int(told[3 : told.index(b",")], 16)
                self.executed[running, place] += 1
            elif kind in (b" S ", b" M ", b" L "):
                address, size = told[3:].split(b",")
                at = int(address, 16)
                for number in range(at >> LINE_BITS, (at + int(size) - 1 >> LINE_BITS) + 1):
                    line = self.lines[number]
                    (line.read if kind == b" L " else line.written)[running, place] += 1
            elif found := RUNS.search(told):
                running = int(found[1])
