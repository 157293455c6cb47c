"""The proof that the differential test can fail: bugs are planted in forebay one by one, and each has to be found.

`make diff-planted`, or `python -m tests.diff.planted --bug pin-ignored`. A build with the bugs in it lies in a folder
of its own. Without the environment variable that names a bug it is as any other, and must find nothing then.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.diff import run
from tests.harness import postgres
from tests.harness.postgres import Postgres

# Of a build with bugs: never where the package is installed from.
FOLDER = run.ROOT / "target" / "planted"

# A bug that does not show in so many programs is not found.
PROGRAMS_MAX = 2000

LEVELS = ("safe", "strict")

# Programs at a time.
LANES = 2

# Bugs that sessions show. The simulator finds the others: they need lost servers, or memory that is counted.
BUGS = (
    "cancel-to-wrong-client",
    "checkin-in-transaction",
    "custom-unmet",
    "functions-unseen",
    "leaked-parameter",
    "left-unnoted",
    "name-of-failed-prepare",
    "notification-twice",
    "pin-ignored",
    "pin-never-released",
    "probe-ignored",
    "probe-of-another",
    "reply-to-wrong-client",
    "reset-fails-unseen",
    "reset-forgets-cursors",
    "reset-forgets-locks",
    "reset-forgets-role",
    "reset-forgets-sequences",
    "reset-forgets-temp",
    "reset-skipped-in-transaction",
    "rollback-to-undoes-all",
    "rollback-undoes-all",
    "server-goes-on-listening",
    "server-handed-out-twice",
    "server-never-cleaned",
    "stale-statement",
    "start-not-restored",
    "statement-without-environment",
    "sync-in-copy-counted",
)


# Faults that forebay has to bear so that nobody notices.
FAULTS = ("reset-fails",)


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a planted bug. programs: how many were run until it showed; None: it did not."""

    bug: str
    programs: int | None
    what: str
    seconds: float


def build() -> Path:
    """Builds forebay with the bugs in it and returns the folder that holds the package."""
    wheels, site = FOLDER / "wheels", FOLDER / "site"
    for old in wheels.glob("*.whl"):
        old.unlink()
    maturin = Path(sys.executable).with_name("maturin")
    subprocess.run(
        [maturin, "build", "-q", "--profile", "quick", "--features", "planted-bugs", "--compatibility", "linux",
         "--out", wheels],
        cwd=run.ROOT, check=True,
    )  # fmt: skip
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)
    return site


def known(site: Path) -> set[str]:
    """Names of all bugs that can be planted in a build."""
    words = "from forebay import _engine; print(*_engine.planted_bugs())"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", words], env=environment, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@dataclass(frozen=True, slots=True)
class Bench:
    """Where bugs are planted. site: the build with bugs; tool: forebay-diff; seed: of the programs."""

    site: Path
    tool: Path
    server: Postgres
    folder: Path
    seed: int

    def differ(self, bug: str | None, *words: str) -> str:
        """What the differential test says of the build with a bug planted, or without one."""
        environment = {"PYTHONPATH": str(self.site)} | ({"FOREBAY_PLANT": bug} if bug else {})
        setup = run.Setup(lanes=LANES, levels=LEVELS, environment=environment)
        folder = self.folder / (bug or "none")
        with run.pooler(self.server, setup, folder) as forebay:
            words = (
                "run",
                "--seed",
                str(self.seed),
                "--shrink",
                "no",
                "--out",
                str(folder),
                *words,
            )
            line = run.command_line(self.server, forebay, setup, words, self.tool)
            done = subprocess.run(line, cwd=run.ROOT, capture_output=True, text=True, check=False)
            said = forebay.log_path.read_text(errors="replace")
        if (f"planted {bug};" in said) != (bug is not None):
            raise RuntimeError(f"the build was not the one that was asked for:\n{said[:2000]}")
        return done.stdout + done.stderr

    def look_for(self, bug: str, programs_max: int) -> Finding:
        """Plants a bug and runs programs until it shows."""
        since = time.monotonic()
        said = self.differ(bug, "--max-signatures", "1", "--programs", str(programs_max))
        found = re.search(r"^new: (?P<what>.*): program (?P<number>\d+), ", said, re.MULTILINE)
        # A bug may also end the tool's run, when nobody is served any more.
        found = found or re.search(r"^forebay-diff: program (?P<number>\d+): (?P<what>.*)$", said, re.MULTILINE)
        took = time.monotonic() - since
        if found is None:
            return Finding(bug, None, said.strip().rpartition("\n")[2], took)
        return Finding(bug, int(found["number"]) + 1, found["what"], took)


def table(findings: Iterable[Finding]) -> str:
    """As documents have it."""
    lines = ["| planted bug | programs | shows as |", "|---|---|---|"]
    for finding in findings:
        programs = "not found" if finding.programs is None else str(finding.programs)
        lines.append(f"| `{finding.bug}` | {programs} | {finding.what} |")
    return "\n".join(lines)


def prove(bench: Bench, bugs: Sequence[str], programs_max: int) -> bool:
    """Looks for each bug, then for a difference in the same programs without one. Returns whether that is a proof."""
    findings = []
    for bug in bugs:
        findings.append(bench.look_for(bug, programs_max))
        print(f"{bug}: {findings[-1].programs} programs, {findings[-1].seconds:.0f} s", flush=True)
    print(table(findings))
    needed = [finding.programs for finding in findings if finding.programs is not None]
    programs = str(max(needed, default=1))
    is_proof = len(needed) == len(findings)
    for fault in (None, *FAULTS):
        said = bench.differ(fault, "--programs", programs)
        print(f"{fault or 'without a bug'}: {said.strip().splitlines()[-1]}")
        is_proof &= " 0 kinds of divergences" in said
    return is_proof


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bug", action="append", choices=sorted(BUGS), help="may be repeated; all of them otherwise")
    parser.add_argument("--pg", type=int, choices=sorted(postgres.RELEASES), default=18)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--programs", type=int, default=PROGRAMS_MAX, help="most programs for one bug")
    parser.add_argument("--site", type=Path, default=None, help="a build with bugs; one is made otherwise")
    given = parser.parse_args()
    run.keep_in_memory()
    site, tool = (given.site or build()).resolve(), run.build()
    if unknown := set(BUGS) - known(site):
        raise SystemExit(f"no such bugs: {unknown}")
    with tempfile.TemporaryDirectory(prefix="fbplant-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with run.database(given.pg, run.Setup(lanes=LANES), folder / "servers") as server:
            is_proof = prove(Bench(site, tool, server, folder, given.seed), given.bug or BUGS, given.programs)
    return 0 if is_proof else 1


if __name__ == "__main__":
    sys.exit(main())
