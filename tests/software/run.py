"""Runs suites of drivers and frameworks direct and through forebay: `make drivers ONLY=asyncpg,django`.

Ends with 0 if every suite passes alike but for what its file names, 1 if something else differs, 2 if a suite could not
be run. What each suite said is kept in `.cache/drivers/runs/NAME/direct` and `…/through`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from tests.software import sources, world
from tests.software.compare import compare
from tests.software.registry import SOFTWARE
from tests.software.report import document, kept, row, shown
from tests.software.shape import Results, Run, Software
from tests.software.world import Traffic

RUNS = sources.HOME / "runs"


def direct(software: Software, home: Path, folder: Path) -> Results:
    """The suite on PostgreSQL itself."""
    folder.mkdir(parents=True)
    programs = sources.clients(software.major)
    with world.server(software, folder / "world") as server:
        target = server.target.at(dbname=software.dbname, user=software.user)
        return software.execute(Run("direct", target, server, programs, home, folder))


def through(software: Software, home: Path, folder: Path) -> tuple[Results, Traffic]:
    """The suite through forebay."""
    folder.mkdir(parents=True)
    programs = sources.clients(software.major)
    with (
        world.server(software, folder / "world") as server,
        world.through(software, server, folder / "forebay") as (forebay, traffic),
    ):
        target = forebay.target.at(dbname=software.dbname, user=software.user)
        return software.execute(Run("through", target, server, programs, home, folder)), traffic


def both(software: Software) -> bool:
    """Runs a suite both ways and says what differs. Returns whether all is as it should be."""
    home = sources.prepared(software)
    folder = RUNS / software.name
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    one = direct(software, home, folder / "direct")
    other, traffic = through(software, home, folder / "through")
    comparison = compare(one, other, software.known)
    found = row(software, comparison, traffic, time.monotonic() - began)
    found.keep(folder)
    print(shown(found, comparison, traffic), flush=True)
    return comparison.is_good and not traffic.neighbours.wrongs


def chosen(words: str) -> list[Software]:
    """By name; all if none is given."""
    names = [word for word in words.replace(",", " ").split() if word]
    by_name = {software.name: software for software in SOFTWARE}
    if unknown := [name for name in names if name not in by_name]:
        raise SystemExit(f"there is no {', '.join(unknown)}; there are {', '.join(by_name)}")
    return [by_name[name] for name in names] or list(SOFTWARE)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names, with commas between them; none: all")
    parser.add_argument(
        "--page", type=Path, default=None, help="a page whose table is written anew, of what was run last"
    )
    given = parser.parse_args()
    status = 0
    for software in chosen(given.only):
        if lacking := sources.missing(software):
            print(f"{software.name}: not run, for there is no {', '.join(lacking)}", flush=True)
            status = 2
            continue
        try:
            status = status if both(software) else status or 1
        except (sources.Failed, OSError, AssertionError) as failed:
            print(f"{software.name}: could not be run: {failed}", flush=True)
            status = 2
    if given.page is not None:
        rows = [found for software in SOFTWARE if (found := kept(RUNS / software.name))]
        given.page.write_text(document(given.page.read_text(), rows))
    return status


if __name__ == "__main__":
    sys.exit(main())
