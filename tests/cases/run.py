"""Plays all cases through forebay at each level, or through other poolers, and says how many are answered otherwise.

`make cases`; `make cases CASES_ARGS='--pooler pgbouncer --bin FOLDER'`, with a table of tests/cases/poolers.toml; or
`make cases CASES_ARGS='--server-port 5433 --at 127.0.0.1:6432'` for one that runs before the port given.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.cases import CASES, GROUPS, LEVELS, Case
from tests.cases.play import Place, database, play, pools
from tests.cases.poolers import PATIENCE_S, Pooler, Running, program_folder
from tests.harness import pooler, postgres
from tests.harness.certificates import Authority
from tests.harness.pooler import Variant, configuration
from tests.harness.target import Target

POOLERS = Path(__file__).parent / "poolers.toml"


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a configuration. otherwise: cases that were answered otherwise, with what came first."""

    name: str
    settings: str
    otherwise: dict[str, str]

    def counts(self) -> list[int]:
        """By group, then all."""
        groups = [sum(case.group == group and case.name in self.otherwise for case in CASES) for group in GROUPS]
        return [*groups, sum(groups)]


def played(case: Case, place: Place, direct: Target) -> list[object]:
    """What its clients saw; a client that could not even log in is told of, too."""
    try:
        return play(case, place, direct)
    except (OSError, AssertionError) as wrong:
        return [("", f"not played: {wrong}")]


def first_difference(given: list[object], wanted: list[object]) -> str:
    """In place of what came what; empty: they are the same."""
    for one, other in zip([*given, None], [*wanted, None], strict=False):
        if one != other:
            return f"{one} in place of {other}"
    return ""


def otherwise(wanted: dict[str, list[object]], at: Callable[[Case], list[object]]) -> dict[str, str]:
    """Cases that are answered otherwise than `wanted`."""
    found = {case.name: first_difference(at(case), wanted[case.name]) for case in CASES}
    return {name: how for name, how in found.items() if how}


def forebay_rows(server: postgres.Postgres, direct: Target, wanted: dict[str, list[object]], folder: Path) -> list[Row]:
    """forebay, at each level."""
    variant = Variant("auto", 1)
    sections = configuration(server, variant, databases=pools())
    rows = []
    with pooler.running(folder / "forebay", sections, variant) as forebay:
        base = forebay.target.at(timeout_s=PATIENCE_S)
        for level in LEVELS:

            def place(servers: int, level: str = level) -> Target:
                return base.at(dbname=f"{level}_{servers}")

            rows.append(Row("forebay", level, otherwise(wanted, lambda case: played(case, place, direct))))
    return rows


def pooler_row(other: Pooler | Running, settings: str, direct: Target, wanted: dict[str, list[object]]) -> Row:
    """Another pooler, started anew for each case where it is started here."""

    def at(case: Case) -> list[object]:
        with (
            tempfile.TemporaryDirectory(prefix="fbcase-", ignore_cleanup_errors=True) as name,
            other.running(Path(name), case.servers) as target,
        ):
            return played(case, lambda _: target, direct)

    return Row(other.version(), settings, otherwise(wanted, at))


def table(rows: list[Row]) -> str:
    """As the page has it."""
    sizes = [sum(case.group == group for case in CASES) for group in GROUPS]
    heads = [f"{title}, of {size}" for title, size in zip(GROUPS.values(), sizes, strict=True)]
    lines = [f"| | {' | '.join(heads)} | all, of {len(CASES)} |", "|" + "---|" * (len(heads) + 2)]
    lines += [f"| {row.name}, {row.settings} | {' | '.join(map(str, row.counts()))} |" for row in rows]
    return "\n".join(lines)


def printed(row: Row, *, as_toml: bool) -> str:
    """For people, or as spec/features.toml keeps it."""
    if as_toml:
        names = "".join(f'    "{name}",\n' for name in row.otherwise)
        return f'[[pooler]]\nname = "{row.name}"\nsettings = "{row.settings}"\notherwise = [\n{names}]\n'
    return f"{row.name}, {row.settings}:\n" + "".join(f"  {name}: {how}\n" for name, how in row.otherwise.items())


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pg", type=int, choices=sorted(postgres.RELEASES), default=18)
    parser.add_argument("--pooler", action="append", default=[], help="in place of forebay; may be repeated")
    parser.add_argument("--bin", default=None, help="the folder of its program")
    parser.add_argument("--poolers", type=Path, default=POOLERS, help="the file with its table")
    parser.add_argument("--at", default=None, metavar="HOST:PORT", help="a pooler that runs, in place of forebay")
    parser.add_argument("--server-port", type=int, default=None, help="where PostgreSQL listens; free ones otherwise")
    parser.add_argument("--toml", action="store_true", help="print rows as spec/features.toml keeps them")
    given = parser.parse_args()
    specs = tomllib.loads(given.poolers.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="fbcases-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        settings = {"port": str(given.server_port)} if given.server_port else {}
        with postgres.running(given.pg, Authority(folder), **settings) as server, database(server) as direct:
            wanted = {case.name: play(case, lambda _: direct, direct) for case in CASES}
            rows: list[Row] = []
            if given.at:
                host, _, port = given.at.rpartition(":")
                rows.append(pooler_row(Running(host, int(port)), "as it runs", direct, wanted))
            for one in given.pooler:
                other = Pooler(specs[one], *program_folder(given.bin, folder), server.port)
                rows.append(pooler_row(other, specs[one]["settings"], direct, wanted))
            rows = rows or forebay_rows(server, direct, wanted, folder)
    for row in rows:
        print(printed(row, as_toml=given.toml))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
