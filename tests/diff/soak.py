"""The differential test for hours: `python -m tests.diff.soak --out FOLDER --until 18:00`, again and again.

Turns of some minutes, each on servers of its own, take the PostgreSQL that has had the fewest programs. What they did
is added to files in the folder as they go, so that a run may be killed and gone on with. `--summary` tells of all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.diff import run, watch
from tests.harness import postgres

LEVELS = ("fast", "safe", "strict")

# Programs of a turn have numbers of their own, so that none is run twice.
NUMBERS_OF_TURN = 1_000_000

# Turns in a row that may fail to run at all.
FAILURES_MAX = 3

# Kinds of divergences after which a turn ends.
KINDS_MAX = 50


@dataclass
class Figures:
    """What was run under one label: PostgreSQL's major and the engine."""

    programs: int = 0
    steps: int = 0
    tls: int = 0
    superuser: int = 0
    seconds: float = 0.0
    clients: Counter[int] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    levels: Counter[str] = field(default_factory=Counter)
    pools: Counter[int] = field(default_factory=Counter)
    divergences: Counter[str] = field(default_factory=Counter)

    def add(self, line: dict[str, object]) -> None:
        """Adds a line of the file of figures."""
        self.programs += int(str(line["programs"]))
        self.steps += int(str(line["steps"]))
        self.tls += int(str(line.get("tls", 0)))
        self.superuser += int(str(line.get("superuser", 0)))
        self.seconds += float(str(line["seconds"]))
        for name in ("clients", "lengths", "pools"):
            counts = line[name]
            assert isinstance(counts, dict)
            getattr(self, name).update({int(key): count for key, count in counts.items()})
        for name in ("levels", "divergences"):
            getattr(self, name).update(line[name])

    def told(self) -> Iterator[str]:
        """In words."""
        rate, minutes = self.programs / max(self.seconds, 1), self.seconds / 60
        yield f"{self.programs:,} programs, {self.steps:,} steps, {rate:.1f} programs/s over {minutes:.0f} min"
        for name in ("levels", "pools", "clients", "lengths"):
            counts = sorted(getattr(self, name).items())
            yield f"  {name}: " + ", ".join(f"{key}: {count:,}" for key, count in counts)
        yield f"  over TLS: {self.tls:,}, as superuser: {self.superuser:,}"
        for what, count in self.divergences.most_common():
            yield f"  differed {count} times: {what}"


def engine() -> str:
    """Tells builds apart."""
    path = run.ROOT / "python" / "forebay" / "_engine.abi3.so"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def read(folder: Path) -> dict[str, Figures]:
    """All figures of a folder, by label."""
    found: dict[str, Figures] = defaultdict(Figures)
    path = folder / "figures.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        # The last line of a run that was killed may be half there.
        if line.endswith("}"):
            told = json.loads(line)
            found[told["label"]].add(told)
    return found


def summary(folder: Path) -> str:
    """What has been run, and what came of it."""
    found = read(folder)
    lines = []
    for label, figures in sorted(found.items()):
        path = _covered(folder, label)
        pairs = len(set(path.read_text().splitlines())) if path.exists() else 0
        lines += [f"{label}: {pairs} pairs covered", *(f"  {words}" for words in figures.told())]
    programs = sum(figures.programs for figures in found.values())
    seconds = sum(figures.seconds for figures in found.values())
    differed = sum(figures.divergences.total() for figures in found.values())
    rate = programs / max(seconds, 1)
    lines.append(f"all: {programs:,} programs, {differed} differed, {rate:.1f} programs/s over {seconds / 60:.0f} min")
    return "\n".join(lines)


def _covered(folder: Path, label: str) -> Path:
    return folder / f"covered-{label.replace(' ', '-')}.txt"


def turn(given: argparse.Namespace, major: int, seconds: int, tool: Path) -> int:
    """Runs programs on new servers. Returns how forebay-diff ended."""
    label = f"PostgreSQL {major} engine {engine()}"
    numbers = given.out / "turns.txt"
    count = len(numbers.read_text().splitlines()) if numbers.exists() else 0
    with numbers.open("a") as out:
        out.write(f"{count} {time.strftime('%F %T')} {label}\n")
    found = given.out / f"turn-{count}"
    setup = run.Setup(lanes=given.lanes, levels=LEVELS)
    words = [
        "run", "--seed", str(given.seed), "--first", str(count * NUMBERS_OF_TURN), "--programs", str(NUMBERS_OF_TURN),
        "--seconds", str(seconds), "--max-signatures", str(KINDS_MAX), "--out", str(found), "--label", label,
        "--covered", str(_covered(given.out, label)), "--figures", str(given.out / "figures.jsonl"),
    ]  # fmt: skip
    if given.pause is not None:
        words += ["--pause", str(given.pause)]
    with (
        tempfile.TemporaryDirectory(prefix="fbdiff-", ignore_cleanup_errors=True) as name,
        run.pair(major, setup, Path(name)) as (server, forebay),
        watch.watching(server, forebay, given.out / "waits.txt"),
    ):
        line = run.command_line(server, forebay, setup, words, tool)
        code = subprocess.run(line, cwd=run.ROOT, check=False).returncode
        unclean = run.unclean(forebay)
    for event in unclean[:20]:
        print(f"forebay's log: {event}")
    return max(code, int(bool(unclean)))


def soak(given: argparse.Namespace) -> int:
    """Turn after turn."""
    given.out.mkdir(parents=True, exist_ok=True)
    tool = (given.tool or run.build()).resolve()
    until, failures, worst = _moment(given.until), 0, 0
    while (left := until - time.time()) > 0 and failures < FAILURES_MAX:
        programs = {
            major: sum(f.programs for label, f in read(given.out).items() if label.startswith(f"PostgreSQL {major} "))
            for major in given.pg or sorted(postgres.RELEASES)
        }
        code = turn(given, min(programs, key=programs.__getitem__), int(min(left, given.seconds)), tool)
        failures = failures + 1 if code not in (0, 1) else 0
        worst = max(worst, code)
        sys.stdout.flush()
    print(summary(given.out))
    return worst


def _moment(clock: str) -> float:
    """The next time that it is so late, in seconds since 1970."""
    hour, minute = (int(part) for part in clock.split(":"))
    now = time.localtime()
    at = time.mktime((*now[:3], hour, minute, 0, 0, 0, -1))
    return at if at > time.time() else at + 86_400


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder for what is found and done")
    parser.add_argument("--summary", action="store_true", help="say what is in it, and run nothing")
    parser.add_argument("--until", default="23:59", metavar="HH:MM")
    parser.add_argument("--seconds", type=int, default=600, help="of a turn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pg", type=int, action="append", choices=sorted(postgres.RELEASES), help="both otherwise")
    parser.add_argument("--lanes", type=int, default=2, help="programs at a time")
    parser.add_argument("--pause", type=Path, default=None, help="begin no program while this file exists")
    parser.add_argument("--tool", type=Path, default=None, help="a built forebay-diff; cargo builds one otherwise")
    given = parser.parse_args()
    if given.summary:
        print(summary(given.out))
        return 0
    # What it has started ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run.keep_in_memory()
    return soak(given)


if __name__ == "__main__":
    sys.exit(main())
