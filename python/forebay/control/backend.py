"""The console's view of the running service."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from forebay import __version__
from forebay._engine import Catalogue, Engine
from forebay.admin.backend import (
    BudgetRow,
    EndpointRow,
    FailoverRow,
    Hosts,
    Identity,
    NodeRow,
    Refused,
    Shutdown,
    SwitchoverOrder,
    Tell,
)
from forebay.admin.snapshot import Snapshot, decode, merge
from forebay.config.importers.process import ini_settings
from forebay.config.resolved import DatabaseConfig, EngineConfig
from forebay.config.setting_line import SettingLine
from forebay.control.catalogue_link import Catalogues
from forebay.control.discover.member import SourceFailed
from forebay.control.engine_link import EngineLink, Outcome
from forebay.control.fleet.joining import Joined
from forebay.control.pauses import KILL, Pauses
from forebay.control.source import Configuration
from forebay.control.switchover.change import Switchovers
from forebay.failure import Failure
from forebay.observe import stats
from forebay.observe.log import event
from forebay.observe.stats import Averages, PoolCounters, Totals, WorkerCounters

# The console's own databases, which no command can name.
CONSOLE_DATABASES: Final = ("forebay", "pgbouncer")
# How long workers may take over an order: less than the engine waits for the console (30 s), so
# that the client gets our words.
ORDER_S: Final = 25.0
# What SUSPEND waits for connections that do not take what was sent to them, where the ini does not say.
SUSPEND_S: Final = 10.0
# How often it looks meanwhile whether somebody is still there who could order RESUME.
LOOK_S: Final = 1.0


class RunningBackend:
    """Implements forebay.admin.backend.Backend over the engine."""

    def __init__(
        self,
        engine: Engine,
        *,
        configuration: Callable[[], Configuration],
        reload: Callable[[], Awaitable[Sequence[str]]],
        set_setting: Callable[[str, str], Awaitable[None]],
        shutdown: Callable[[Shutdown], None],
        is_stopping: Callable[[], bool],
        endpoints: Callable[[], Sequence[EndpointRow]],
        switchovers: Switchovers,
        asking: Callable[[str], Mapping[str, Any] | None] = lambda _: None,
        failovers: Callable[[], Sequence[FailoverRow]] = tuple,
        is_moving: Callable[[], bool] = lambda: False,
        fleet: Joined | None = None,
    ) -> None:
        self._engine = engine
        self._configuration = configuration
        self._reload = reload
        self._set_setting = set_setting
        self._shutdown = shutdown
        self._is_stopping = is_stopping
        self._endpoints = endpoints
        self._failovers = failovers
        self._switchovers = switchovers
        self._asking = asking
        self._is_moving = is_moving
        self._pauses = Pauses()
        self._catalogues = Catalogues()
        self._is_drained = False
        self._fleet = fleet.fleet if fleet else None
        self._averages = Averages(started_s=time.monotonic())
        self.link: EngineLink | None = None

    @property
    def identity(self) -> Identity:
        is_pgbouncer = self._configuration().process is not None
        return Identity(__version__, self._engine.driver, self._engine.workers, is_pgbouncer)

    @property
    def config(self) -> EngineConfig:
        return self._configuration().config.engine

    def settings(self) -> Sequence[SettingLine]:
        configuration = self._configuration()
        return configuration.config.settings() if configuration.process is None else ini_settings(configuration.process)

    def totals(self) -> dict[str, Totals]:
        return stats.by_database(stats.decode(self._engine.stats()))

    def averages(self) -> dict[str, Totals]:
        return self._averages.of(self.totals(), now_s=time.monotonic())

    def pools(self) -> Sequence[PoolCounters]:
        return stats.decode(self._engine.stats())

    def hosts(self) -> Hosts:
        rows, under_way, waiting = self._engine.hosts()
        return Hosts(rows, under_way, waiting)

    def endpoints(self) -> Sequence[EndpointRow]:
        return self._endpoints()

    def failovers(self) -> Sequence[FailoverRow]:
        return self._failovers()

    def fleet(self) -> Sequence[NodeRow]:
        return self._fleet.rows() if self._fleet else ()

    def budgets(self) -> Sequence[BudgetRow]:
        return self._fleet.budgets() if self._fleet else ()

    async def forget_node(self, node: str) -> None:
        if self._fleet is None:
            raise Refused("this forebay is in no fleet: set [fleet]")
        try:
            if not await self._fleet.forget(node):
                raise Refused(f'node "{node}" is here, or holds back nothing: see SHOW FLEET and SHOW BUDGETS')
        except SourceFailed as failed:
            raise Refused(str(failed)) from None

    def was_refused(self, database: DatabaseConfig, text: str) -> bool:
        return bool(database.endpoints) and self._engine.was_refused(database.endpoints[0], database.dbname, text)

    def workers(self) -> Sequence[WorkerCounters]:
        return stats.decode_workers(self._engine.worker_stats())

    def period(self) -> dict[str, int]:
        """The averages over all databases, for a line of the log."""
        whole = sum(self.averages().values(), Totals())
        # Times are means of each database's transactions and queries; over all of them the busiest counts for most.
        return {
            "xacts": whole.xact_count, "queries": whole.query_count, "received": whole.received, "sent": whole.sent,
            "xact_us": self._mean("xact_time", "xact_count"), "query_us": self._mean("query_time", "query_count"),
            "wait_us": whole.wait_time,
        }  # fmt: skip

    def _mean(self, time: str, count: str) -> int:
        figures = [(getattr(one, time), getattr(one, count)) for one in self.averages().values()]
        of_all = sum(count for _, count in figures)
        return sum(time * count for time, count in figures) // of_all if of_all else 0

    def end_period(self) -> None:
        """Takes the sample that averages are made of; called once a period."""
        self._averages.sample(self.totals(), now_s=time.monotonic())

    async def snapshot(self) -> Snapshot:
        outcome = await self._order("snapshot")
        return merge(decode(text) for text in outcome.snapshots)

    async def sockets(self) -> Snapshot:
        outcome = await self._order("sockets")
        return merge(decode(text) for text in outcome.snapshots)

    async def suspend(self) -> None:
        process = self._configuration().process
        # In PgBouncer's place 0 is no limit.
        limit_s = SUSPEND_S if process is None else process.number("suspend_timeout") or None
        ordered = asyncio.ensure_future(self._order("suspend", limit_s=limit_s))
        try:
            while not (await asyncio.wait({ordered}, timeout=LOOK_S))[0]:
                await self._resume_unless_watched()
            require_whole(ordered.result())
        except TimeoutError:
            require_done(await self._order("drop_unflushed"))
        finally:
            ordered.cancel()
        await self._resume_unless_watched()

    async def pause(self, database: str | None, limit_s: float | None = None, by: object | None = None) -> None:
        self._refuse_while_moving()
        by = by or object()
        held = await self.snapshot()
        self._pauses.begin(database, by, is_held=(database or "*") in held.paused)
        wait_s = limit_s if limit_s is not None else self._patience_s()
        try:
            require_whole(await self._order("pause", database, limit_s=wait_s))
        except TimeoutError:
            words = f"servers are still in use after {wait_s:g} s"
            if limit_s is None:
                raise Refused(f"{words}; new requests are held all the same, until RESUME") from None
            is_over = await self._given_up(database, by)
            raise Refused(f"{words}; {'RESUME was done' if is_over else 'another command holds them still'}") from None

    async def catalogue(self, database: str) -> Catalogue | None:
        parameters = self._asking(database)
        if parameters is None:
            return None
        try:
            return await asyncio.to_thread(self._catalogues.read, database, parameters)
        except Failure as failure:
            raise Refused(failure.message) from None

    async def unpause(self, database: str | None, by: object) -> None:
        self._refuse_while_moving()
        await self._given_up(database, by)

    async def resume(self, database: str | None) -> None:
        self._refuse_while_moving()
        self._pauses.resumed(database)
        require_done(await self._order("resume", database))

    async def switch_over(self, order: SwitchoverOrder, tell: Tell) -> None:
        self._refuse_while_moving()
        await self._switchovers.run(order, tell)

    async def call_off_switchover(self) -> None:
        await self._switchovers.call_off()

    def switch_back(self, database: str) -> None:
        self._switchovers.back(database)

    async def reconnect(self, database: str | None) -> None:
        require_done(await self._order("reconnect", database))

    async def kill(self, database: str | None) -> None:
        for name in [database] if database is not None else await self._served():
            self._pauses.begin(name, KILL, is_held=False)
            require_done(await self._order("kill", name))

    async def kill_client(self, client: int) -> None:
        require_done(await self._order("kill_client", client))

    async def disable(self, database: str) -> None:
        self._refuse_while_moving()
        require_done(await self._order("disable", database))

    async def enable(self, database: str) -> None:
        self._refuse_while_moving()
        require_done(await self._order("enable", database))

    async def wait_close(self, database: str | None) -> None:
        wait_s = self._patience_s()
        try:
            require_done(await self._order("wait_close", database, limit_s=wait_s))
        except TimeoutError:
            raise Refused(f"servers to be closed are still in use after {wait_s:g} s") from None

    async def set_setting(self, name: str, value: str) -> None:
        await self._set_setting(name, value)

    async def reload(self) -> Sequence[str]:
        return await self._reload()

    def drain(self, is_on: bool) -> None:
        self._refuse_while_moving()
        if not is_on and self.is_stopping:
            raise Refused("forebay is shutting down")
        self._set_drained(is_on)
        event(logging.INFO, "draining" if is_on else "draining_ended")

    @property
    def is_drained(self) -> bool:
        """Whether DRAIN was ordered, here or in the process before this one."""
        return self._is_drained

    def go_on_draining(self) -> None:
        """The process before this one was told to."""
        self._set_drained(True)
        event(logging.INFO, "draining", because="the process before this one did", hint="DRAIN OFF takes it back.")

    def _set_drained(self, is_on: bool) -> None:
        self._engine.set_leaving(is_on)
        self._is_drained = is_on

    @property
    def is_draining(self) -> bool:
        return self._is_drained or self.is_stopping

    def shutdown(self, how: Shutdown) -> None:
        self._shutdown(how)

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping()

    async def _resume_unless_watched(self) -> None:
        """Undoes SUSPEND where no console is left: who ordered it has died before the answer, and nobody might come."""
        if not any(client.database in CONSOLE_DATABASES for client in (await self.snapshot()).clients):
            event(logging.WARNING, "console_gone_when_suspended")
            await self.resume(None)

    async def _given_up(self, database: str | None, by: object) -> bool:
        """One pause is over; True: it was the last of that name."""
        is_over = self._pauses.give_up(database, by)
        if is_over:
            require_done(await self._order("unpause", database))
        return is_over

    def _refuse_while_moving(self) -> None:
        """What holds on is told to the process that takes over as it starts: an order after that would be lost."""
        if self._is_moving():
            raise Refused("another process is taking over: give the order again, to that one, in a moment")

    def _patience_s(self) -> float | None:
        """How long a command waits for clients. In PgBouncer's place it is as that has it: for as long as it takes."""
        return ORDER_S if self._configuration().process is None else None

    async def _served(self) -> list[str]:
        """Databases of the configuration, and those that the fallback serves."""
        listed = [database.name for database in self.config.databases]
        # Pools of replicas are their database's.
        used = {pool.database.removesuffix(":replicas") for pool in (await self.snapshot()).pools}
        return [*listed, *sorted(used.difference(listed, CONSOLE_DATABASES))]

    async def _order(self, kind: str, argument: str | int | None = None, *, limit_s: float | None = ORDER_S) -> Outcome:
        if self.link is None:
            raise Refused("the engine is not connected")
        async with asyncio.timeout(limit_s):
            return await self.link.order(kind, argument)


def require_done(outcome: Outcome) -> None:
    """Raises Refused unless a worker carried the order out: the others may have had nothing to do with it."""
    if outcome.done == 0:
        raise Refused("; ".join(dict.fromkeys(outcome.refusals)) or "no worker answered")


def require_whole(outcome: Outcome) -> None:
    """Raises Refused where a worker did not carry the order out: done by some only, it is not done."""
    if outcome.refusals:
        raise Refused("; ".join(dict.fromkeys(outcome.refusals)))
    require_done(outcome)
