"""The settings of a configuration, each checked by itself: type, range and place. `rules` checks them together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from forebay._generated.settings import SECTIONS, SETTINGS, Setting
from forebay.config import measures
from forebay.config.access.shapes import AccessRules
from forebay.config.environment import NAMED_SECTIONS, POOL_SECTIONS, Override
from forebay.config.finding import Report, closest
from forebay.config.importers.process import Process
from forebay.config.kinds import KINDS, Reading, Value
from forebay.config.secret import Secret, SecretReader
from forebay.config.source import Place, without_secrets
from forebay.config.tree import Entry, Node

BY_KEY: Final[Mapping[tuple[str, str], Setting]] = {(one.section, one.name): one for one in SETTINGS}
NAME_BYTES_MAX = {"databases": 63, "users": 127, "peers": 5}
PEER_ID_MAX = 65_535
CONSOLE_NAMES = ("forebay", "pgbouncer")
# Names that people know from other places.
_ALSO_CALLED = {
    ("databases", "host"): "endpoints",
    ("databases", "port"): "endpoints",
    ("databases", "hosts"): "endpoints",
    ("databases", "database"): "dbname",
    ("databases", "password"): "secret",
    ("users", "password"): "secret",
    ("listen", "host"): "address",
    ("auth", "method"): "type",
    ("limits", "clients_max"): "max_client_conn",
}


@dataclass(frozen=True, slots=True)
class Given:
    """A setting that was given: the engine's value, as it was written, and where."""

    value: Value | Secret
    written: str
    place: Place


@dataclass(frozen=True, slots=True)
class Entity:
    """A database, a user or a peer and the settings given for it, by name."""

    name: str
    place: Place
    settings: dict[str, Given] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Draft:
    """All that was given.

    settings: by (section, name).
    whole: the place of findings about what is missing.
    faulty: settings that were given but could not be used, as section.name or section.entity.name.
    process: what `forebay-pgbouncer` itself acts on; None for everything else.
    bound: addresses of sockets that a service manager has bound, in place of those that were given; None: it has none.
    access: what the files that settings of [auth] name say.
    """

    whole: Place
    base: Path
    settings: dict[tuple[str, str], Given] = field(default_factory=dict)
    databases: dict[str, Entity] = field(default_factory=dict)
    users: dict[str, Entity] = field(default_factory=dict)
    peers: dict[str, Entity] = field(default_factory=dict)
    faulty: set[str] = field(default_factory=set)
    process: Process | None = None
    bound: tuple[str, ...] | None = None
    access: AccessRules = field(default_factory=AccessRules)

    def value(self, section: str, name: str) -> Value | None:
        """The value of a setting that was given, or its default."""
        given = self.settings.get((section, name))
        if given is not None and not isinstance(given.value, Secret):
            return given.value
        return default_of(BY_KEY[section, name])

    def place(self, section: str, name: str) -> Place:
        """Where a setting was given, or the whole text."""
        given = self.settings.get((section, name))
        return given.place if given else self.whole

    def entities(self, section: str) -> dict[str, Entity]:
        """The databases, the users or the peers."""
        return {"databases": self.databases, "users": self.users, "peers": self.peers}[section]


def default_of(setting: Setting) -> Value | None:
    """The setting's default as the engine's value."""
    written = setting.default
    if setting.kind == "duration":
        return measures.duration_us(str(written))
    if setting.kind == "size":
        return measures.size_bytes(str(written))
    if setting.kind == "mode":
        return int(str(written), 8)
    return written


