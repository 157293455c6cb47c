"""Rules and maps as the engine reads them (the twin of forebay-core's config/access.rs), and who judges passwords."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from forebay.config.secret import Secret

# all, sameuser or replication; or a table with the one key name or regex.
Pattern = str | dict[str, str]


class AccessRule(msgspec.Struct, frozen=True):
    """A line of pg_hba.conf. network: address and mask; None: all."""

    place: str
    kind: str
    databases: tuple[Pattern, ...]
    users: tuple[Pattern, ...]
    network: tuple[str, str] | None
    method: str
    map: str | None = None
    certificate: str = "none"
    service: int = 0


class MapLine(msgspec.Struct, frozen=True):
    """A line of pg_ident.conf."""

    map: str
    system: Pattern
    user: Pattern


class Access(msgspec.Struct, frozen=True):
    """Who may log in how. rules: None where one method holds for all, and service is its judge."""

    rules: tuple[AccessRule, ...] | None = None
    maps: tuple[MapLine, ...] = ()
    service: int = 0
    scram_iterations: int = 0


@dataclass(frozen=True, slots=True)
class Directory:
    """An LDAP directory that judges passwords.

    servers: (host, port), tried in order. is_tls: from the first byte; is_starttls: after a request.
    prefix, suffix: around the user's name, for a bind without a search.
    base: where the user is searched; None: no search. binder, bind_secret: who searches; empty: nobody in particular.
    attribute: that holds the user's name; filter: a filter in place of it, with $username. scope: base, one or sub.
    """

    servers: tuple[tuple[str, int], ...]
    is_tls: bool = False
    is_starttls: bool = False
    prefix: str = ""
    suffix: str = ""
    base: str | None = None
    binder: str = ""
    bind_secret: Secret = field(default_factory=lambda: Secret(""))
    attribute: str = "uid"
    filter: str = ""
    scope: str = "sub"


@dataclass(frozen=True, slots=True)
class PamService:
    """A PAM service that judges passwords. names_host: it is told the name of the client's host, not its address."""

    name: str
    names_host: bool = False


@dataclass(frozen=True, slots=True)
class AccessRules:
    """All of it. judges: by the number that rules hold, which is the same in every configuration of this process."""

    engine: Access = field(default_factory=Access)
    judges: Mapping[int, Directory | PamService] = field(default_factory=dict)
