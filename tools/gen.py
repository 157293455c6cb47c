"""Writes all that is generated from spec/*.toml; with --check, says what is stale and fails.

Standard library only: it runs on a fresh clone, before anything is installed. Outputs are committed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from specgen import outputs  # noqa: E402  (the path above comes first)
from specgen.tables import SpecError  # noqa: E402


def main() -> int:
    """Returns the exit status: 0 fresh or written, 1 stale or a faulty table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    check: bool = parser.parse_args().check
    try:
        files = outputs(ROOT / "spec")
    except SpecError as error:
        print(f"spec: {error}", file=sys.stderr)
        return 1
    stale = []
    for name, text in files.items():
        path = ROOT / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{'stale' if check else 'wrote'}: {name}")
    if check and stale:
        print("run `make gen` and commit its result", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
