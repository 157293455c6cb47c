#!/usr/bin/env python3
"""publish: docs/explanation/benchmarks.md and its plots, from the raw results in published/.

  publish.py           writes both; plots need matplotlib (`pip install .[bench]`)
  publish.py --check   says whether the tables of the page are those of the raw results

Every file published/NAME.jsonl is what an order of poolbench.py wrote with --out. Its tables stand in the page between
`<!-- results: NAME -->` and `<!-- /results -->`; prose stands outside and is written by hand. Nothing is left out of
a table but what benches/measuring/report.py leaves out and says so.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from measuring import report  # noqa: E402  (the path above comes first)

PUBLISHED = HERE / "published"
PAGE = HERE.parent / "docs" / "explanation" / "benchmarks.md"
PLOTS = PAGE.parent / "benchmarks"
BASE, QUIET = "pgbouncer", 0.35
PLACE = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- /results -->)", re.DOTALL)


def written(page: str, folder: Path = PUBLISHED) -> str:
    """The page with the tables of all results. Raises ValueError where a place has no results, or results no place."""
    places = [name for _, name, _ in PLACE.findall(page)]
    files = {path.stem for path in folder.glob("*.jsonl")}
    if set(places) != files:
        raise ValueError(f"the page has places for {sorted(places)}, there are results of {sorted(files)}")

    def tables(found: re.Match[str]) -> str:
        text = report.report(report.read(folder / f"{found[2]}.jsonl"), BASE, QUIET).strip()
        return f"{found[1]}\n{text}\n\n{found[3]}"

    return PLACE.sub(tables, page)


def main() -> int:
    """Returns the exit status: 0 written or fresh, 1 stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is stale")
    is_checking: bool = parser.parse_args().check
    before = PAGE.read_text(encoding="utf-8")
    after = written(before)
    if is_checking:
        if before != after:
            print(f"stale: {PAGE}; run `make publish` and commit its result", file=sys.stderr)
        return int(before != after)
    PAGE.write_text(after, encoding="utf-8")
    from measuring import plots

    plots.draw(PUBLISHED, PLOTS, base=BASE, quiet=QUIET)
    return 0


if __name__ == "__main__":
    sys.exit(main())
