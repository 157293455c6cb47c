"""A topology that somebody besides its endpoints tells of: which there are, and which of them may write.

The endpoints are asked all the same: whether one can write is for itself to say.

| the source | then |
|---|---|
| names other endpoints than before | they are the database's from now on; what was seen of those that stay holds |
| names primaries, and an endpoint that can write is none of them | it is `unnamed`, and gets nothing |
| does not tell roles | what the endpoints say decides |
| is away | what it told last holds; the log says so once |
| has not told anything for as long as a lease lasts | of two that can write on one timeline, none is the named one |
| has not answered yet | the endpoints are those of the configuration, and what they say decides |
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from forebay._engine import Cluster, EngineError
from forebay.admin.backend import EndpointRow
from forebay.config.preferences import Said
from forebay.config.source_address import is_host
from forebay.config.topology import Topology
from forebay.control.discover.member import Role, Sighting, Source, SourceFailed, TimedSource, WatchedSource
from forebay.control.discover.poll import Poll
from forebay.control.discover.risk import Risk
from forebay.observe.log import event

if TYPE_CHECKING:
    from forebay.control.discover import Gate

# A watch that has ended, and a source that failed, is asked again after this at the earliest.
AGAIN_S: Final = 0.25
# How long whoever is named may write without having been named again, where the source does not tell: Patroni's ttl.
LEASE_S: Final = 30.0

# What a source calls good for long is asked for again after this: as dns.max_ttl is by default.
TTL_S_MAX: Final = 15.0

Tell = Callable[[str, Cluster], None]
# Puts the endpoints of a database in force that `endpoints` of its follower has by then. Raises EngineError.
Move = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Account:
    """What a source has told last.

    named: the endpoints that may write; None: it does not tell. said: weights and zones of those of which it tells.
    """

    endpoints: tuple[str, ...]
    named: tuple[str, ...] | None
    said: tuple[tuple[str, Said], ...] = ()

    def words(self) -> dict[str, Any]:
        """It in JSON's types."""
        said = [[endpoint, one.weight, one.zone] for endpoint, one in self.said]
        named = None if self.named is None else list(self.named)
        return {"endpoints": list(self.endpoints), "named": named, "said": said}

    @classmethod
    def of(cls, words: Mapping[str, Any]) -> Account:
        """What `words` gave."""
        named = words["named"]
        # A release before this one said nothing of them.
        said = tuple((endpoint, Said(weight, zone)) for endpoint, weight, zone in words.get("said", ()))
        return cls(tuple(words["endpoints"]), None if named is None else tuple(named), said)


