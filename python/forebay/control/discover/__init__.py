"""Finds the endpoints of clusters and their roles, and tells the engine.

| `topology` | endpoints are | roles are said by |
|---|---|---|
| poll | those of the configuration | themselves: `poll.py` |
| of a kind in `registry.py` | those that the source names | themselves, and who may write by the source: `told.py` |
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec.structs import replace

from forebay._engine import Cluster
from forebay.admin.backend import EndpointRow, FailoverRow
from forebay.config.preferences import preferences
from forebay.config.resolved import DatabaseConfig, EngineConfig
from forebay.config.topology import Topology, TopologySource
from forebay.control.discover.memory import NAME, Known, Memory
from forebay.control.endpoint import own_connection
from forebay.failure import Failure

if TYPE_CHECKING:
    from forebay.control.discover.member import Renewal, Source
    from forebay.control.discover.risk import Risk
    from forebay.control.discover.told import Account, Move, Tell
    from forebay.control.fleet.agreement import Record


# Endpoints that a question of forebay's own may go to, the best first.
_ASKED: Final = ("primary", "held", "replica", "unnamed", "lagging", "unknown", "down")

# Those that can write, and those that say nothing that holds.
_WRITING: Final = ("primary", "held", "relieved", "unnamed", "contested")
_LEFT: Final = ("down", "stranger", "deposed")

# Of a service manager, for files that outlive the process.
STATE_DIRECTORY: Final = "STATE_DIRECTORY"
# How often it is looked at whether there is something new to keep; roles that change are kept at once.
KEEP_S: Final = 1.0


class Follower(Protocol):
    """Watches one database's endpoints from `start` to `close`."""

    def start(self) -> None:
        """Begins to ask."""

    def look_now(self) -> None:
        """A server was lost: whoever is asked next is asked at once."""

    def reconsider(self) -> None:
        """The fleet may have agreed on another primary."""

    def hold(self, endpoint: str, *, is_relieved: bool) -> bool:
        """A switchover begins: the endpoint gets nothing new; is_relieved: what is under way there ends.

        False: it can't write by now, and nothing is otherwise than before.
        """

    def release(self) -> None:
        """It is over, or undone."""

    async def close(self) -> None:
        """Asks nothing more."""

    def rows(self) -> Sequence[EndpointRow]:
        """The endpoints as they stand."""

    @property
    def cluster(self) -> Cluster:
        """What is known of them."""

    @property
    def risk(self) -> Risk:
        """What changes of the primary have cost, and the next one may."""

    @property
    def account(self) -> Account | None:
        """What somebody besides them has told."""

    @property
    def source(self) -> Source | None:
        """Who that is."""


class Gate(Protocol):
    """Who must agree before writes go to an endpoint: the fleet."""

    def admitted(self, system: int) -> list[str] | None:
        """Endpoints of a system that may get writes; None: it does not say."""

    def floor(self, system: int) -> int:
        """The highest timeline of a system that was seen to write anywhere."""

    def claim(self, database: str, system: int, record: Record | None) -> None:
        """This process would write there for a database; None: nowhere that it knows of."""


@dataclass(frozen=True, slots=True)
class _Before:
    """What was known of a cluster before somebody else follows it: its endpoints, its source, `Risk.words`."""

    cluster: Cluster | None = None
    account: Account | None = None
    risk: Mapping[str, Any] | None = None


