"""topology = "poll": each endpoint is asked over a connection of its own, which no client ever uses.

| a probe | counts as |
|---|---|
| is answered in time | heard |
| is not, or nobody listens, or the server is starting or stopping | missed |
| is refused by a server that lets others in (it is full, or the password is wrong) | nothing: the role stays |
| ended late because this process itself could not run | nothing |
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import psycopg

from forebay._engine import Cluster
from forebay.admin.backend import EndpointRow
from forebay.config.topology import Topology
from forebay.control.console_link import first_line
from forebay.control.discover.asking import parameters
from forebay.control.discover.canary import Canary
from forebay.control.discover.question import IS_AURORA, OF_AURORA, OF_POSTGRES, Node, Seen, SeenOfAurora, are_placed
from forebay.control.discover.risk import Risk
from forebay.control.fleet.agreement import Record
from forebay.control.kept import Kept, Unanswered
from forebay.observe.log import event

if TYPE_CHECKING:
    from forebay.control.discover import Gate

# While a primary is missing, or about to be, endpoints are asked as often as this.
HURRY_S: Final = 0.1
# So are they while the replicas have not replayed what the primary has written: reads of who wrote it wait for that.
FOLLOW_S: Final = 0.1
# A probe that ends so much later than it should was kept from running; what it found says nothing.
STALLED_S: Final = 0.25
_LEVELS: Final = {
    "primary": logging.INFO, "replica": logging.INFO, "unknown": logging.INFO, "lagging": logging.WARNING,
    "astray": logging.WARNING, "down": logging.WARNING, "deposed": logging.ERROR, "contested": logging.ERROR,
    "stranger": logging.ERROR, "unnamed": logging.WARNING, "held": logging.INFO, "relieved": logging.WARNING,
}  # fmt: skip


class Poll:
    """Asks the endpoints of one database.

    before, risk: what is known of them already. gate: who must agree to a primary.
    """

    account: Final = None
    source: Final = None

    def __init__(
        self,
        topology: Topology,
        tell: Callable[[str, Cluster], None],
        before: Cluster | None = None,
        risk: Risk | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._topology = topology
        self._tell = tell
        self._gate = gate
        self._named: tuple[str, ...] | None = None
        # Whether nobody else can have become the named one since, unheard of here.
        self._is_named_still = True
        self._cluster = Cluster(list(topology.endpoints), topology.misses_max, topology.lag_max)
        # An endpoint has said so little of itself as one of Aurora's does.
        self._is_bare = False
        # Seconds that somebody else says they are behind: of those that tell no positions.
        self.lags: Mapping[str, float] = {}
        self._is_known = before is not None
        if before is not None:
            self._cluster.succeed(before)
        self._probes = [_Probe(topology, endpoint) for endpoint in topology.endpoints]
        self.risk = risk or Risk(topology)
        self.risk.forks.keep(topology.endpoints)
        for index, endpoint in enumerate(topology.endpoints):
            self._cluster.delay(index, self.risk.is_late(endpoint))
        nodes = self._cluster.nodes()
        self._unheard = {index for index, node in enumerate(nodes) if node[1] == "unknown"}
        self._roles = {node[0]: node[1] for node in nodes if node[1] != "unknown"}
        self._tasks: list[asyncio.Task[None]] = []
        self._canary = Canary(topology, self.look_now, self._cluster.confirm)

    def start(self) -> None:
        """Begins to ask."""
        if self._is_known:
            if not self._unheard:
                self._decide()
            # Endpoints that have gone must be known for nothing when they come back.
            self._tell_roles()
        self._tasks = [asyncio.ensure_future(self._watch(index)) for index in range(len(self._probes))]
        self._canary.start()

    def look_now(self) -> None:
        """Asks all of them at once."""
        for probe in self._probes:
            probe.is_due.set()

    def name(self, endpoints: Sequence[str] | None) -> None:
        """Somebody else says that these may write, and no others; None: nobody says so."""
        self._named = None if endpoints is None else tuple(endpoints)
        self.reconsider()

    def trust(self, *, is_named_still: bool) -> None:
        """Whether whoever is named holds the lease to this moment: without, two that can write are alike."""
        if self._is_named_still != is_named_still:
            self._is_named_still = is_named_still
            self.reconsider()

    def reconsider(self) -> None:
        """Who may write is said otherwise, it may be."""
        if self._unheard:
            self._cluster.name(None if self._named is None else list(self._named))
        elif self._decide():
            self._tell_roles()

    def hold(self, endpoint: str, *, is_relieved: bool) -> bool:
        """A switchover begins: the endpoint gets nothing new; is_relieved: what is under way there ends."""
        # Which of two came later is not known without timelines: it would be held for ever.
        is_held = self._are_placed() and self._cluster.hold(endpoint, is_relieved)
        if is_held and self._decide():
            # Before anybody is asked again, it may be over.
            self.risk.look(self._cluster.nodes(), None, time.monotonic())
            self._tell_roles()
        return is_held

    def release(self) -> None:
        """It is over, or undone."""
        self._cluster.release()
        if self._decide():
            self._tell_roles()

    async def close(self) -> None:
        """Asks nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._canary.close()
        for probe in self._probes:
            probe.close()

    @property
    def cluster(self) -> Cluster:
        """What is known of the endpoints."""
        return self._cluster

    def rows(self) -> Sequence[EndpointRow]:
        """The endpoints as they stand."""
        now, is_placed = time.monotonic(), self._are_placed()
        found = []
        for node, probe in zip(self._cluster.nodes(), self._probes, strict=True):
            name, standing, reason = node[:3]
            timeline, lsn, lag = node[3:] if is_placed else (None, None, None)
            canary, unconfirmed_s = self._canary.of(name)
            found.append(
                EndpointRow(
                    self._topology.database,
                    name,
                    standing,
                    self._reason(name, standing, reason),
                    timeline,
                    lsn,
                    lag,
                    None if probe.answered_at is None else now - probe.answered_at,
                    probe.error,
                    exposed_s=self._exposed_s(node),
                    canary=canary,
                    unconfirmed_s=unconfirmed_s,
                )
            )
        return found

    async def _watch(self, index: int) -> None:
        probe = self._probes[index]
        while True:
            probe.is_due.clear()
            try:
                await self._look(index)
            except Exception as error:
                # One probe that fails unforeseen must not end all that follow.
                event(logging.ERROR, "probe_failed", code="FB999", error=f"{type(error).__name__}: {error}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(probe.is_due.wait(), self._pause_s())

    async def _look(self, index: int) -> None:
        began = time.monotonic()
        asked_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        found = await self._probes[index].ask(self._topology.timeout_s)
        self._tell_refusal(index, isinstance(found, _Refused))
        was_stalled = time.monotonic() - began > self._topology.timeout_s + STALLED_S
        if isinstance(found, Seen):
            endpoint = self._topology.endpoints[index]
            self._cluster.heard(index, found.said, asked_us)
            self._is_bare |= not found.is_placed
            if found.is_placed:
                self.risk.forks.heard(
                    endpoint, is_in_recovery=found.is_in_recovery, timeline=found.timeline, lsn=found.lsn,
                    fork=found.fork, was_replica=self._probes[index].was_replica,
                )  # fmt: skip
                is_late = self.risk.heard(endpoint, is_in_recovery=found.is_in_recovery, lsn=found.lsn, asked_at=began)
                self._cluster.delay(index, is_late)
        elif found is None and not was_stalled:
            self._cluster.missed(index)
        self._unheard.discard(index)
        # Of which system they all are is said by most of them.
        if not self._unheard and self._decide():
            self._tell_roles()
        if self._are_placed():
            self.risk.look(self._cluster.nodes(), index if isinstance(found, Seen) else None, began)
        exposed_s = self._exposed_s(self._cluster.nodes()[index])
        self._cluster.expose(index, None if exposed_s is None else round(exposed_s))

    def _decide(self) -> bool:
        """Concludes, within what the source and the fleet say; whether some role is another one than before."""
        named, gate, memory = self._named, self._gate, self._cluster.memory()
        if not self._are_placed():
            # The fleet agrees on timelines. What keeps an old writer from writing is the storage of both.
            gate = None
        self._cluster.trust_lease(self._topology.is_lease_enough and self._is_named_still)
        if gate is None:
            self._cluster.name(None if named is None else list(named))
            return self._cluster.decide()
        admitted: list[str] | None = []
        if memory is not None:
            system, seen = memory
            if gate.floor(system) > seen:
                self._cluster.remember(system, gate.floor(system))
            admitted = gate.admitted(system)
            # The fleet holds leases of its own.
            self._cluster.trust_lease(self._topology.is_lease_enough and (self._is_named_still or admitted is not None))
        if admitted is None:
            admitted = None if named is None else list(named)
        elif named is not None:
            admitted = [each for each in admitted if each in named]
        self._cluster.name(admitted)
        has_changed = self._cluster.decide()
        if (memory := self._cluster.memory()) is not None:
            gate.claim(self._topology.database, memory[0], self._candidate())
        return has_changed

    def _exposed_s(self, node: Node) -> float | None:
        """How old what a replica has not replayed is at most, or is said to be; None: it is none, or nobody knows."""
        if self._are_placed():
            return self.risk.exposed_s(node)
        return self.lags.get(node[0]) if node[1] == "replica" else None

    def _are_placed(self) -> bool:
        """Whether they have timelines and positions, by what was heard here or before."""
        return not self._is_bare and are_placed(self._cluster.nodes())

    def _candidate(self) -> Record | None:
        """Where writes would go if the fleet agreed."""
        can_write = [
            Record(timeline, name)
            for name, role, _, timeline, *_ in self._cluster.nodes()
            if role in ("primary", "unnamed") and timeline is not None and (self._named is None or name in self._named)
        ]
        return can_write[0] if len(can_write) == 1 else None

    def _reason(self, name: str, role: str, reason: str) -> str:
        is_fleets = role == "unnamed" and self._gate is not None and (self._named is None or name in self._named)
        return "can write, and the fleet has not agreed that it may" if is_fleets else reason

    def _tell_refusal(self, index: int, is_refused: bool) -> None:
        """An endpoint that does not let us in has no role that anybody knows of; told once for each reason."""
        probe, name = self._probes[index], self._topology.endpoints[index]
        if is_refused and probe.error != probe.refused_with:
            event(logging.WARNING, "probe_refused", database=self._topology.database, endpoint=name, error=probe.error)
        if is_refused or probe.error is None:
            probe.refused_with = probe.error

    def _tell_roles(self) -> None:
        self._tell(self._topology.database, self._cluster)
        rows = self.rows()
        primary = next((row.endpoint for row in rows if row.role == "primary"), None)
        # Whether Aurora takes such a message is not known, and it has no log on a disk of its own.
        self._canary.follow(primary if self._are_placed() else None)
        for row in rows:
            if self._roles.get(row.endpoint) != row.role:
                self._roles[row.endpoint] = row.role
                event(_LEVELS[row.role], "endpoint_role", database=row.database, endpoint=row.endpoint, role=row.role,
                      because=f"it {row.reason}", timeline=row.timeline, error=row.error)  # fmt: skip

    def _pause_s(self) -> float:
        """Until the next probe: less where a primary is missing, or has missed one."""
        primary = next((index for index, node in enumerate(self._cluster.nodes()) if node[1] == "primary"), None)
        if primary is None:
            # Whoever refuses us will do so again.
            is_hurried = any(probe.refused_with is None for probe in self._probes)
        else:
            is_hurried = self._probes[primary].error is not None
        if is_hurried:
            return min(self._topology.interval_s, HURRY_S)
        is_followed = self._topology.is_followed and self._cluster.is_behind() and self._are_placed()
        return min(self._topology.interval_s, FOLLOW_S) if is_followed else self._topology.interval_s


class _Refused(Exception):
    """The server answers, and does not let us in."""


class _Probe:
    """The connection to one endpoint."""

    def __init__(self, topology: Topology, endpoint: str) -> None:
        self._parameters = parameters(topology, endpoint, "poll")
        # By which Amazon's clusters are known, where it may be one of Aurora's.
        self._cluster = topology.source.address if topology.source and topology.kind == "aurora" else None
        self._is_aurora = False
        self._kept = Kept()
        self.is_due = asyncio.Event()
        # Whether the server was a replica when it was asked on this connection before.
        self.was_replica = False
        self.answered_at: float | None = None
        self.error: str | None = None
        self.refused_with: str | None = None

    async def ask(self, timeout_s: float) -> Seen | _Refused | None:
        """What it says; None: it has missed this one."""
        try:
            row = await self._kept.answer(self._ask(), timeout_s)
        except Unanswered:
            self.error = f"no answer within {timeout_s:g} s"
            return None
        except (psycopg.Error, OSError) as error:
            self.close()
            self.error = first_line(error) if isinstance(error, psycopg.Error) else str(error)
            return _Refused() if _is_refusal(error) else None
        self.error = None
        self.answered_at = time.monotonic()
        if row is None:
            return None
        seen = SeenOfAurora(row, self._cluster) if self._cluster and self._is_aurora else Seen(row)
        self.was_replica |= seen.is_in_recovery
        return seen

    async def _ask(self) -> tuple[Any, ...] | None:
        before = self._kept.connection
        try:
            return await self._run()
        except psycopg.Error:
            # A kept connection may have ended with a server that has long been up again; one that was left is no more.
            if before is None or before is not self._kept.connection:
                raise
            self.close()
            return await self._run()

    async def _run(self) -> tuple[Any, ...] | None:
        connection = self._kept.connection
        if connection is None:
            self.was_replica = False
            connection = await self._kept.open(self._parameters)
            if self._cluster:
                self._is_aurora = await (await connection.execute(IS_AURORA.encode())).fetchone() == (True,)
        cursor = await connection.execute((OF_AURORA if self._is_aurora else OF_POSTGRES).encode())
        return await cursor.fetchone()

    def close(self) -> None:
        """Ends the connection."""
        self._kept.hang_up()


def _is_refusal(error: BaseException) -> bool:
    """Whether the server answers, and others may be let in: of a login, libpq tells no SQLSTATE."""
    words = str(error)
    return "FATAL" in words and "the database system is" not in words and "terminating connection" not in words
