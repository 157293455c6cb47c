"""The environment: `${NAME}` in texts, and FOREBAY_* variables that beat the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from forebay._generated.settings import SECTIONS, SETTINGS
from forebay.config.finding import Report, closest
from forebay.config.secret import closest_variable
from forebay.config.source import outside
from forebay.config.tree import Entry, Node, text

PREFIX = "FOREBAY_"
NAMED_SECTIONS = ("databases", "users", "peers")
# Those among them in which settings of [server_defaults] may stand.
POOL_SECTIONS = ("databases", "users")
_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.ASCII | re.DOTALL)


def substitute(node: Node, environ: Mapping[str, str], report: Report) -> Node:
    """`node` with every `${NAME}` in its texts replaced; `${NAME:-text}` gives a default, `$${` is a plain `${`."""
    if node.kind == "string" and "${" in str(node.value):
        return _substituted(node, environ, report)
    if not node.entries and not node.items:
        return node
    entries = tuple(Entry(one.key, one.place, substitute(one.value, environ, report)) for one in node.entries)
    return replace(node, entries=entries, items=tuple(substitute(item, environ, report) for item in node.items))


def _substituted(node: Node, environ: Mapping[str, str], report: Report) -> Node:
    def value_of(match: re.Match[str]) -> str:
        if match[1] is None:
            return "${"
        named = _NAME.fullmatch(match[1]) if match[0].endswith("}") else None
        if named is None:
            report.add("bad_variable", node.place)
            return ""
        name, default = named[1], named[2]
        if name not in environ and default is None:
            report.add("missing_variable", node.place, meant=closest_variable(name, environ), name=name)
        return environ.get(name, default or "")

    value = _VARIABLE.sub(value_of, str(node.value))
    return replace(node, value=value, is_text=True, is_outside=True)


@dataclass(frozen=True, slots=True)
class Override:
    """A setting given by a variable. entity: the database, user or peer it belongs to; None: the section itself."""

    section: str
    entity: str | None
    name: str
    node: Node


def overrides(environ: Mapping[str, str], report: Report) -> Iterator[Override]:
    """The settings that FOREBAY_* variables give. Variables of no section are not ours and are passed over."""
    for variable in sorted(environ):
        section = next((one for one in SECTIONS if variable.upper().startswith(f"{PREFIX}{one.upper()}_")), None)
        if section is None or not variable.startswith(PREFIX):
            continue
        rest = variable[len(PREFIX) + len(section) + 1 :]
        entity = None
        if section in NAMED_SECTIONS:
            entity, _, rest = rest.removeprefix("_").rpartition("__")
        name = _setting_name(section, rest)
        place = outside(f"environment variable {variable}")
        if name is None or entity == "":
            known = [f"{PREFIX}{one.key}".upper().replace(".", "_") for one in SETTINGS if one.section == section]
            meant = closest(variable.upper().lower(), [one.lower() for one in known])
            report.add("unknown_override", place, meant=meant and meant.upper(), name=variable)
            continue
        yield Override(section, entity, name, text(environ[variable], place, is_outside=True))


def _setting_name(section: str, rest: str) -> str | None:
    """The setting's name for the end of a variable's name: TLS_MODE is tls.mode."""
    sections = (section, "server_defaults") if section in POOL_SECTIONS else (section,)
    names = (one.name for one in SETTINGS if one.section in sections)
    return next((name for name in names if name.replace(".", "_").upper() == rest.upper()), None)
