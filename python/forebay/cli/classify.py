"""`forebay classify`: what a statement is, and what it may leave behind in its session."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from forebay import _engine
from forebay.failure import Exit

# Trace: what the statement does, and why a transaction pool minds. The names are those of the engine.
MEANING: dict[str, tuple[str, str]] = {
    "setting": (
        "sets",
        "it lasts beyond the transaction: the client finds it again on any server, others never see it",
    ),
    "any setting": ("sets settings that the text does not name", "what it set is read back from the server afterwards"),
    "local setting": ("sets something for its transaction", "nothing is left when the transaction ends"),
    "session authorization": ("changes the session's user", "the client keeps its server until it changes back"),
    "temporary object": (
        "may make, change or drop a temporary object",
        "the client keeps its server as long as it has temporary objects",
    ),
    "advisory lock": ("takes or releases an advisory lock", "the client keeps its server as long as it has such locks"),
    "listen": ("listens to a channel, or stops to", "notifications go to the session that listens"),
    "cursor with hold": (
        "makes a cursor WITH HOLD, or closes one",
        "the client keeps its server as long as it has such cursors",
    ),
    "prepared statement": ("prepares a statement, or drops one", "the statement belongs to the client, on any server"),
    "sequence": ("advances or sets a sequence", "currval and lastval have an answer in this session only"),
    "reads a sequence": ("asks for currval or lastval", "the session that called nextval must answer"),
    "seed": ("seeds the random numbers", "the row of numbers belongs to one session"),
    "library": ("loads a library", "it can't be unloaded: the server serves this client only, then goes"),
    "schema": ("makes, changes or drops objects", "what was known about the database's objects is loaded anew"),
    "writes": ("writes data", "it needs a primary; triggers and defaults of the tables run"),
    "notify": ("notifies listeners", "nothing is left in the session"),
    "opaque": ("may do anything", "what it did is read back from the server afterwards"),
}


@click.command("classify")
@click.argument("sql")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of text.")
def command(sql: str, as_json: bool) -> int:
    """Say what SQL does to its session (-: standard input).

    Needs no database: it tells what the text alone tells, and for which names a database must be asked. The exit status
    is 1 when PostgreSQL's grammar refuses the text, 0 otherwise.
    """
    text = sys.stdin.read() if sql == "-" else sql
    shape = json.loads(_engine.classify(text))
    if as_json:
        click.echo(json.dumps({"version": 1, **shape}, indent=2))
    else:
        click.echo("\n".join(_lines(shape)))
    return Exit.OK if shape["is_parsed"] else Exit.FINDINGS


def _lines(shape: dict[str, Any]) -> list[str]:
    if not shape["is_parsed"]:
        return [
            "PostgreSQL's grammar refuses this, or it is longer than 64 kB.",
            "It is sent as it is; afterwards everything that it may have left behind is read back from the server.",
        ]
    lines = [line for number, one in enumerate(shape["statements"], 1) for line in _statement(number, one)]
    if not lines:
        lines.append("no statement")
    for what in ("functions", "operators", "relations", "types"):
        if shape[what]:
            lines.append(f"{what}: {', '.join(shape[what])}")
    asked = "; ".join(f"{what} {', '.join(names)}" for what, names in shape["needs_catalogue"].items() if names)
    return [*lines, f"needs the catalogue for: {asked or 'nothing'}"]


def _statement(number: int, statement: dict[str, Any]) -> list[str]:
    name = f" {statement['name']}" if statement["name"] else ""
    lines = [f"{number}. {statement['verb']}{name}"]
    if not statement["traces"]:
        lines.append("   leaves nothing behind by itself")
    for trace in statement["traces"]:
        does, because = MEANING[trace]
        settings = f" {', '.join(statement['settings'])}" if trace == "setting" else ""
        lines.append(f"   {does}{settings}: {because}")
    return lines
