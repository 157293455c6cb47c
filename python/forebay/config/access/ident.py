"""A record of pg_ident.conf as a line of a map."""

from __future__ import annotations

from forebay.config.access.hba import Fault, regex
from forebay.config.access.records import Field, Record, Token
from forebay.config.access.shapes import MapLine, Pattern
from forebay.config.finding import Report


def read_line(record: Record, report: Report) -> MapLine | None:
    """The line, or None after a report."""
    try:
        return _line(record)
    except Fault as fault:
        report.add("bad_access_line", fault.place, cause=str(fault))
        return None


def _line(record: Record) -> MapLine:
    if len(record.fields) < 3:
        missing = ("map", "system's user", "user")[len(record.fields)]
        raise Fault(f"the line ends before its {missing}", record.place)
    if len(record.fields) > 3:
        raise Fault("a line of a map has three fields", record.fields[3][0].place)
    name, system, user = (_single(field) for field in record.fields)
    is_regex = system.text.startswith("/")
    needs_group = is_regex and "\\1" in user.text and not user.text.startswith("/")
    system_pattern: Pattern = regex(system, needs_group=needs_group) if is_regex else {"name": system.text}
    return MapLine(name.text, system_pattern, _user(user))


def _single(field: Field) -> Token:
    if len(field) > 1:
        raise Fault("there are several values for one field", field[1].place)
    return field[0]


def _user(token: Token) -> Pattern:
    if token.is_word("all"):
        return "all"
    if not token.is_quoted and token.text.startswith("+"):
        raise Fault("members of a role can't be named: they are known to servers only", token.place)
    if token.text.startswith("/"):
        return regex(token)
    return {"name": token.text}
