"""pgbouncer.ini: the settings that mean the same here, with PgBouncer's defaults; a finding for each other one.

The result is a tree as a forebay.toml would give, whose places are the ini's, so that everything after it is shared.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from forebay import _engine
from forebay._generated.pgbouncer import ALIAS, DATABASE_INSTEAD, KNOWN
from forebay._generated.settings import SETTINGS, Setting
from forebay.config import measures, tree
from forebay.config.environment import NAMED_SECTIONS
from forebay.config.finding import Report, closest
from forebay.config.importers.process import TRUTH, DropIn, Process, read_process
from forebay.config.source import Place, outside
from forebay.config.text_file import Files
from forebay.config.tree import Entry, Node

INCLUDE_DEPTH_MAX = 10

# Settings of which PgBouncer's default is taken where it is not ours.
DEFAULTS: Final = (
    "listen_addr",
    "unix_socket_dir",
    "listen_backlog",
    "pool_mode",
    "max_client_conn",
    "max_packet_size",
    "auth_type",
    "client_login_timeout",
    "client_tls_sslmode",
    "query_wait_notify",
)
# Those for `forebay-pgbouncer`, whose log is read by programs that know PgBouncer's.
_LOG_DEFAULTS: Final = ("log_pooler_errors",)
# What it logs besides, and how.
_LOG_FIXED: Final = (("format", "pgbouncer"), ("attempts", "1"), ("servers", "1"))

_MILLISECONDS: Final = ("tcp_user_timeout",)
# What is shorter there, 0 being "at once", is out of range here.
_LEAST_US: Final = {"server_login_retry": 10_000, "dns_max_ttl": 1_000_000}
# 0 is "no limit" there; here each wait has one, and a longer one there is cut to it.
_MOST_US: Final = {"server_connect_timeout": 600_000_000, "client_login_timeout": 3_600_000_000}
# The same of pools, whose size 0 is "no limit" there.
_POOL_SIZES: Final = ("default_pool_size", "pool_size")
_POOL_SIZE_MOST: Final = 100_000
# A smaller limit there lets hardly a query through; here the smallest that there is is taken.
_PACKET_LEAST: Final = 65_536

_WORDS: Final[dict[tuple[str, str], str]] = {
    ("auth_type", "plain"): "password",
    ("server_check_query", "<empty>"): "",
}

_DATABASE_KEYS = {
    "dbname": "dbname",
    "user": "user",
    "password": "secret",
    "pool_size": "pool_size",
    "min_pool_size": "min_pool_size",
    "reserve_pool": "reserve_pool_size",
    "reserve_pool_size": "reserve_pool_size",
    "pool_mode": "pool_mode",
    "query_wait_timeout": "query_wait_timeout",
    "max_db_connections": "max_db_connections",
    "max_db_client_connections": "max_db_client_connections",
    "server_lifetime": "server_lifetime",
    "auth_user": "auth_user",
    "auth_query": "auth_query",
    "auth_dbname": "auth_dbname",
    "load_balance_hosts": "load_balance_hosts",
    **{name: name for name in ("client_encoding", "datestyle", "timezone", "application_name", "connect_query")},
}
_USER_KEYS = (
    "pool_size",
    "reserve_pool_size",
    "pool_mode",
    "max_user_connections",
    "max_user_client_connections",
    "query_timeout",
    "query_wait_timeout",
    "idle_transaction_timeout",
    "transaction_timeout",
    "client_idle_timeout",
)
_PEER_KEYS: Final = ("host", "port", "pool_size")
# Those of which a default that is taken is worth a word, and what it means.
_GUARDS: Final = {
    "auth_type": "passwords are proved by MD5, unless SCRAM verifiers are stored",
    "client_tls_sslmode": "clients are not offered TLS",
    "server_tls_sslmode": "TLS towards servers is used where they offer it, and no certificate is checked",
}
_SECTIONS = ("pgbouncer", "databases", "users", "peers")
_GLOBAL: Final[dict[str, Setting]] = {
    one.pgbouncer: one for one in SETTINGS if one.pgbouncer and one.section not in NAMED_SECTIONS
}


def translate(root: Node, folder: Path, report: Report, drop_in: DropIn | None = None) -> tuple[Node, Process | None]:
    """The tree of a forebay.toml for the tree of an ini, and what of the ini is about the process.

    folder: where %include starts from. drop_in: it is read for `forebay-pgbouncer`.
    """
    ini = _Ini(drop_in.files if drop_in is not None else Files())
    _gather(root, folder, ini, report, depth=0)
    ini.settings = {ALIAS.get(name, name): entry for name, entry in ini.settings.items()}
    process = None
    if drop_in is not None:
        of_file = frozenset(ini.settings)
        ini.settings = {**_set(drop_in.overrides), **ini.settings, **_set(drop_in.now)}
        process = read_process(ini.settings, of_file, folder, report, file=root.place.source.path)
    return _Translation(ini, root.place, report, process, drop_in).tree(), process


def _set(given: Mapping[str, str]) -> dict[str, Entry]:
    """What SET of the console gave, as entries that stand in no file."""
    place = outside("SET")
    return {name: Entry(name, place, tree.text(value, place)) for name, value in given.items()}


@dataclass(slots=True)
class _Ini:
    """The sections of all files, in the order of their lines; later lines count."""

    files: Files
    settings: dict[str, Entry] = field(default_factory=dict)
    databases: dict[str, Entry] = field(default_factory=dict)
    users: dict[str, Entry] = field(default_factory=dict)
    peers: dict[str, Entry] = field(default_factory=dict)

    def section(self, name: str) -> dict[str, Entry]:
        """One of _SECTIONS."""
        of = {"pgbouncer": self.settings, "databases": self.databases, "users": self.users, "peers": self.peers}
        return of[name]


def _gather(root: Node, folder: Path, ini: _Ini, report: Report, *, depth: int) -> None:
    for section in root.entries:
        if section.key == "%include":
            _include(section, folder, ini, report, depth)
        elif section.key not in _SECTIONS:
            known = ", ".join(_SECTIONS)
            meant = closest(section.key, _SECTIONS)
            report.add("unknown_section", section.place, meant=meant, name=section.key, known=known)
        else:
            into = ini.section(section.key)
            for entry in section.value.entries:
                if entry.key in into:
                    report.add("set_twice", entry.place, name=entry.key)
                into[entry.key] = entry


def _include(entry: Entry, folder: Path, ini: _Ini, report: Report, depth: int) -> None:
    written = str(entry.value.value)
    if depth >= INCLUDE_DEPTH_MAX:
        report.add("include_depth", entry.value.place, path=written, limit=INCLUDE_DEPTH_MAX)
        return
    source = ini.files.source(folder / written, str(folder / written), report, named_at=entry.value.place)
    if source is not None:
        _gather(tree.read(source, _engine.parse_ini, report), folder, ini, report, depth=depth + 1)


class _Translation:
    """One translation under way."""

    def __init__(
        self, ini: _Ini, whole: Place, report: Report, process: Process | None, drop_in: DropIn | None
    ) -> None:
        self._ini = ini
        self._whole = whole
        self._report = report
        self._process = process
        self._verbose = drop_in.verbose if drop_in else 0

    def tree(self) -> Node:
        """The tree of a forebay.toml."""
        sections: dict[str, list[Entry]] = {one.section: [] for one in _GLOBAL.values()}
        for name in (*DEFAULTS, *(_LOG_DEFAULTS if self._process else ())):
            if name not in self._ini.settings:
                self._place(sections, name, tree.text(KNOWN[name].default, self._whole))
        if self._process is not None:
            self._tell_guards(self._process)
        asks = [one for one in self._ini.databases.values() if one.value.get("auth_user")]
        if ("auth_user" in self._ini.settings or asks) and "auth_query" not in self._ini.settings:
            self._place(sections, "auth_query", tree.text(KNOWN["auth_query"].default, self._whole))
        for name, entry in self._ini.settings.items():
            if name in _GLOBAL:
                self._place(sections, name, entry.value)
            else:
                self._without_counterpart(entry)
        if self._process is not None:
            self._behave_as_pgbouncer(sections)
        elif self._shares_port():
            # The next process with such a file would find the address of the metrics taken.
            sections.setdefault("metrics", []).append(Entry("address", self._whole, tree.text("", self._whole)))
        sections["databases"] = [self._database(entry) for entry in self._ini.databases.values()]
        sections["users"] = list(self._users())
        sections["peers"] = [self._peer(entry) for entry in self._ini.peers.values()]
        return tree.table(
            self._whole,
            *(Entry(name, self._whole, tree.table(self._whole, *entries)) for name, entries in sections.items()),
        )

    def _shares_port(self) -> bool:
        given = self._ini.settings.get("so_reuseport")
        return given is not None and str(given.value.value).lower() in TRUTH[1::2]

    def _tell_guards(self, process: Process) -> None:
        for name, meaning in _GUARDS.items():
            if name not in self._ini.settings:
                default = process.text(name)
                self._report.add("default_of_pgbouncer", self._whole, name=name, default=default, meaning=meaning)

    def _without_counterpart(self, entry: Entry) -> None:
        """A setting of the process is nothing to speak of where the process sees to it."""
        known = KNOWN.get(ALIAS.get(entry.key, entry.key))
        if known is None:
            meant = closest(entry.key, KNOWN)
            self._report.add("unknown_ini_setting", entry.place, meant=meant, name=entry.key, section="pgbouncer")
        elif known.instead is not None:
            self._report.add("not_translated", entry.place, name=entry.key, reason=known.instead)
        elif self._process is None:
            self._report.add("only_drop_in", entry.place, name=entry.key)

    def _behave_as_pgbouncer(self, sections: dict[str, list[Entry]]) -> None:
        """What `forebay-pgbouncer` sets by itself: its log, and no listener that PgBouncer would not have."""
        fixed = [("log", name, value) for name, value in _LOG_FIXED]
        if self._verbose or (self._process and self._process.text("verbose") not in ("", "0")):
            fixed.append(("log", "level", "debug"))
        fixed.append(("auth", "pam_service", "pgbouncer"))
        for section, name, value in (*fixed, ("metrics", "address", "")):
            entries = sections.setdefault(section, [])
            entries.append(Entry(name, self._whole, tree.text(value, self._whole)))

    def _place(self, sections: dict[str, list[Entry]], name: str, value: Node) -> None:
        """Adds a setting of [pgbouncer] to its section here."""
        setting = _GLOBAL[name]
        translated = self._value(setting, name, value)
        if translated is not None:
            sections[setting.section].append(Entry(setting.name, value.place, translated))

    def _value(self, setting: Setting, name: str, value: Node) -> Node | None:
        """The value as it would be written here; None after a report."""
        written = str(value.value)
        written = _WORDS.get((name, written.lower()), written)
        if setting.kind == "duration":
            return self._duration(name, value)
        if setting.kind == "bool" and written.lower() not in TRUTH:
            self._report.add("bad_ini_value", value.place, name=name, text=written, wanted="0 or 1")
            return None
        if name in (*_POOL_SIZES, "max_packet_size", "max_client_conn") and re.fullmatch(
            r"\d{1,12}", written, re.ASCII
        ):
            limited = self._limit(name, int(written), value)
            if limited is None:
                return None
            written = str(limited)
        if setting.kind == "size" and re.fullmatch(r"\d{1,12}", written, re.ASCII):
            written = f"{written}B"
        return tree.text(written, value.place)

    def _limit(self, name: str, written: int, value: Node) -> int | None:
        """A limit that means something else there, or is out of range here; None after a report."""
        taken, reason = written, ""
        if name in _POOL_SIZES and written == 0:
            taken, reason = _POOL_SIZE_MOST, f"each pool has a limit here, of {_POOL_SIZE_MOST} servers at most"
        elif name == "max_packet_size" and written < _PACKET_LEAST:
            taken, reason = _PACKET_LEAST, "the smallest limit here is 65536"
        elif name == "max_client_conn" and written == 0:
            wanted = "1 or more: with 0 PgBouncer lets nobody in but the console"
            self._report.add("bad_ini_value", value.place, name=name, text=written, wanted=wanted)
            return None
        if reason:
            self._report.add("not_translated", value.place, name=f"{name} = {written}", reason=reason)
        return taken

    def _duration(self, name: str, value: Node) -> Node | None:
        """PgBouncer writes seconds, with decimals."""
        unit, wanted = ("ms", "a number of milliseconds") if name in _MILLISECONDS else ("s", "a number of seconds")
        us = (
            measures.duration_us(f"{value.value}{unit}")
            if re.fullmatch(r"[\d.]+", str(value.value), re.ASCII)
            else None
        )
        if us is None:
            self._report.add("bad_ini_value", value.place, name=name, text=value.value, wanted=wanted)
            return None
        us = max(us, _LEAST_US.get(name, 0))
        most = _MOST_US.get(name)
        if most is not None and not 0 < us <= most:
            reason = f"each such wait has a limit here, of {measures.duration_text(most)} at most"
            self._report.add("not_translated", value.place, name=f"{name} = {value.value}", reason=reason)
            us = most
        if us == 0 and name == "server_lifetime":
            reason = "a server is used more than once; the default is taken"
            self._report.add("not_translated", value.place, name="server_lifetime = 0", reason=reason)
            return None
        if us == 0 and name == "server_check_delay":
            us = 1  # 0 is "before each use" there and "never" here.
        return tree.text(measures.duration_text(us), value.place)

    def _untranslated(self, entry: Entry, section: str, reasons: dict[str, str], known: list[str]) -> None:
        if entry.key in reasons:
            self._report.add("not_translated", entry.place, name=entry.key, reason=reasons[entry.key])
        else:
            meant = closest(entry.key, known)
            self._report.add("unknown_ini_setting", entry.place, meant=meant, name=entry.key, section=section)

    def _database(self, database: Entry) -> Entry:
        place, given = database.place, {entry.key: entry for entry in database.value.entries}
        out = [Entry("endpoints", place, self._endpoints(database.value, place))]
        for name, entry in given.items():
            if name in _DATABASE_KEYS:
                value = self._own_value(_DATABASE_KEYS[name], entry)
                if value is not None:
                    out.append(Entry(_DATABASE_KEYS[name], entry.place, value))
            elif name not in ("host", "port"):
                known = [*_DATABASE_KEYS, *DATABASE_INSTEAD, "host", "port"]
                self._untranslated(entry, "databases", DATABASE_INSTEAD, known)
        return Entry(database.key, place, tree.table(place, *out))

    def _peer(self, peer: Entry) -> Entry:
        """A process behind the same address; its pool is as large as others where it does not say."""
        place, given = peer.place, {entry.key: entry for entry in peer.value.entries}
        out = []
        for name, entry in given.items():
            if name not in _PEER_KEYS:
                self._untranslated(entry, "peers", {}, list(_PEER_KEYS))
        if "host" in given:
            host = given["host"].value
            port = str(given["port"].value.value) if "port" in given else "6432"
            at = host.place if _is_port(port) else given["port"].value.place
            out.append(Entry("endpoint", at, tree.text(_endpoint(str(host.value), port), at)))
        size = given.get("pool_size") or self._ini.settings.get("default_pool_size")
        if size is not None:
            out.append(Entry("pool_size", size.value.place, tree.text(str(size.value.value), size.value.place)))
        return Entry(peer.key, place, tree.table(place, *out))

    def _endpoints(self, database: Node, place: Place) -> Node:
        """host and port as endpoints; without a host the server is behind a Unix socket.

        Either may be a list; a port alone is that of every host, as in libpq.
        """
        host, port = database.get("host"), database.get("port")
        socket_dir = self._ini.settings.get("unix_socket_dir")
        folder = str(socket_dir.value.value) if socket_dir else KNOWN["unix_socket_dir"].default
        if folder.startswith("@") and not (host and host.value):
            wanted = "given, and no server is reached in the abstract namespace of unix_socket_dir"
            self._report.add("bad_ini_value", place, name="host", text="", wanted=wanted)
            folder = "/tmp"  # noqa: S108  (where PostgreSQL has it; the report keeps it from being used)
        hosts = [part.strip() for part in str(host.value).split(",")] if host and host.value else [folder]
        numbers = [part.strip() or "5432" for part in str(port.value).split(",")] if port else ["5432"]
        shown = host.place if host else place
        if port and len(numbers) not in (1, len(hosts)):
            wanted = "one port for all hosts, or one for each"
            self._report.add("bad_ini_value", port.place, name="port", text=port.value, wanted=wanted)
        items = (
            Node("string", port.place if port and not _is_port(number) else shown, _endpoint(one, number))
            for one, number in zip(hosts, itertools.cycle(numbers), strict=False)
        )
        return Node("array", shown, items=tuple(items))

    def _own_value(self, name: str, entry: Entry) -> Node | None:
        """A value of a database or a user."""
        settings = (one for one in SETTINGS if one.name == name and one.section != "auth")
        setting = next(settings)
        if setting.kind == "secret":
            return tree.text(str(entry.value.value), entry.value.place)
        return self._value(setting, entry.key, entry.value)

    def _users(self) -> Iterator[Entry]:
        for name, section in self._ini.users.items():
            out = []
            for entry in section.value.entries:
                if entry.key not in _USER_KEYS:
                    self._untranslated(entry, "users", {}, list(_USER_KEYS))
                elif (value := self._own_value(entry.key, entry)) is not None:
                    out.append(Entry(entry.key, entry.place, value))
            yield Entry(name, section.place, tree.table(section.place, *out))


def _endpoint(host: str, port: str) -> str:
    """A host, or the folder of a Unix socket, with its port."""
    return f"{host.rstrip('/')}/.s.PGSQL.{port}" if host.startswith("/") else f"{_bracketed(host)}:{port}"


def _is_port(text: str) -> bool:
    """Whether it is one: what is wrong with an endpoint otherwise is its host."""
    return text.isascii() and text.isdigit() and 0 < int(text[:6]) < 1 << 16


def _bracketed(host: str) -> str:
    """An IPv6 address in brackets, anything else as it is."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
