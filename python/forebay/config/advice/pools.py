"""Sizes: pools against what servers accept, against each other's limits, and against open files."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from forebay.config.advice.facts import (
    LISTED_MAX,
    Facts,
    endpoints_of,
    given_values,
    is_fallback,
    is_given,
    shown,
    spoken,
    value_and_place,
)
from forebay.config.draft import Draft, Entity
from forebay.config.finding import Report
from forebay.config.resolve import pool_value
from forebay.config.source import Place

# Servers of one PostgreSQL that are a mistake whatever it accepts.
MANY_SERVERS = 1000
# Of a database: as whom it is asked for secrets, and for roles.
_ASKING = ("auth_user", "poll_user")
# Open files beside those of clients.
DESCRIPTORS_BESIDE = 100


@dataclass(frozen=True, slots=True)
class Pool:
    """The servers that one user may have in one database."""

    database: str
    user: str
    size: int

    def __str__(self) -> str:
        return f"{self.database}/{self.user} {self.size}"


@dataclass(frozen=True, slots=True)
class Demand:
    """What databases may want of one server. largest: some of the pools; grid: size, users, databases of equal ones.

    are_users_known: no more users may come. of_users, of_databases: by their names at the server, limits applied.
    """

    servers: int
    of_users: Mapping[str, int]
    of_databases: Mapping[str, int]
    pools: int
    largest: tuple[Pool, ...]
    grid: tuple[int, int, int] | None
    are_users_known: bool


def fit_the_server(draft: Draft, facts: Facts, report: Report) -> None:
    """A server that is full refuses everybody."""
    for endpoint, databases in _by_server(draft, facts):
        demand = _demand(draft, databases)
        server = facts.server(endpoint)
        servers = demand.servers * facts.instances
        place, name = _where(draft, databases)
        words = _in_words(demand, facts)
        if server is not None and servers > (room := server.connections_max - server.reserved):
            arithmetic = f"max_connections {server.connections_max} less {server.reserved} reserved is {room}"
            report.add(
                "pools_above_server", place, servers=servers, endpoint=endpoint, room=room, pools=words,
                arithmetic=arithmetic,
            )  # fmt: skip
        elif server is None and servers >= MANY_SERVERS and demand.pools > 1:
            report.add("pools_multiply", place, servers=servers, endpoint=endpoint, pools=words, name=name)


def fit_connection_limits(draft: Draft, facts: Facts, report: Report) -> None:
    """Roles and databases may have limits of their own at the server."""
    for endpoint, databases in _by_server(draft, facts):
        server = facts.servers.get(endpoint)
        if server is None:
            continue
        demand, place = _demand(draft, databases), _where(draft, databases)[0]
        kinds = (
            ("role", 'as user "{}"', server.role_limits, demand.of_users),
            ("database", 'in database "{}"', server.database_limits, demand.of_databases),
        )
        for kind, of, limits, wanted in kinds:
            for name, limit in limits.items():
                servers = wanted.get(name, 0) * facts.instances
                if servers > limit:
                    report.add(
                        "pools_above_connection_limit", place, servers=servers, of=of.format(name), endpoint=endpoint,
                        limit=limit, statement=f"ALTER {kind.upper()} {name}",
                    )  # fmt: skip


def _by_server(draft: Draft, facts: Facts) -> Iterator[tuple[str, list[Entity]]]:
    """Each server, by an endpoint as it was written, with the databases that lead there."""

    def known(endpoint: str) -> str:
        server = facts.servers.get(endpoint)
        return (server.identity if server else None) or _alike(endpoint)

    leading: dict[str, dict[str, Entity]] = defaultdict(dict)
    written: dict[str, str] = {}
    for database in draft.databases.values():
        for endpoint in endpoints_of(database):
            leading[known(endpoint)][database.name] = database
            written.setdefault(known(endpoint), endpoint)
    for identity, databases in leading.items():
        yield written[identity], list(databases.values())


def of_servers_that_said_nothing(draft: Draft, facts: Facts, report: Report) -> None:
    """What could not be asked may not be reached by pools either."""
    for endpoint, cause in facts.failures.items():
        database = next((one for one in draft.databases.values() if endpoint in endpoints_of(one)), None)
        place = database.settings["endpoints"].place if database else draft.whole
        report.add("could_not_ask", place, endpoint=endpoint, cause=cause)


def _alike(endpoint: str) -> str:
    """Two names of one server."""
    return endpoint.replace("localhost:", "127.0.0.1:", 1) if endpoint.startswith("localhost:") else endpoint


def _demand(draft: Draft, databases: list[Entity]) -> Demand:
    """Users and databases may be thousands each: nothing is kept of a pool but sums."""
    of_databases: Counter[str] = Counter()
    of_users: Counter[str] = Counter()
    sizes: set[int] = set()
    count = 0

    def counted() -> Iterator[Pool]:
        nonlocal count
        for database in databases:
            for pool in _pools(draft, database):
                count += 1
                of_databases[pool.database] += pool.size
                of_users[pool.user] += pool.size
                sizes.add(pool.size)
                yield pool

    largest = heapq.nlargest(LISTED_MAX + 1, counted(), key=lambda pool: pool.size)
    limits = {one.name: int(pool_value(draft, one, "max_db_connections")) for one in databases}
    users = {name: min(wanted, _user_limit(draft, name) or wanted) for name, wanted in of_users.items()}
    named: Counter[str] = Counter()
    for database in databases:
        dbname, wanted = database.settings.get("dbname"), of_databases[database.name]
        named[str(dbname.value) if dbname else database.name] += min(wanted, limits[database.name] or wanted)
    servers = min(sum(named.values()), sum(users.values()))
    looked_up = bool(draft.value("auth", "query") or draft.value("auth", "secret_source"))
    is_capped = all(limits[one.name] or "user" in one.settings for one in databases)
    is_open = any(is_fallback(one) for one in databases) or not is_capped
    is_grid = len(sizes) == 1 and count == len(of_users) * len(of_databases) > 1
    grid = (largest[0].size, len(of_users), len(of_databases)) if is_grid else None
    return Demand(servers, users, named, count, tuple(largest), grid, not (looked_up and is_open))


def _pools(draft: Draft, database: Entity) -> Iterator[Pool]:
    """One for the forced user, or one for each user that is known; where none is, for one that will come."""
    forced = database.settings.get("user")
    aside = _without_pools(draft)
    users = [str(forced.value)] if forced else [name for name in draft.users if name not in aside] or ["(a user)"]
    for name in users:
        user = draft.users.get(name)
        own = user.settings if user else {}
        sizes = [
            int(own[one].value) if one in own else int(pool_value(draft, database, one))  # type: ignore[arg-type]
            for one in ("pool_size", "reserve_pool_size")
        ]
        yield Pool(database.name, name, sum(sizes))


def _without_pools(draft: Draft) -> frozenset[object]:
    """Users that forebay itself asks as, and those of the console: as a rule no client of a database is one of them."""
    console = (draft.value("console", name) for name in ("admins", "viewers"))
    asking = (one.settings[name].value for one in draft.databases.values() for name in _ASKING if name in one.settings)
    listed = (name for names in console if isinstance(names, list | tuple) for name in names)
    return frozenset((draft.value("auth", "user"), *asking, *listed))


def _user_limit(draft: Draft, user: str) -> int:
    known = draft.users.get(user)
    if known is None:
        return 0
    own = known.settings.get("max_user_connections")
    value = own.value if own else draft.value("limits", "max_user_connections")
    return value if isinstance(value, int) else 0


def _where(draft: Draft, databases: list[Entity]) -> tuple[Place, str]:
    """The line to change, and its name: the size of the largest pool."""
    largest = max(databases, key=lambda one: int(pool_value(draft, one, "pool_size")))
    place = value_and_place(draft, largest, "pool_size")[1]
    return place, "pool_size" if "pool_size" in largest.settings else shown(draft, "server_defaults", "pool_size")


def _in_words(demand: Demand, facts: Facts) -> str:
    """The largest pools, and what else is counted."""
    words = ", ".join(str(pool) for pool in demand.largest[:LISTED_MAX])
    if demand.grid is not None:
        size, users, databases = demand.grid
        of_users = f" for each of {users} users" if users > 1 else ""
        of_databases = f" in each of {databases} databases" if databases > 1 else ""
        words = f"{size}{of_users}{of_databases}"
    elif demand.pools > LISTED_MAX:
        words += f" and {demand.pools - LISTED_MAX} more"
    if facts.instances > 1:
        words += f", in each of {facts.instances} instances"
    return words if demand.are_users_known else f"{words}; more for each further user"


def can_be_reached(draft: Draft, facts: Facts, report: Report) -> None:
    """A size that another limit forbids is no size."""
    for user in draft.users.values():
        own = _user_limit(draft, user.name)
        size = user.settings.get("pool_size")
        if own and size is not None and isinstance(size.value, int) and size.value > own:
            report.add("pool_above_user_limit", size.place, size=size.value, name=user.name, limit=own)
    limit = draft.value("limits", "max_user_connections")
    pool = draft.value("server_defaults", "pool_size")
    if limit and isinstance(limit, int) and isinstance(pool, int) and pool > limit:
        place = draft.place("limits", "max_user_connections")
        report.add("pool_above_user_limit", place, size=pool, name="every user", limit=limit)


def have_a_reserve_in_time(draft: Draft, facts: Facts, report: Report) -> None:
    """A reserve helps those who wait: not at once, and before they give up."""
    sizes = [int(size) for _, size, _ in given_values(draft, "reserve_pool_size")]
    if not any(sizes):
        if is_given(draft, "server_defaults", "reserve_pool_timeout"):
            report.add("reserve_without_size", draft.place("server_defaults", "reserve_pool_timeout"))
        return
    for database in draft.databases.values():
        size, place = value_and_place(draft, database, "reserve_pool_size")
        timeout, timeout_place = value_and_place(draft, database, "reserve_pool_timeout")
        wait, wait_place = value_and_place(draft, database, "query_wait_timeout")
        if size and not timeout:
            report.add("reserve_at_once", place, size=size)
        elif size and wait and timeout >= wait:
            near = timeout_place if timeout_place != database.place else wait_place
            report.add("reserve_too_late", near, timeout=spoken(timeout), wait=spoken(wait))


def fit_the_descriptors(draft: Draft, facts: Facts, report: Report) -> None:
    """Each client is an open file."""
    clients = draft.value("limits", "max_client_conn")
    if facts.descriptors is None or not isinstance(clients, int):
        return
    needed = clients + DESCRIPTORS_BESIDE
    if needed > facts.descriptors:
        place = draft.place("limits", "max_client_conn")
        report.add("clients_above_descriptors", place, clients=clients, needed=needed, limit=facts.descriptors)
