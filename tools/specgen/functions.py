"""functions.toml: PostgreSQL's own functions that leave something behind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from specgen.rust import HEADER
from specgen.tables import fields, read, refuse_duplicates, require

TRACES = frozenset(
    {
        *("ANY_SETTING", "LOCAL_SETTING", "LOCK", "LISTEN", "SEQUENCE", "READS_SEQUENCE", "SEED", "LIBRARY", "SCHEMA"),
        *("WRITES", "NOTIFY", "OPAQUE", "PRIMARY"),
    }
)

# Strings and comments, which stay as they are, and what is looked up through search_path unless it is qualified.
_SQL = re.compile(r"'[^']*'|--[^\n]*|(?<= )(=|<>|<=|<|>=|>|\|\||~)(?=\s)|::(?=[a-z])")


@dataclass(frozen=True, slots=True)
class FunctionRow:
    """One function; traces are names of forebay-sql's constants."""

    name: str
    traces: tuple[str, ...]
    why: str


def load(path: Path) -> tuple[FunctionRow, ...]:
    """Reads functions.toml, sorted by name."""
    document = read(path)
    require(path.name, set(document) == {"function"}, "only [[function]]")
    rows = []
    for one in document["function"]:
        row = fields(path.name, one, required=("names", "traces", "why"), optional=())
        where = f"{path.name}, {row['names'][:1]}"
        require(where, row["traces"] and TRACES.issuperset(row["traces"]), f"traces are of {sorted(TRACES)}")
        require(where, not re.search(r'["\\]|\.$', row["why"]), "why has no quote, no backslash and no full stop")
        for name in row["names"]:
            require(where, re.fullmatch(r"[a-z][a-z0-9_]*", name), f"{name} is no name")
            rows.append(FunctionRow(name, tuple(row["traces"]), row["why"]))
    refuse_duplicates(path.name, (row.name for row in rows))
    return tuple(sorted(rows, key=lambda row: row.name))


def rust(rows: tuple[FunctionRow, ...]) -> str:
    """crates/forebay-sql/src/generated/functions.rs."""
    out = [HEADER.format(source="functions.toml"), "\n"]
    out.append("//! PostgreSQL's own functions that leave something behind.\n\n")
    out.append("use crate::traces::Traces;\n\n")
    out.append("/// Name, traces and what it does, by name.\n#[rustfmt::skip]\n")
    out.append("pub(crate) static EXCEPTIONS: &[(&str, Traces, &str)] = &[\n")
    for row in rows:
        first, *more = (f"Traces::{trace}" for trace in row.traces)
        traces = first + "".join(f".with({one})" for one in more)
        out.append(f'    ("{row.name}", {traces}, "{row.why}"),\n')
    out.append("];\n")
    return "".join(out)


def query(text: str, rows: tuple[FunctionRow, ...]) -> str:
    """A statement without comments, independent of search_path, with the names of functions for `:functions`."""

    def qualified(found: re.Match[str]) -> str:
        if found[1]:
            return f"OPERATOR(pg_catalog.{found[1]})"
        return {"--": "", "::": "::pg_catalog."}.get(found[0][:2], found[0])

    lines = (line.rstrip() for line in _SQL.sub(qualified, text).splitlines())
    return "".join(f"{line}\n" for line in lines if line).replace(":functions", ",".join(row.name for row in rows))
