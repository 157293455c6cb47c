"""`forebay classify`: what a statement is, and what it may leave behind in its session."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from forebay import _engine
from forebay.control import catalogue_link
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
    "for the primary": ("asks for what a replica refuses or answers otherwise", "it needs a primary"),
}


@click.command("classify")
@click.argument("sql")
@click.option("--server", metavar="DSN", help="The database in which it runs: its catalogue is read.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of text.")
def command(sql: str, server: str | None, as_json: bool) -> int:
    """Say what SQL leaves behind in its session.

    It is said too whether a replica may run it. SQL is one text of any number of statements; - reads it from standard
    input. Without --server it tells what the text alone tells, and for which names a database must be asked. With it,
    what the database's functions, triggers, views and the like make of it, by the catalogue that forebay itself reads.
    The exit status is 1 when PostgreSQL's grammar refuses the text, 3 when the database can't be reached, 0 otherwise.
    """
    text = sys.stdin.read() if sql == "-" else sql
    shape = json.loads(_engine.classify(text))
    found = _found(catalogue_link.read(server), text) if server is not None else None
    if as_json:
        click.echo(json.dumps({"version": 1, **shape, "database": found}, indent=2))
    else:
        click.echo("\n".join(_lines(shape, found)))
    return Exit.OK if shape["is_parsed"] else Exit.FINDINGS


def _found(catalogue: _engine.Catalogue, text: str) -> dict[str, Any]:
    """What a text may leave behind in a database, and what of the database makes it so."""
    to_replica, because = catalogue.route(text)
    return {
        "traces": catalogue.judge(text),
        "because": catalogue.why(text),
        "route": {"to": "replica" if to_replica else "primary", "because": because},
    }


def _lines(shape: dict[str, Any], found: dict[str, Any] | None) -> list[str]:
    if not shape["is_parsed"]:
        most, shortened = (f"{shape['bytes_max'][of] >> 10:,} kB" for of in ("text", "shortened"))
        return [
            f"PostgreSQL's grammar refuses this, or it is too long: longer than {most}, or than {shortened}",
            "without the rows and list items that differ in their literals alone.",
            "It is sent as it is; afterwards everything that it may have left behind is read back from the server.",
        ]
    lines = [line for number, one in enumerate(shape["statements"], 1) for line in _statement(number, one)]
    if not lines:
        lines.append("no statement")
    for what in ("functions", "operators", "relations", "types"):
        if shape[what]:
            lines.append(f"{what}: {', '.join(shape[what])}")
    asked = "; ".join(f"{what} {', '.join(names)}" for what, names in shape["needs_catalogue"].items() if names)
    if found is not None:
        return [*lines, *_database(shape, found)]
    lines.append(f"needs the catalogue for: {asked or 'nothing'}")
    if asked:
        lines.append("Without it that counts as what may do anything; --server DSN reads it, as forebay does.")
    return [*lines, _route(shape["route"])]


def _database(shape: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What the text alone does not tell."""
    of_text = {trace for statement in shape["statements"] for trace in statement["traces"]}
    lines = ["in this database it also:"]
    for trace in found["traces"]:
        if trace not in of_text:
            lines.append(f"   {MEANING[trace][0]}: {MEANING[trace][1]}")
    if len(lines) == 1:
        lines = ["in this database it does nothing else"]
    return [*lines, *(f"because of {reason}" for reason in found["because"]), _route(found["route"])]


def _route(route: dict[str, str]) -> str:
    """Which server may run it, outside of a transaction block."""
    return f"may run on {'a replica' if route['to'] == 'replica' else 'the primary only'}: it {route['because']}"


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
