"""Writes the lists of PostgreSQL's own objects that forebay-sql knows, as running servers tell them.

Run by hand when a new major is supported: `python tools/builtin_names.py DSN DSN …`, one fresh server a major. What
it adds to functions.txt must be reviewed: a function that leaves something in its session, or runs what its arguments
tell, gets a row in spec/functions.toml, which keeps it out of the list. tests/scenarios/test_catalogue.py compares the
lists with the servers of the test matrix.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "crates/forebay-sql/src/builtin"

# Objects with greater numbers are somebody's own. (PostgreSQL, FirstNormalObjectId)
QUERIES = {
    "functions": "select distinct proname::text from pg_proc where oid < 16384",
    "operators": "select distinct oprname::text from pg_operator where oid < 16384",
    "types": "select distinct typname::text from pg_type where oid < 16384 and typtype <> 'c' and typname !~ '^_'",
    "relations": "select distinct relname::text from pg_class where oid < 16384 and relkind in ('r', 'v', 'p', 'S')",
    # Words that no function can be named by without quotes; those of category T can, and are in functions.txt then.
    "keywords": "select word from pg_get_keywords() where catcode <> 'U'",
}


def exceptions() -> set[str]:
    """Functions that have a row of their own."""
    document = tomllib.loads((ROOT / "spec/functions.toml").read_text(encoding="utf-8"))
    return {name for row in document["function"] for name in row["names"]}


def names(kind: str, connection: psycopg.Connection) -> set[str]:
    """What a server has of a kind."""
    found = {name for (name,) in connection.execute(QUERIES[kind])}  # type: ignore[call-overload]
    return found - exceptions() if kind == "functions" else found


def main(dsns: list[str]) -> int:
    """Writes every list; returns the exit status."""
    if not dsns:
        print(__doc__, file=sys.stderr)
        return 2
    connections = [psycopg.connect(dsn) for dsn in dsns]
    for kind in QUERIES:
        found = set().union(*(names(kind, connection) for connection in connections))
        (FOLDER / f"{kind}.txt").write_text("".join(f"{name}\n" for name in sorted(found)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