class DraftReader:
    """Fills a draft from a tree and from overrides."""

    def __init__(self, draft: Draft, secrets: SecretReader, report: Report) -> None:
        self._draft = draft
        self._secrets = secrets
        self._report = report

    def tree(self, root: Node) -> None:
        """Reads every section of a tree."""
        for entry in root.entries:
            if entry.key not in SECTIONS:
                self._unknown_section(entry)
            elif entry.value.kind != "table":
                self._report.add("not_a_table", entry.place, name=entry.key, found=_shown(entry.value))
            elif entry.key in NAMED_SECTIONS:
                for named in entry.value.entries:
                    self._entity(entry.key, named)
            else:
                self._settings(entry.key, None, entry.value.entries)

    def overrides(self, given: Iterable[Override]) -> None:
        """Reads what the environment gives; a name is matched without regard to case where that is clear."""
        for one in given:
            entry = Entry(one.name, one.node.place, one.node)
            if one.entity is None:
                self._setting(one.section, None, one.name, entry)
                continue
            known = self._draft.entities(one.section)
            alike = [name for name in known if name.lower() == one.entity.lower()]
            name = one.entity if one.entity in known or len(alike) != 1 else alike[0]
            entity = known.setdefault(name, Entity(name, one.node.place))
            self._setting(one.section, entity, one.name, entry)

    def userlist(self, users: Iterable[Entry]) -> None:
        """Reads the users of `auth.file`; what [users.NAME] gives a user counts before it."""
        for user in users:
            known = self._draft.users.get(user.key)
            if known is None:
                self._entity("users", user)
            elif "secret" not in known.settings and f"users.{user.key}.secret" not in self._draft.faulty:
                self._settings("users", known, user.value.entries)

    def _entity(self, section: str, entry: Entry) -> None:
        kind = section.removesuffix("s")
        if entry.value.kind != "table":
            self._report.add("not_a_table", entry.place, name=f"{section}.{entry.key}", found=_shown(entry.value))
            return
        limit = NAME_BYTES_MAX[section]
        if not entry.key or "\0" in entry.key or len(entry.key.encode()) > limit:
            cause = f"a name has 1 to {limit} bytes"
            self._report.add("bad_name", entry.place, name=entry.key, kind=kind, cause=cause)
            return
        if section == "peers" and not _is_peer_id(entry.key):
            cause = f"it is the peer's number, 1 to {PEER_ID_MAX}"
            self._report.add("bad_name", entry.place, name=entry.key, kind=kind, cause=cause)
            return
        if section == "databases" and entry.key in CONSOLE_NAMES:
            self._report.add("console_name", entry.place, name=entry.key)
            return
        known = self._draft.entities(section)
        entity = known.setdefault(entry.key, Entity(entry.key, entry.place))
        self._settings(section, entity, entry.value.entries)

    def _settings(self, section: str, entity: Entity | None, entries: Iterable[Entry], prefix: str = "") -> None:
        for entry in entries:
            name = f"{prefix}{entry.key}"
            if _find(section, name) is None and entry.value.kind == "table" and _is_group(section, name):
                self._settings(section, entity, entry.value.entries, f"{name}.")
            else:
                self._setting(section, entity, name, entry)

    def _setting(self, section: str, entity: Entity | None, name: str, entry: Entry) -> None:
        setting = _find(section, name)
        if setting is None:
            self._unknown_setting(section, entity, name, entry)
            return
        shown = f"{section}.{name}" if entity is None else f"{section}.{entity.name}.{name}"
        value: Value | Secret | None
        if setting.kind == "secret":
            value, written = self._secrets.read(entry.value, shown), "…"
        else:
            # Who has a pgbouncer.ini knows no other names.
            is_of_ini = entry.value.place.source.is_ini or self._draft.process is not None
            said = setting.pgbouncer if entity is None and is_of_ini and setting.pgbouncer else shown
            reading = Reading(setting, entry.value, said, self._draft.base, self._report)
            value, written = KINDS[setting.kind](reading), _written(entry.value)
        if value is None:
            self._draft.faulty.add(shown)
            return
        given = Given(value, written, entry.value.place)
        if entity is None:
            self._draft.settings[section, name] = given
        else:
            entity.settings[name] = given

    def _unknown_section(self, entry: Entry) -> None:
        meant = closest(entry.key, SECTIONS)
        self._report.add("unknown_section", entry.place, meant=meant, name=entry.key, known=", ".join(SECTIONS))

    def _unknown_setting(self, section: str, entity: Entity | None, name: str, entry: Entry) -> None:
        shown = section if entity is None else f"{section}.{entity.name}"
        leaf = name.rpartition(".")[2]
        known = [one.name for one in SETTINGS if _find(section, one.name) is one]
        by_pgbouncer = [one.name for one in SETTINGS if one.pgbouncer == name and _find(section, one.name) is one]
        places = [f"[{one.section}]" for one in SETTINGS if one.name == name]
        also_called = _ALSO_CALLED.get((section, name)) or next(iter(by_pgbouncer), None)
        meant = also_called or closest(name, known)
        if places and not also_called:
            self._report.add("misplaced_setting", entry.place, name=leaf, section=shown, places=" or ".join(places))
        else:
            self._report.add("unknown_setting", entry.place, meant=meant, name=name, section=shown)


def _find(section: str, name: str) -> Setting | None:
    """The setting that `name` means in a section."""
    own = BY_KEY.get((section, name))
    if own is not None or section not in POOL_SECTIONS:
        return own
    shared = BY_KEY.get(("server_defaults", name))
    wide_enough = ("database", "user") if section == "databases" else ("user",)
    return shared if shared is not None and shared.scope in wide_enough else None


def _is_group(section: str, name: str) -> bool:
    """Whether settings of the section stand in a table of that name."""
    return any(one.name.startswith(f"{name}.") and _find(section, one.name) is one for one in SETTINGS)


def _is_peer_id(name: str) -> bool:
    return name.isascii() and name.isdecimal() and name[0] != "0" and int(name) <= PEER_ID_MAX


def _written(node: Node) -> str:
    """As it was written; a password among the options of a directory is not shown."""
    if node.kind == "array":
        return f"[{', '.join(_written(item) for item in node.items)}]"
    if node.kind == "table":
        return f"{{ {', '.join(f'{json.dumps(one.key)} = {_written(one.value)}' for one in node.entries)} }}"
    if node.kind == "boolean":
        return "true" if node.value else "false"
    return without_secrets(str(node.value))


def _shown(node: Node) -> str:
    return "a list" if node.kind == "array" else "a single value"
