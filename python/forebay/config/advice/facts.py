"""What advice rests on beside the configuration: this machine, the servers as they answered, and how to name things."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from forebay.config.draft import BY_KEY, Draft, Entity
from forebay.config.measures import duration_text
from forebay.config.resolve import FALLBACK, pool_value
from forebay.config.source import Place

RESERVED_DEFAULT = 3
# Names and numbers that are listed before the rest is counted.
LISTED_MAX = 4


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server said of itself.

    reserved: connections that are not for everybody. idle_limit: µs, 0: none. role_limits, database_limits: those
    that have one (CONNECTION LIMIT), superusers left out. identity: the same by whatever address it is reached.
    """

    connections_max: int
    reserved: int = RESERVED_DEFAULT
    idle_limit: int = 0
    role_limits: Mapping[str, int] = field(default_factory=dict)
    database_limits: Mapping[str, int] = field(default_factory=dict)
    identity: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """instances: processes that run with the configuration. connections_max: of each server that was not asked.

    descriptors: open files that a process may have; None: no limit, or not known. servers: by endpoint, as in the
    engine's configuration; failures: why others could not be asked.
    """

    instances: int = 1
    connections_max: int | None = None
    descriptors: int | None = None
    servers: Mapping[str, ServerFacts] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)

    def server(self, endpoint: str) -> ServerFacts | None:
        """What is known of a server."""
        asked = self.servers.get(endpoint)
        if asked is None and self.connections_max is not None:
            return ServerFacts(self.connections_max)
        return asked


def is_given(draft: Draft, section: str, name: str) -> bool:
    """Whether the user set it; PgBouncer's defaults stand at the place of the whole."""
    given = draft.settings.get((section, name))
    return given is not None and given.place != draft.whole


def shown(draft: Draft, section: str, name: str) -> str:
    """A setting's name in the user's file."""
    setting = BY_KEY[section, name]
    is_ini = draft.whole.source.is_ini or draft.process is not None
    return setting.pgbouncer if is_ini and setting.pgbouncer else setting.key


def value_and_place(draft: Draft, database: Entity, name: str) -> tuple[Any, Place]:
    """A pool's setting, and where it was given; the place of the database where it was not."""
    own = database.settings.get(name)
    if own is not None:
        return own.value, own.place
    place = draft.place("server_defaults", name)
    return pool_value(draft, database, name), place if place != draft.whole else database.place


def given_values(draft: Draft, name: str) -> Iterable[tuple[str, Any, Place]]:
    """A pool's setting everywhere it was given: whose it is ("" for all), its value and its place."""
    given = draft.settings.get(("server_defaults", name))
    if given is not None and given.place != draft.whole:
        yield "", given.value, given.place
    for entity in (*draft.databases.values(), *draft.users.values()):
        own = entity.settings.get(name)
        if own is not None:
            yield entity.name, own.value, own.place


def endpoints_of(database: Entity) -> tuple[str, ...]:
    """Where a database leads to."""
    given = database.settings.get("endpoints")
    return given.value if given is not None and isinstance(given.value, tuple) else ()


def modes_of(draft: Draft, database: Entity) -> set[str]:
    """The pooling modes of a database's pools."""
    users = {str(user.settings["pool_mode"].value) for user in draft.users.values() if "pool_mode" in user.settings}
    return {str(pool_value(draft, database, "pool_mode")), *users}


def listed(names: Iterable[str]) -> str:
    """Some names, and how many more there are."""
    all_of_them = list(names)
    rest = len(all_of_them) - LISTED_MAX
    return ", ".join(all_of_them[:LISTED_MAX]) + (f" and {rest} more" if rest > 0 else "")


def spoken(us: int) -> str:
    """A duration, or that there is no limit."""
    return duration_text(us) if us else "no limit"


def is_fallback(database: Entity) -> bool:
    """Whether it serves every name."""
    return database.name == FALLBACK
