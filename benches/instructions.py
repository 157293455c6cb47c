"""Instructions that a transaction costs in forebay-core, beside those written down in instructions.toml.

`make instructions` fails if one of them is off by more than 3 %: the count is the same however busy the machine is, so
a difference is one of the code. What costs more for a good reason, or less, is written down with `--write`. Figures of
another compiler, C library or kind of processor can't be held against the stored ones: that is said, and no failure.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tomllib
from pathlib import Path

STORED = Path(__file__).with_suffix(".toml")
ROOT = STORED.parents[1]

# How far a figure may be from the stored one, as a part of it.
TOLERANCE = 0.03

# What the bench prints where ptrace is not permitted.
NOT_COUNTED = "not counted"

# Flags of the processor by which glibc chooses among its memcpy, memchr and memcmp (sysdeps/x86_64/multiarch).
COPYING = {"avx2", "avx512bw", "avx512vl", "bmi2", "erms", "fsrm", "rtm"}

HEAD = """\
# Instructions of one transaction in forebay-core: a client's request relayed to a server, and the reply back.
# Counted by `make instructions`, written by `benches/instructions.py --write`.

"""

BENCH = ("cargo", "bench", "--quiet", "--package", "forebay-core", "--features", "fuzzing", "--bench", "instructions")


def circumstances() -> str:
    """What the count depends on beside the code: the compiler, and what the C library takes for copies and searches."""
    version = subprocess.run(["rustc", "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    library = " ".join(platform.libc_ver())
    told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    flags = next((line.split(":")[1].split() for line in told.splitlines() if line.startswith("flags")), [])
    return " ".join([version, platform.machine(), library, *sorted(COPYING & {*flags})])


def count() -> dict[str, int] | None:
    """Instructions by kind of transaction; None: this machine does not let them be counted."""
    told = subprocess.run([*BENCH, "--", "count"], check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout
    if told.strip() == NOT_COUNTED:
        return None
    return {kind: int(number) for kind, number in (line.split() for line in told.splitlines())}


def judge(counted: dict[str, int], stored: dict[str, int]) -> list[str]:
    """What is off, in words."""
    found = []
    for kind in sorted(counted.keys() | stored.keys()):
        now, then = counted.get(kind), stored.get(kind)
        if now is None or then is None:
            found.append(f"{kind}: stands on one side only")
        elif abs(now - then) > then * TOLERANCE:
            found.append(f"{kind}: {now} instructions, {now / then - 1:+.1%} of the stored {then}")
    return found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="stores what was counted")
    given = parser.parse_args()
    counted, by = count(), circumstances()
    if counted is None:
        print("not counted: ptrace is not permitted here")
        return 0
    if given.write:
        lines = [f'circumstances = "{by}"', "", "[instructions]", *(f"{kind} = {n}" for kind, n in counted.items())]
        STORED.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    stored = tomllib.loads(STORED.read_text(encoding="utf-8"))
    for kind, number in counted.items():
        print(f"{kind:10} {number:6}  {number / stored['instructions'].get(kind, number) - 1:+.1%}")
    if stored["circumstances"] != by:
        print(f"nothing to hold this against: it is of {by}, what is stored of {stored['circumstances']}")
        return 0
    found = judge(counted, stored["instructions"])
    for line in found:
        print(line, file=sys.stderr)
    if found:
        print("if that is meant: benches/instructions.py --write, and say why in the commit", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
