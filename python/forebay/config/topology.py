"""Databases whose endpoints are a primary and its replicas: how they are asked which is which."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, cast

from forebay.config.draft import BY_KEY, Draft, Entity, default_of
from forebay.config.preferences import NO_WISHES, Wishes, wishes
from forebay.config.resolved import ClusterConfig, DatabaseConfig, ServerTls
from forebay.config.secret import Secret

# Levels of read_consistency at which reads wait for what the replicas have replayed.
FOLLOWED: Final = ("read_your_writes", "session")
SOURCE_SETTINGS: Final = ("topology_source", "topology_source_user", "topology_source_secret")
SOURCE_EXAMPLES: Final = {
    "patroni": "patroni://10.0.0.1:8008,10.0.0.2:8008",
    "etcd": "etcd://10.0.0.1:2379,10.0.0.2:2379/scope",
    "dns": "dns://db.example.com:5432",
    "kubernetes": "kubernetes://namespace/service",
    "aurora": "aurora://shop.cluster-abc123.eu-west-1.rds.amazonaws.com",
}


@dataclass(frozen=True, slots=True)
class TopologySource:
    """Who tells the endpoints besides themselves. address: without a login."""

    address: str
    user: str | None
    secret: Secret | None


@dataclass(frozen=True, slots=True)
class Topology:
    """The endpoints of a database, and as whom they are asked.

    kind: a name of `topology`. Times are seconds, lag_max is bytes, 0 for no limit. is_followed: reads await replicas.
    canary_s: between two write canaries, 0 for none; rpo_target_s: 0 for none.
    is_lease_enough: of two that can write, the one that is named gets writes.
    wishes: what is said of its endpoints, whoever names them.
    """

    kind: str
    database: str
    endpoints: tuple[str, ...]
    dbname: str
    user: str
    secret: Secret | None
    tls: ServerTls
    interval_s: float
    timeout_s: float
    misses_max: int
    lag_max: int
    is_followed: bool
    wishes: Wishes = NO_WISHES
    source: TopologySource | None = None
    canary_s: float = 0.0
    canary_timeout_s: float = 5.0
    rpo_target_s: float = 0.0
    lag_s_max: float = 0.0
    is_lease_enough: bool = False


def own_value(database: Entity, name: str) -> object:
    """A setting that only databases have, or its default."""
    given = database.settings.get(name)
    return given.value if given else default_of(BY_KEY["databases", name])


def has_topology(database: Entity) -> bool:
    """Whether roles of its endpoints are looked for."""
    return own_value(database, "topology") != "none"


def cluster_value(draft: Draft, database: Entity, name: str) -> object:
    """A setting that databases have of their own or from [server_defaults]."""
    given = database.settings.get(name)
    return given.value if given else draft.value("server_defaults", name)


def cluster(draft: Draft, database: Entity) -> ClusterConfig | None:
    """What the engine is told of it."""
    if not has_topology(database):
        return None
    return ClusterConfig(
        role=str(own_value(database, "role")),
        is_split=bool(own_value(database, "read_write_split")),
        read_consistency=str(own_value(database, "read_consistency")),
        retries_reads=bool(own_value(database, "retry_reads")),
        holds_per_hour_max=cast(int, cluster_value(draft, database, "holds_per_hour_max")),
    )


def poll_login(draft: Draft, database: Entity) -> tuple[str, Secret | None] | None:
    """Who asks its endpoints; None where nobody is named."""
    named, forced = database.settings.get("poll_user"), database.settings.get("user")
    name = str((named or forced).value) if named or forced else str(draft.value("auth", "user") or "")  # type: ignore[union-attr]
    if not name:
        return None
    own = database.settings.get("secret") if forced and not named else None
    known = draft.users.get(name)
    given = own or (known.settings.get("secret") if known else None)
    return name, given.value if given and isinstance(given.value, Secret) else None


def has_source(database: Entity) -> bool:
    """Whether somebody besides its endpoints tells of them."""
    return own_value(database, "topology") not in ("none", "poll")


def topology_source(database: Entity) -> TopologySource | None:
    """Who tells of its endpoints; None where nobody does, or is named."""
    address, user, secret = (
        given.value if (given := database.settings.get(f"topology_source{which}")) else None
        for which in ("", "_user", "_secret")
    )
    if address is None or not has_source(database):
        return None
    return TopologySource(str(address), None if user is None else str(user), cast("Secret | None", secret))


def topologies(draft: Draft, databases: Iterable[DatabaseConfig], contexts: list[ServerTls]) -> tuple[Topology, ...]:
    """Those of all databases that have one."""
    found = []
    for resolved in databases:
        entity = draft.databases[resolved.name]
        if resolved.cluster is None:
            continue
        user, secret = poll_login(draft, entity) or ("", None)

        def value(name: str, entity: Entity = entity) -> float:
            return cast(float, cluster_value(draft, entity, name))

        found.append(
            Topology(
                kind=str(own_value(entity, "topology")),
                database=resolved.name,
                endpoints=resolved.endpoints,
                dbname=resolved.dbname,
                user=user,
                secret=secret,
                tls=contexts[resolved.tls],
                interval_s=value("poll_interval") / 1_000_000,
                timeout_s=value("poll_timeout") / 1_000_000,
                misses_max=int(value("poll_misses")),
                lag_max=int(value("replica_lag_max")),
                wishes=wishes(draft, entity),
                source=topology_source(entity),
                canary_s=value("canary_interval") / 1_000_000,
                canary_timeout_s=value("canary_timeout") / 1_000_000,
                rpo_target_s=value("rpo_target") / 1_000_000,
                lag_s_max=value("replica_lag_time_max") / 1_000_000,
                is_lease_enough=str(value("on_two_primaries")) == "lease",
                is_followed=resolved.cluster.is_split and resolved.cluster.read_consistency in FOLLOWED,
            )
        )
    return tuple(found)