class Told:
    """Follows one database's source, and asks the endpoints that it names.

    account: what the source told before.
    """

    def __init__(
        self,
        topology: Topology,
        source: Source,
        tell: Tell,
        move: Move,
        *,
        before: Cluster | None = None,
        risk: Risk | None = None,
        account: Account | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._topology = topology
        self._source = source
        self._tell = tell
        self._move = move
        self._gate = gate
        self.account = account
        self._told_at: float | None = None
        self._is_away = False
        # Seconds that the source says replicas are behind.
        self._lags: Mapping[str, float] = {}
        self._refused: str | None = None
        # As the source tells it; and what ends the trust in it, also where a source is silent and nothing says so.
        self._lease_s: float | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._is_due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._poll = self._make_poll(before, risk)

    @property
    def cluster(self) -> Cluster:
        """What is known of the endpoints."""
        return self._poll.cluster

    @property
    def risk(self) -> Risk:
        """What failovers have cost, and the next one may."""
        return self._poll.risk

    @property
    def source(self) -> Source:
        """Who tells."""
        return self._source

    def reconsider(self) -> None:
        """The fleet may have agreed on another primary."""
        self._poll.reconsider()

    def hold(self, endpoint: str, *, is_relieved: bool) -> bool:
        """A switchover begins."""
        return self._poll.hold(endpoint, is_relieved=is_relieved)

    def release(self) -> None:
        """It is over, or undone."""
        self._poll.release()

    def start(self) -> None:
        """Begins to ask."""
        self._poll.start()
        self._renew()
        self._task = asyncio.ensure_future(self._follow())

    def look_now(self) -> None:
        """Asks the source and all endpoints at once."""
        self._is_due.set()
        self._poll.look_now()

    async def close(self) -> None:
        """Asks nothing more."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._poll.close()
        await self._source.close()

    def rows(self) -> Sequence[EndpointRow]:
        """The endpoints as they stand."""
        age_s = None if self._told_at is None else time.monotonic() - self._told_at
        return [replace(row, source=self._topology.kind, source_s=age_s) for row in self._poll.rows()]

    def _make_poll(self, before: Cluster | None, risk: Risk | None = None) -> Poll:
        if self.account is None:
            return Poll(self._topology, self._tell_roles, before, risk, self._gate)
        poll = Poll(
            replace(self._topology, endpoints=self.account.endpoints), self._tell_roles, before, risk, self._gate
        )
        poll.name(self.account.named)
        poll.lags = self._lags
        return poll

    def _tell_roles(self, database: str, cluster: Cluster) -> None:
        self._tell(database, cluster)
        if any(node[1] == "unnamed" for node in cluster.nodes()):
            # Promoted since the source was asked, it may be.
            self._is_due.set()

    async def _follow(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._sightings()) as sightings:
                    async for sighting in sightings:
                        await self._take(sighting)
            except SourceFailed as failed:
                self._miss(str(failed), failed.hint)
            except EngineError as error:
                self._refuse(str(error.args[0]))
            except Exception as error:
                # A source that fails unforeseen must not end all that follow.
                self._miss(f"{type(error).__name__}: {error}", None)
            await self._wait(max(AGAIN_S, self._topology.interval_s))

    async def _sightings(self) -> AsyncGenerator[Sighting, None]:
        if isinstance(self._source, WatchedSource):
            async with contextlib.aclosing(self._watched(self._source)) as watched:
                async for sighting in watched:
                    yield sighting
            return
        while True:
            self._is_due.clear()
            sighting = await self._source.look()
            yield sighting
            await self._wait(self._pause_s(sighting))

    def _pause_s(self, sighting: Sighting) -> float:
        """Until it is asked again."""
        # What holds for longer can't have changed before: whoever is asked would only say it again.
        pause_s = max(self._topology.interval_s, min(sighting.ttl_s or 0, TTL_S_MAX))
        # Who goes by a lease has to hear of it before it is over.
        return min(pause_s, (self._lease_s or LEASE_S) / 2) if self._topology.is_lease_enough else pause_s

    async def _watched(self, source: WatchedSource) -> AsyncGenerator[Sighting, None]:
        """What a watch tells, and what the source says when asked: a watch may be that of a peer that is gone for long.

        What was asked for while the watch told something is yielded first, so that the watch has the last word.
        """
        async with contextlib.aclosing(source.watch()) as watch:
            coming = asyncio.ensure_future(anext(watch, None))
            due: asyncio.Future[Any] = coming
            try:
                while True:
                    due = asyncio.ensure_future(self._is_due.wait())
                    await asyncio.wait({coming, due}, return_when=asyncio.FIRST_COMPLETED)
                    due.cancel()
                    if not coming.done():
                        self._is_due.clear()
                        yield await source.look()
                        await asyncio.wait({coming}, timeout=AGAIN_S)
                    if coming.done():
                        if (sighting := coming.result()) is None:
                            return
                        yield sighting
                        coming = asyncio.ensure_future(anext(watch, None))
            finally:
                for each in (coming, due):
                    each.cancel()
                await asyncio.gather(coming, due, return_exceptions=True)

    async def _wait(self, seconds: float) -> None:
        """Until then, or until someone wants to know."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_due.wait(), seconds)
        self._is_due.clear()

    def _miss(self, error: str, hint: str | None) -> None:
        self._lags = self._poll.lags = {}
        if not self._is_away:
            self._is_away = True
            keeps = "the endpoints of the configuration" if self.account is None else "what it told last"
            event(logging.WARNING, "topology_source_away", database=self._topology.database,
                  source=self._topology.kind, error=error, hint=hint, keeps=keeps)  # fmt: skip

    def _renew(self) -> None:
        """It has told who may write: that holds for as long as a lease does."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self._topology.is_lease_enough:
            lease_s = self._lease_s or LEASE_S
            self._expiry = asyncio.get_running_loop().call_later(lease_s, self._run_out, lease_s)
            self._poll.trust(is_named_still=True)

    def _run_out(self, lease_s: float) -> None:
        self._lease_s = None
        if self.account is not None:
            event(logging.WARNING, "topology_lease_over", database=self._topology.database, source=self._topology.kind,
                  ttl_s=lease_s)  # fmt: skip
        self._poll.trust(is_named_still=False)

    async def _learn_lease(self) -> None:
        """How long leases last, where that counts."""
        if self._topology.is_lease_enough and self._lease_s is None and isinstance(self._source, TimedSource):
            with contextlib.suppress(SourceFailed):
                self._lease_s = (await self._source.times()).lease_s

    def _refuse(self, because: str) -> None:
        """The engine does not take the endpoints. Told once: the source names them again and again."""
        if self._refused != because:
            self._refused = because
            event(logging.ERROR, "topology_refused", database=self._topology.database, because=because)

    async def _take(self, sighting: Sighting) -> None:
        self._told_at = time.monotonic()
        if self._is_away:
            # It may have been told another one meanwhile.
            self._is_away, self._lease_s = False, None
            event(logging.INFO, "topology_source_back", database=self._topology.database,
                  source=self._topology.kind, asked=sighting.asked)  # fmt: skip
        account = account_of(sighting)
        lags = {_endpoint(each.host, each.port): each.lag_s for each in sighting.members}
        self._lags = self._poll.lags = {name: lag_s for name, lag_s in lags.items() if lag_s is not None}
        await self._put(account)
        await self._learn_lease()
        # Not before: it would hold for whoever was named last.
        self._renew()

    async def _put(self, account: Account) -> None:
        """In force, if it is another one than before. Raises EngineError."""
        if account == self.account:
            return
        in_force = self.account.endpoints if self.account else self._topology.endpoints
        before, self.account = self.account, account
        is_same = account.endpoints == in_force
        if is_same and account.said == (before.said if before else ()):
            self._poll.name(account.named)
            return
        try:
            await self._move()
        except BaseException:
            self.account = before
            raise
        self._refused = None
        if is_same:
            self._poll.name(account.named)
            return
        event(logging.INFO, "topology_told", database=self._topology.database, source=self._topology.kind,
              endpoints=", ".join(account.endpoints))  # fmt: skip
        poll = self._poll
        await poll.close()
        self._poll = self._make_poll(poll.cluster, poll.risk)
        self._poll.start()


def account_of(sighting: Sighting) -> Account:
    """What of a sighting counts here. Raises SourceFailed where it names nobody that can be reached."""
    members = [(_endpoint(each.host, each.port), each) for each in sighting.members if is_host(each.host)]
    if not members:
        raise SourceFailed(f"{sighting.asked} names no host that can be used")
    named = tuple(sorted({name for name, each in members if each.role is Role.PRIMARY}))
    tells_roles = any(each.role is not Role.UNKNOWN for _, each in members)
    said = {name: Said(each.weight, each.zone) for name, each in members if (each.weight, each.zone) != (None, None)}
    return Account(tuple(sorted({name for name, _ in members})), named if tells_roles else None,
                   tuple(sorted(said.items(), key=lambda pair: pair[0])))  # fmt: skip


def _endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
