"""SHOW ROUTE, which EXPLAIN ROUTE is read as: where a text would go, and why."""

from __future__ import annotations

import json
from typing import Final

from forebay._engine import classify
from forebay._generated.errors import console_syntax
from forebay._generated.show import COLUMNS
from forebay.admin.answer import Answer, Notice, Table, Value
from forebay.admin.backend import Backend, Refused
from forebay.admin.registration import Command, Role, required_database

_USAGE: Final = "EXPLAIN ROUTE database 'text'"
# A text without its quotes is read as words, and told that it wants them.
_WORDS_MAX: Final = 10_000
# What a session's own past makes of a text that a replica may run, by read_consistency.
_UNLESS: Final = {
    "read_your_writes": ", and goes to the primary while its session has written what no replica has replayed",
    "session": ", and goes to the replica that its session has read from, to one that has all that it has seen, or"
    " to the primary",
}
_SERVING: Final = ("primary", "replica")


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """A row for each endpoint that could serve it.

    What the database's own functions and relations do is read from it, where a replica may be asked at all.
    """
    if not arguments:
        return Answer("SHOW", Table(COLUMNS["route"], []), notices=[Notice("Usage", f"\n\t{_USAGE}")])
    if len(arguments) != 2:
        raise console_syntax(cause=f"the form is {_USAGE}, the text in quotes, its own ones doubled")
    name, text = required_database(backend, arguments, "route for"), arguments[1]
    database = next((one for one in backend.config.databases if one.name == name), backend.config.fallback_database)
    found = json.loads(classify(text))
    intent, because = found["route"]["to"], f"it {found['route']['because']}"
    is_split = database is not None and database.cluster is not None and database.cluster.is_split
    if is_split and any(found["needs_catalogue"].values()):
        intent, because = await _by_catalogue(backend, name, text)
    if database is not None and backend.was_refused(database, text):
        intent, because = "primary", "it writes: a replica has refused it"
    if found["asks_for"] in ("primary", "replica"):
        intent, because = found["asks_for"], "its comment says so"
    cluster = database.cluster if database else None
    if database is None or cluster is None:
        because = "the database has no topology: all its endpoints are equal"
        rows: list[tuple[Value, ...]] = [
            (name, intent, "any", endpoint, because) for endpoint in (database.endpoints if database else ())
        ]
        return Answer("SHOW", Table(COLUMNS["route"], rows))
    role = cluster.role
    if not cluster.is_split:
        because = "read_write_split is off" if role == "primary" else f'the database has role = "{role}"'
    endpoints = [each for each in backend.endpoints() if each.database == name]
    if cluster.is_split:
        role = intent
        if role == "replica" and not any(each.role == "replica" for each in endpoints):
            role, because = "primary", "no replica serves at the moment"
    level = cluster.read_consistency
    if cluster.is_split and not found["asks_for"] and intent == role == "replica":
        if level == "primary":
            role, because = "primary", f'{because}, and read_consistency is "primary"'
        because += _UNLESS.get(level, "")
    serving = [each.endpoint for each in endpoints if each.role == role or (role == "any" and each.role in _SERVING)]
    rows = [(name, intent, role, endpoint, because) for endpoint in serving or (None,)]
    return Answer("SHOW", Table(COLUMNS["route"], rows))


async def _by_catalogue(backend: Backend, database: str, text: str) -> tuple[str, str]:
    """Whom a text is for by what its functions and relations are, and why."""
    try:
        catalogue = await backend.catalogue(database)
    except Refused as refused:
        return "primary", f"what it uses is not known ({refused.because})"
    if catalogue is None:
        return "primary", "what it uses is not known: no endpoint may be asked"
    to_replica, because = catalogue.route(text)
    return "replica" if to_replica else "primary", f"it {because}"


COMMAND = Command("show route", Role.VIEWER, handler, arguments_max=_WORDS_MAX)
