"""From a draft without errors to the configuration: defaults filled in, precedence user > database > global applied."""

from __future__ import annotations

import grp
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from forebay._generated.settings import SETTINGS, Setting
from forebay.config import resolved, topology
from forebay.config.access.shapes import AccessRules
from forebay.config.draft import BY_KEY, Draft, Entity, default_of
from forebay.config.environment import NAMED_SECTIONS
from forebay.config.fleet import FleetConfig, budgets, fleet
from forebay.config.preferences import preferences, wishes
from forebay.config.secret import Secret
from forebay.config.setting_line import SettingLine
from forebay.config.tls_offers import offers, wanted_of

_LEVELS = ("debug", "info", "warn", "error")
FALLBACK = "*"
# Of [limits], and of a user where it has its own.
USER_LIMITS = ("max_user_connections", "max_user_client_connections")
LogFormat = Literal["text", "json", "pgbouncer"]


# Parameters that a database's servers are opened with.
_PARAMETERS: Final = ("client_encoding", "datestyle", "timezone", "application_name")


@dataclass(frozen=True, slots=True)
class AuthQuery:
    """A lookup of secrets by query. dbname: one of `EngineConfig.databases`; None: the one the client asks for.

    secret: None where whoever asks has none and needs none.
    """

    query: str
    user: str
    secret: Secret | None
    dbname: str | None


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration.

    engine: what crosses to the engine.
    auth_query: for databases that are not in auth_queries.
    access: who judges passwords, by the numbers that the engine knows. ldap_ca: None for the system's authorities.
    secret_source: an absolute path that ends with .py, or a module's name; None: no such source.
    draft: what was given, for `diff`.
    topologies: databases whose endpoints have roles. fleet: None where this forebay decides alone.
    """

    engine: resolved.EngineConfig
    log_format: LogFormat
    auth_query: AuthQuery | None
    auth_queries: Mapping[str, AuthQuery]
    secret_source: str | None
    draft: Draft
    access: AccessRules
    ldap_ca: str | None
    topologies: tuple[topology.Topology, ...] = ()
    fleet: FleetConfig | None = None

    def settings(self) -> tuple[SettingLine, ...]:
        """The settings that hold for all databases, for SHOW CONFIG."""
        return tuple(_line(self.draft, one) for one in SETTINGS if one.section not in NAMED_SECTIONS)


def resolve(draft: Draft) -> Config:
    """The configuration that a draft without errors describes."""
    contexts: list[resolved.ServerTls] = []
    databases = [_database(draft, one, contexts) for one in draft.databases.values()]
    engine = resolved.EngineConfig(
        listen=_listen(draft),
        tcp=resolved.TcpOptions(**_section(draft, "tcp")),
        dns=resolved.DnsOptions(**_section(draft, "dns")),
        engine=resolved.EngineSettings(**_section(draft, "engine")),
        arrivals=_arrivals(draft),
        limits=resolved.Limits(**_section(draft, "limits")),
        auth=_auth(draft),
        databases=tuple(one for one in databases if one.name != FALLBACK),
        fallback_database=next((one for one in databases if one.name == FALLBACK), None),
        users=tuple(_user(draft, one) for one in draft.users.values()),
        server_tls=tuple(contexts),
        peers=_peers(draft),
        # As PgBouncer: who runs it needs no password over its Unix socket.
        console=resolved.Console(**_section(draft, "console"), own_uid=os.getuid() if draft.process else None),
        metrics=_metrics(draft),
        log=_log(draft),
        speaks_pgbouncer=draft.process is not None,
    )
    log_format = cast(LogFormat, draft.value("log", "format"))
    source = draft.value("auth", "secret_source")
    authority = draft.value("auth", "ldap_ca")
    return Config(
        engine,
        log_format,
        auth_query(draft, None),
        {one.name: query for one in draft.databases.values() if (query := _own_query(draft, one)) is not None},
        source_path(draft) if source else None,
        draft,
        draft.access,
        str(authority) if authority else None,
        topology.topologies(draft, databases, contexts),
        fleet(draft),
    )


def group_number(name: str) -> int | None:
    """The number of a group of this system, by its name or its number; None where there is none."""
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def source_path(draft: Draft) -> str:
    """auth.secret_source as an absolute path, or as the module's name it is."""
    written = str(draft.value("auth", "secret_source"))
    return str(draft.base / written) if written.endswith(".py") else written


def forced_secret(draft: Draft, database: Entity) -> Secret | None:
    """The secret of a database's forced user: its own, or the one in [users]."""
    if "user" not in database.settings:
        return None
    own = database.settings.get("secret")
    if own is None:
        user = draft.users.get(str(database.settings["user"].value))
        own = user.settings.get("secret") if user else None
    return own.value if own and isinstance(own.value, Secret) else None


def pool_value(draft: Draft, database: Entity, name: str) -> Any:
    """A pool's setting: the database's, or the one of [server_defaults]."""
    given = database.settings.get(name)
    return given.value if given else draft.value("server_defaults", name)


def _section(draft: Draft, section: str) -> dict[str, Any]:
    """The section's values by their names in the engine's configuration."""
    return {one.field: draft.value(section, one.name) for one in SETTINGS if one.section == section}


