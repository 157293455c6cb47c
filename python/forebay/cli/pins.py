"""`forebay pins`: sessions that hold their server between transactions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import click

from forebay.cli.console_options import console_options, console_parameters
from forebay.control import console_link

# Columns of SHOW PINS, and what stands above them.
_COLUMNS: Final = {
    "id": "client",
    "database": "database",
    "user": "user",
    "application_name": "application",
    "server": "server",
    "pinned_since": "pinned since",
    "reasons": "reasons",
    "statement": "statement",
    "released_by": "released by",
}


@click.command("pins")
@console_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of a table.")
def command(dsn: str | None, config: str | None, as_json: bool) -> None:
    """Show sessions that hold a server between transactions.

    For each it tells since when, why, by which statement and what would release it. Asks the console of a running
    forebay, found by --dsn or by --config. The exit status is 3 when it can't be reached.
    """
    rows = console_link.ask(console_parameters(dsn, config), "SHOW PINS")
    if as_json:
        click.echo(json.dumps({"version": 1, "pins": rows}, indent=2))
    elif rows:
        click.echo(_table(rows), nl=False)
    else:
        click.echo("no session holds its server between transactions")


def _table(rows: Sequence[console_link.Row]) -> str:
    lines = [list(_COLUMNS.values()), *([_cell(row.get(name)) for name in _COLUMNS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )


def _cell(value: object) -> str:
    """Text for a terminal: a client chooses its application's name, so control characters are not passed on."""
    text = "" if value is None else str(value)
    return "".join(sign if sign.isprintable() else "?" for sign in text)