class Discovery:
    """Follows the clusters of the configuration in force.

    move: puts in force what `overlaid` gives. environment: of the process.
    """

    def __init__(self, tell: Tell, move: Move, environment: Mapping[str, str]) -> None:
        self._tell = tell
        self._move = move
        self._environment = environment
        self.fleet: Gate | None = None
        self._followers: dict[str, tuple[Topology, Follower]] = {}
        self._made: dict[str, Source] = {}
        # Certificates of sources that go on, read for a configuration that is not in force yet.
        self._read: dict[str, Renewal] = {}
        # What was told when a configuration was last put together.
        self._given: dict[str, Account] = {}
        # What a process whose place this one takes knew, by database.
        self._inherited: Mapping[str, Any] = {}
        self._memory: Memory | None = None
        # What it gave at the start.
        self._remembered: Known = {}
        self._keeping: asyncio.Task[None] | None = None

    async def remember(self, file: Path | None) -> None:
        """Goes on from what was kept in a file, and keeps it there. None: in the service manager's folder, if any."""
        folder = self._environment.get(STATE_DIRECTORY, "").partition(":")[0]
        if file is None and folder:
            file = Path(folder) / NAME
        if file is not None:
            self._memory = Memory(file)
            self._remembered = await asyncio.to_thread(self._memory.read)
            self._keeping = asyncio.ensure_future(self._keep_on())

    async def prepare(self, topologies: Sequence[Topology]) -> None:
        """Makes the sources that `follow` will need, and reads the certificates of those that go on.

        Raises Failure for one that can't be used.
        """
        await self._drop_made()
        if topologies:
            # Whoever connects first does not wait for the driver to be imported.
            await asyncio.to_thread(import_module, "forebay.control.discover.told")
        for topology in topologies:
            if topology.source is None:
                continue
            running = self._followers.get(topology.database)
            try:
                if running is None or running[0] != topology:
                    best = partial(self._best, topology.database)
                    self._made[topology.database] = await asyncio.to_thread(
                        build_source, topology, topology.source, self._environment, best
                    )
                else:
                    self._read[topology.database] = await asyncio.to_thread(_read_files, running[1].source)
            except Failure as failure:
                words = f'database "{topology.database}": {failure.message}'
                raise Failure(words, hint=failure.hint, exit=failure.exit) from None

    async def follow(self, topologies: Sequence[Topology]) -> None:
        """Watches these, and nothing else; what is watched already, and has not changed, goes on.

        One that has changed goes on from what was seen before.
        """
        wanted = {one.database: one for one in topologies}
        known: dict[str, _Before] = {}
        for name, (topology, follower) in list(self._followers.items()):
            if wanted.get(name) != topology:
                del self._followers[name]
                # What has been told since is not in force, and is told again.
                known[name] = _Before(follower.cluster, self._given.get(name), follower.risk.words())
                await follower.close()
        for name, topology in wanted.items():
            if name in self._followers and (renew := self._read.get(name)):
                await renew()
            if name not in self._followers:
                follower = self._follower(topology, known.get(name) or self._inheritance(topology))
                self._followers[name] = (topology, follower)
                follower.start()
        self._inherited, self._remembered = {}, {}
        await self._drop_made()

    def overlaid(self, engine: EngineConfig, topologies: Sequence[Topology]) -> EngineConfig:
        """A configuration with the endpoints that sources have told in place of the listed ones."""
        self._given = {one.database: account for one in topologies if (account := self._account(one))}
        wanted = {one.database: one.wishes for one in topologies}

        def overlaid(one: DatabaseConfig) -> DatabaseConfig:
            account = self._given.get(one.name)
            if account is None:
                return one
            said = preferences(wanted[one.name], account.endpoints, dict(account.said))
            return replace(one, endpoints=account.endpoints, preferences=said)

        return replace(engine, databases=tuple(map(overlaid, engine.databases))) if self._given else engine

    def legacy(self) -> dict[str, Any]:
        """What a process that takes this one's place is to know; of JSON's types."""
        return {
            name: {
                "kind": topology.kind,
                "memory": follower.cluster.memory(),
                "written": follower.cluster.written(),
                "endpoints": follower.cluster.legacy(),
                "account": None if follower.account is None else follower.account.words(),
                "risk": follower.risk.words(),
            }
            for name, (topology, follower) in self._followers.items()
        }

    def inherit(self, legacy: Mapping[str, Any]) -> None:
        """Takes over what another process knew. Before anything is followed."""
        self._inherited = legacy

    def suspect(self, database: str) -> None:
        """A server of the database was lost."""
        if database in self._followers:
            self._followers[database][1].look_now()

    def reconsider(self) -> None:
        """The fleet may have agreed on another primary."""
        for _, follower in self._followers.values():
            follower.reconsider()

    def look_now(self, databases: Iterable[str]) -> None:
        """Asks all endpoints of these databases at once."""
        for database in databases:
            self.suspect(database)

    def hold(self, databases: Iterable[str], endpoint: str, *, is_relieved: bool) -> bool:
        """A switchover begins: see `Follower.hold`. False: not all of them are held."""
        followers = [self._followers.get(database) for database in databases]
        # All of them are told, also after one that says no.
        held = [one is not None and one[1].hold(endpoint, is_relieved=is_relieved) for one in followers]
        return all(held)

    def release(self, databases: Iterable[str]) -> None:
        """It is over, or undone."""
        for database in databases:
            if database in self._followers:
                self._followers[database][1].release()

    def topology(self, database: str) -> Topology | None:
        """How a database's endpoints are asked; None where it has no topology."""
        running = self._followers.get(database)
        return running[0] if running else None

    def asking(self, database: str) -> dict[str, Any] | None:
        """What libpq needs to know to ask a database with a topology itself, as who asks for its roles does."""
        topology = self.topology(database)
        if topology is None or not (endpoints := self.by_use(database, topology.endpoints)):
            return None
        return own_connection(endpoints, topology.dbname, topology.user, topology.secret, topology.tls)

    def source(self, database: str) -> Source | None:
        """Who tells of a database's endpoints besides themselves."""
        running = self._followers.get(database)
        return running[1].source if running else None

    def rows(self) -> list[EndpointRow]:
        """The endpoints of all clusters."""
        return [row for topology, follower in self._followers.values() for row in self._rows(topology, follower)]

    def _rows(self, topology: Topology, follower: Follower) -> list[EndpointRow]:
        """With what is said of them."""
        rows = follower.rows()
        told = dict(follower.account.said) if follower.account else {}
        said = {one.endpoint: one for one in preferences(topology.wishes, (row.endpoint for row in rows), told)}
        return [row.preferred(said.get(row.endpoint)) for row in rows]

    def failovers(self) -> list[FailoverRow]:
        """Changes of primaries that were seen, by database, the last of each last."""
        return [row for _, follower in self._followers.values() for row in follower.risk.failovers]

    def by_use(self, database: str, listed: Sequence[str]) -> Sequence[str]:
        """Its endpoints for a question of forebay's own, the primary first; those that are no copy of it are left out.

        listed: those of the configuration, for where nothing is known. Empty: none may be asked.
        """
        if database not in self._followers or not (rows := self._followers[database][1].rows()):
            return listed
        asked = [row for row in rows if row.role in _ASKED]
        return [row.endpoint for row in sorted(asked, key=lambda row: _ASKED.index(row.role))]

    def _best(self, database: str) -> Sequence[str]:
        """Its endpoints for who asks them of the cluster: those that can write know of it first-hand."""
        running = self._followers.get(database)
        rows = running[1].rows() if running else ()
        return [row.endpoint for row in sorted(rows, key=lambda row: (row.role in _LEFT, row.role not in _WRITING))]

    async def close(self) -> None:
        """Watches nothing any more."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._memory is not None:
            self._keep()
            await self._memory.flush()
            self._memory = None
        await self.follow(())

    async def _keep_on(self) -> None:
        while True:
            await asyncio.sleep(KEEP_S)
            # Before the first is followed, nothing is known anew.
            if not self._remembered:
                self._keep()

    def _keep(self) -> None:
        if self._memory is not None:
            found = {name: follower.cluster.memory() for name, (_, follower) in self._followers.items()}
            self._memory.keep({name: memory for name, memory in found.items() if memory is not None})

    def _tell_and_keep(self, database: str, cluster: Cluster) -> None:
        """What must not be forgotten is under way to the disk when the first request goes by it."""
        if not self._remembered:
            self._keep()
        self._tell(database, cluster)

    def _account(self, topology: Topology) -> Account | None:
        """What a source of this kind has told, if one is followed: whoever is asked from now on may be away."""
        running = self._followers.get(topology.database)
        if running is None:
            return self._inheritance(topology).account
        is_alike = topology.source is not None and running[0].kind == topology.kind
        return running[1].account if is_alike else None

    def _inheritance(self, topology: Topology) -> _Before:
        """What a process before this one knew of it."""
        known, kept = self._inherited.get(topology.database), self._remembered.get(topology.database)
        if known is None and kept is None:
            return _Before()
        known = known or {"kind": None, "account": None, "memory": None}
        from forebay.control.discover.legacy import since_us, taken_over
        from forebay.control.discover.told import Account

        is_alike = topology.source is not None and known["kind"] == topology.kind
        account = Account.of(known["account"]) if is_alike and known["account"] else None
        cluster = Cluster(list(account.endpoints if account else topology.endpoints), topology.misses_max,
                          topology.lag_max)  # fmt: skip
        # A release before this one told of the cluster alone.
        for system, timeline in known.get("written", ()):
            cluster.recall(system, timeline)
        # A process that has just given its place knows it better than the file.
        if memory := known["memory"] or kept:
            cluster.remember(*memory)
        # A release before this one said nothing of them.
        if endpoints := known.get("endpoints"):
            cluster.inherit(taken_over(endpoints), since_us(topology))
        return _Before(cluster, account, known.get("risk"))

    def _follower(self, topology: Topology, before: _Before) -> Follower:
        # The driver is imported where a database needs it.
        from forebay.control.discover.poll import Poll
        from forebay.control.discover.risk import Risk
        from forebay.control.discover.told import Told

        risk = Risk(topology, before.risk)
        if topology.source is None:
            return Poll(topology, self._tell_and_keep, before.cluster, risk, self.fleet)
        source = self._made.pop(topology.database)
        return Told(topology, source, self._tell_and_keep, self._move, before=before.cluster, risk=risk,
                    account=before.account, gate=self.fleet)  # fmt: skip

    async def _drop_made(self) -> None:
        self._read.clear()
        for name in list(self._made):
            await self._made.pop(name).close()


def _read_files(source: Source | None) -> Renewal:
    """Blocks. Raises Failure."""
    from forebay.control.discover.member import SecuredSource

    async def nothing() -> None: ...

    return source.read_files() if isinstance(source, SecuredSource) else nothing


def build_source(
    topology: Topology,
    told_by: TopologySource,
    environment: Mapping[str, str],
    best: Callable[[], Sequence[str]] = tuple,
) -> Source:
    """Who tells a database's endpoints, not asked yet. best: those to ask, where that is a server. Raises Failure."""
    from forebay.control.discover import registry
    from forebay.control.discover.registration import Means, Servers

    def servers() -> Servers:
        # The driver is imported where a database needs it.
        from forebay.control.discover.asking import Asking

        return Asking(topology, best)

    means = Means(environment=environment, timeout_s=topology.timeout_s, servers=servers)
    return registry.build(told_by.address, means, user=told_by.user, password=told_by.secret)