def _listen(draft: Draft) -> resolved.Listen:
    values = {name: value for name, value in _section(draft, "listen").items() if not name.startswith("tls.")}
    values.pop("peer_id")
    tls = {name: draft.value("listen", f"tls.{name}") for name in ("certificate", "key", "ca", "mode")}
    is_on = tls["certificate"] and tls["key"] and tls["mode"] != "disable"
    tls["ca"] = tls["ca"] or None
    offered, _ = offers(wanted_of(lambda name: draft.value("listen", f"tls.{name}")))
    values["unix"] = values["unix"] or None
    values["unix_group"] = group_number(str(values["unix_group"])) if values["unix_group"] else None
    return resolved.Listen(**values, tls=resolved.ListenTls(**cast(Any, tls), offers=offered) if is_on else None)


def _arrivals(draft: Draft) -> resolved.Arrivals:
    values = _section(draft, "arrivals")
    ignored = tuple(name.lower() for name in values.pop("ignored_parameters"))
    return resolved.Arrivals(ignored_parameters=ignored, **values)


def _auth(draft: Draft) -> resolved.AuthSettings:
    values = _section(draft, "auth")
    asks = bool(values["secret_source"]) or auth_query(draft, None) is not None
    kept = {name: values[name] for name in ("cache_for", "cache_negative_for", "ask_timeout")}
    # With rules nobody is let in by the method.
    method = "reject" if values["method"] == "hba" else values["method"]
    return resolved.AuthSettings(method=method, ask_unknown=asks, access=draft.access.engine, **kept)


def _database(draft: Draft, entity: Entity, contexts: list[resolved.ServerTls]) -> resolved.DatabaseConfig:
    def tls(name: str) -> Any:
        return pool_value(draft, entity, f"tls.{name}") or None

    offered, _ = offers(wanted_of(lambda name: tls(name) if name != "curve" else None))
    context = resolved.ServerTls(tls("mode"), tls("ca"), tls("certificate"), tls("key"), offered)
    if context not in contexts:
        contexts.append(context)
    given = entity.settings
    endpoints = cast(tuple[str, ...], given["endpoints"].value)
    fields = resolved.PoolSettings.__struct_fields__
    return resolved.DatabaseConfig(
        name=entity.name,
        dbname=str(given["dbname"].value) if "dbname" in given else entity.name,
        endpoints=endpoints,
        preferences=preferences(wishes(draft, entity), endpoints, {}),
        forced_user=str(given["user"].value) if "user" in given else None,
        forced_secret=forced_secret(draft, entity),
        tls=contexts.index(context),
        lookup=_lookup(draft, entity),
        connect_query=str(given["connect_query"].value) if "connect_query" in given else "",
        is_budgeted=entity.name in budgets(draft),
        checks_commits=bool(topology.own_value(entity, "commit_check")),
        cluster=topology.cluster(draft, entity),
        parameters=tuple((name, str(given[name].value)) for name in _PARAMETERS if name in given),
        pool=resolved.PoolSettings(**{name: pool_value(draft, entity, name) for name in fields}),
    )


def _user(draft: Draft, entity: Entity) -> resolved.UserConfig:
    names = [name for name in resolved.UserConfig.__struct_fields__ if name != "name"]
    given = {name: entity.settings[name].value if name in entity.settings else None for name in names}
    for name in USER_LIMITS:
        given[name] = given[name] if name in entity.settings else cast(int, draft.value("limits", name)) or None
    return resolved.UserConfig(name=entity.name, **cast(Any, given))


def _peers(draft: Draft) -> resolved.Peers:
    others = []
    for peer in draft.peers.values():
        size = peer.settings.get("pool_size")
        others.append(
            resolved.PeerConfig(
                id=int(peer.name),
                endpoint=str(peer.settings["endpoint"].value),
                pool_size=cast(int, size.value if size else default_of(BY_KEY["peers", "pool_size"])),
            )
        )
    return resolved.Peers(cast(int, draft.value("listen", "peer_id")), tuple(others))


def _metrics(draft: Draft) -> resolved.Metrics | None:
    address = draft.value("metrics", "address")
    return resolved.Metrics(str(address)) if address else None


def _log(draft: Draft) -> resolved.LogSettings:
    values = _section(draft, "log")
    names = [name for name in resolved.LogSettings.__struct_fields__ if name != "level"]
    return resolved.LogSettings(_LEVELS.index(values["level"]), *(values[name] for name in names))


def auth_query(draft: Draft, database: Entity | None) -> AuthQuery | None:
    """The lookup for clients of a database, or that of all databases; None: nobody is asked."""

    def value(name: str) -> str:
        own = database.settings.get(f"auth_{name}") if database else None
        return str((own.value if own else draft.value("auth", name)) or "")

    query, user, dbname = value("query"), value("user"), value("dbname")
    if not query or not user:
        return None
    known = draft.users.get(user)
    secret = known.settings.get("secret") if known else None
    return AuthQuery(query, user, cast(Secret, secret.value) if secret else None, dbname or None)


def _own_query(draft: Draft, database: Entity) -> AuthQuery | None:
    has_own = any(f"auth_{name}" in database.settings for name in ("query", "user", "dbname"))
    return auth_query(draft, database) if has_own else None


def _lookup(draft: Draft, database: Entity) -> resolved.SecretLookup:
    query = auth_query(draft, database)
    return resolved.SecretLookup(query is not None, query.dbname if query else None)


def _line(draft: Draft, setting: Setting) -> SettingLine:
    default = written_default(setting)
    given = draft.settings.get((setting.section, setting.name))
    return SettingLine(setting.key, given.written if given else default, default, setting.is_live)


def written_default(setting: Setting) -> str:
    """The default as it would be written; empty where there is none."""
    default = setting.default
    if isinstance(default, tuple):
        return f"[{', '.join(default)}]"
    if isinstance(default, bool):
        return "true" if default else "false"
    return "" if default is None else str(default)
