"""The life of a running forebay: start, signals, reload, stop.

| state    | what holds                                  | leaves by                                        |
|----------|---------------------------------------------|--------------------------------------------------|
| starting | the configuration is read, nothing listens  | the engine runs -> serving; a failure ends it    |
| serving  | clients are served                          | a stop is asked for -> noticed, or stopping      |
| noticed  | the same; /readyz says to send nobody       | limits.drain_notice, or a hurry -> draining      |
| draining | no new clients; those that are there may end| none left, the deadline, or a second signal      |
| stopping | the engine closes what is left              | its threads have ended                           |

What signals do is a matter of `manners`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NoReturn

from forebay._engine import Cluster, Engine, EngineError
from forebay.admin.backend import Refused, Shutdown
from forebay.admin.console import Console
from forebay.admin.snapshot import Snapshot, decode, merge
from forebay.config.diff import diff
from forebay.config.finding import Finding
from forebay.config.resolve import Config
from forebay.config.resolved import EngineConfig
from forebay.control import leaving, systemd
from forebay.control.backend import RunningBackend
from forebay.control.claim import Claim
from forebay.control.discover import Discovery
from forebay.control.engine_link import EngineLink, Outcome
from forebay.control.fleet.joining import Joined, join
from forebay.control.hooks import HookRunner
from forebay.control.lookup import Lookup, build_lookup
from forebay.control.manners import Manners, Stop
from forebay.control.periodic import every, tell_stalls
from forebay.control.source import (
    Configuration,
    ConfigurationRefused,
    ConfigurationSource,
    SettableSource,
    keep_until_restart,
)
from forebay.control.starting import start_engine, tell_started
from forebay.control.succession import Predecessor, Successor, servers_by_pool, started_as
from forebay.control.switchover.change import Switchovers
from forebay.failure import Failure
from forebay.observe.log import Log, event, log_event

FAST_DRAIN_S: Final = 2.0
# How long cancels may take to reach their servers when a drain is cut.
CUT_S: Final = 1.0
WATCH_S: Final = 1.0
SUPPRESSED_REPORT_S: Final = 10.0
# How often a process whose place another has taken tells how many servers it still has.
HELD_S: Final = 0.5
# How long the console's answer to SHUTDOWN may take to leave before its connection is closed.
LAST_WORDS_S: Final = 0.1


class Service:
    """Runs the engine on the current loop until it is asked to stop."""

    def __init__(
        self,
        source: ConfigurationSource,
        *,
        load: Sequence[str] = (),
        watch: Callable[[], None] | None = None,
        manners: Manners | None = None,
        successor: Successor | None = None,
        gives_place: bool = False,
    ) -> None:
        self._source = source
        self._manners = manners or Manners()
        self._load = load
        self._successor = successor
        self._gives_place = gives_place
        self._has_given_place = False
        self._is_empty = False
        self._predecessor: Predecessor | None = None
        self._watch = watch
        self._log = Log()
        self._runner = HookRunner()
        self._reloading = asyncio.Lock()
        self._discovery = Discovery(self._tell_roles, self._move_endpoints, os.environ)
        self._fleet = Joined(None)
        self._asked: Stop | None = None
        self._asked_again = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()

    async def run(
        self, *, started: Callable[[Engine], Awaitable[None]], settled: Callable[[], None] = lambda: None
    ) -> None:
        """Serves until a stop is asked for; calls `started` once clients can connect.

        settled: called once the place is this process's for good, which is later where it takes that of another.

        Raises Failure when the service can't start, and ConfigurationRefused for its first configuration.
        """
        self._configuration = await asyncio.to_thread(self._source.load)
        self._configure_log(self._configuration)
        self._lookup = await self._make_lookup(self._configuration)
        await self._discovery.remember(self._configuration.memory_file)
        self._fleet = await asyncio.to_thread(join, self._configuration.config, self._discovery)
        await self._discovery.prepare(self._configuration.config.topologies)
        began_at = time.monotonic()
        self._engine = await asyncio.to_thread(self._begin_engine)
        try:
            self._configuration.accepted()
            self._connect()
            self._fleet.start(self._engine, is_moving=self._is_moving)
            # Before connections come, so that none of them waits for what the process before this one knew.
            await self._discovery.follow(self._configuration.config.topologies)
            if self._successor is not None:
                await self._successor.take_over(self._engine)
            self._announce(began_at)
            await started(self._engine)
            self._spawn(lambda: self._settle(settled))
            await self._wait_for_stop()
            await self._drain()
            if self._engine.place == "lost":
                raise Failure("the running process goes on in its place", hint="Its log says why, and this one's.")
        finally:
            await self._end()

    async def snapshot(self) -> Snapshot:
        """What the workers of the running service have."""
        return await self._backend.snapshot()

    async def _make_lookup(self, configuration: Configuration) -> Lookup:
        endpoints = self._discovery.by_use
        return await asyncio.to_thread(build_lookup, configuration, self._runner, self._load, endpoints)

    def _begin_engine(self) -> Engine:
        if self._successor is not None:
            return self._successor.start_engine(self._configuration, self._inherit)
        return start_engine(self._configuration, self._manners.inherited)

    def _inherit(self, clusters: Mapping[str, Any]) -> EngineConfig:
        config = self._configuration.config
        self._discovery.inherit(self._fleet.inherited(clusters))
        return self._discovery.overlaid(config.engine, config.topologies)

    async def _settle(self, settled: Callable[[], None]) -> None:
        if self._successor is not None and not await self._successor.settle(self._engine):
            hint = "The connection between both broke. Clients that have moved are let go as their transactions end."
            event(logging.ERROR, "place_not_taken", because="the process before goes on", hint=hint)
            self.ask_stop(Stop.DRAIN)
            return
        settled()
        # Where the system chooses the port, nobody can know where to meet.
        if self._gives_place and self._configuration.config.engine.listen.port:
            self._predecessor = self._make_predecessor()
            await self._predecessor.serve()

    def _make_predecessor(self) -> Predecessor:
        return Predecessor(
            self._engine,
            self._link,
            configuration=lambda: self._configuration,
            clusters=lambda: self._fleet.with_legacy(self._discovery.legacy()),
            is_draining=lambda: self._backend.is_drained,
            leave=self._give_place_to,
            is_stopping=lambda: self.is_stopping or self._switchovers.is_under_way,
            started_as=started_as(),
        )

    def _give_place_to(self, pid: int) -> None:
        """Another process serves: this one ends when those have left that could not move."""
        self._has_given_place = True
        systemd.notify(f"MAINPID={pid}")
        self._spawn(self._let_go)

    async def _let_go(self) -> None:
        limit_s = self._configuration.drain_timeout_s
        deadline = None if limit_s is None else time.monotonic() + limit_s
        left = asyncio.ensure_future(self._link.order("let_go"))
        while not left.done() and (deadline is None or time.monotonic() < deadline):
            await self._tell_held()
            await asyncio.wait({left}, timeout=HELD_S)
        self._engine.end_hand_over()
        # Where it was called off, nothing moves any more, and nobody is cut in a transaction all the same.
        was_called_off = left.done() and bool(left.result().refusals)
        self._is_empty = left.done() and not was_called_off
        self.ask_stop(Stop.DRAIN if was_called_off else Stop.NOW)

    async def _tell_held(self) -> None:
        """What closes here makes room in the pools of the process that serves."""
        snapshots = (await self._link.order("snapshot")).snapshots
        self._engine.tell_held(servers_by_pool(merge(decode(part) for part in snapshots)))

    def ask_stop(self, how: Stop) -> None:
        """Begins to stop, or hurries a stop that is under way."""
        if self._asked is Stop.FAST and how is Stop.FAST:
            how = Stop.NOW
        if self._asked is None or how.value > self._asked.value:
            self._asked = how
            self._asked_again.set()

    @property
    def is_stopping(self) -> bool:
        """Whether a stop was asked for."""
        return self._asked is not None

    async def reload(self) -> Sequence[str]:
        """Applies the configuration as it is now, whole or not at all; returns what differs from what ran.

        Raises Refused, after logging why.
        """
        return await self._read_with(self._source.load)

    async def set(self, name: str, value: str) -> None:
        """Changes one setting until the configuration says otherwise. Raises Refused, after logging why."""
        if not isinstance(self._source, SettableSource):
            raise Refused("change the configuration file, then run RELOAD")
        source = self._source
        await self._read_with(lambda: source.load_with(name, value))

    async def _read_with(self, load: Callable[[], Configuration]) -> Sequence[str]:
        async with self._reloading:
            systemd.reloading()
            try:
                return await self._apply(await asyncio.to_thread(load))
            except ConfigurationRefused as refused:
                log_findings(refused.findings)
                self._refuse_reload(str(refused))
            except (Failure, OSError) as error:
                self._refuse_reload(str(error))
            except EngineError as error:
                self._refuse_reload(error.args[0])
            finally:
                systemd.ready(self._status())

    async def _apply(self, after: Configuration) -> Sequence[str]:
        before = self._configuration
        lookup = await self._make_lookup(after)
        try:
            self._configure_log(after)
            config = keep_until_restart(before.config, after.config)
            await self._discovery.prepare(config.topologies)
            await self._fleet.prepare()
            await self._reload_engine(config)
        except BaseException:
            self._configure_log(before)
            await lookup.close()
            raise
        self._configuration = replace(after, config=config)
        await self._fleet.configure(config)
        after.accepted()
        self._lookup, lookup = lookup, self._lookup
        await lookup.close()
        await self._discovery.follow(config.topologies)
        log_findings(after.warnings)
        changes = diff(before.config, after.config)
        event(logging.INFO, "reload", changes=len(changes))
        for change in changes:
            event(logging.INFO, "setting_changed", change=change)
        return changes

    async def _reload_engine(self, config: Config) -> None:
        engine = self._discovery.overlaid(config.engine, config.topologies)
        await asyncio.to_thread(self._engine.reload, engine.to_json())

    async def _move_endpoints(self) -> None:
        """A source has told other endpoints."""
        async with self._reloading:
            await self._reload_engine(self._configuration.config)

    def _refuse_reload(self, because: str) -> NoReturn:
        event(logging.ERROR, "reload_refused", because=because)
        raise Refused(because)

    def _connect(self) -> None:
        """Ties engine, console, signals and clocks to the loop."""
        self._switchovers = Switchovers(
            self._discovery,
            self._order,
            lambda: self._configuration.config.engine,
        )
        self._backend = RunningBackend(
            self._engine,
            configuration=lambda: self._configuration,
            reload=self.reload,
            set_setting=self.set,
            shutdown=self._shutdown_by_console,
            is_stopping=lambda: self.is_stopping,
            endpoints=self._discovery.rows,
            asking=self._discovery.asking,
            failovers=self._discovery.failovers,
            switchovers=self._switchovers,
            is_moving=self._is_moving,
            fleet=self._fleet,
        )
        self._link = EngineLink(
            self._engine,
            find_secret=self._find_secret,
            judge=self._judge,
            answer_console=Console(self._backend).answer,
            suspect=self._discovery.suspect,
        )
        self._backend.link = self._link
        if self._successor is not None and self._successor.was_draining:
            self._backend.go_on_draining()
        loop = asyncio.get_running_loop()
        self._signals = self._manners.signals(self)
        for number, act in self._signals.items():
            loop.add_signal_handler(number, act)
        self._spawn(self._take_samples)
        if (watch := self._watch) is not None:
            self._spawn(lambda: every(WATCH_S, watch))
        self._spawn(lambda: every(SUPPRESSED_REPORT_S, self._log.report_suppressed))
        self._spawn(tell_stalls)

    def _is_moving(self) -> bool:
        return self._has_given_place or (self._predecessor is not None and self._predecessor.is_under_way)

    def _announce(self, began_at: float) -> None:
        log_findings(self._configuration.warnings)
        tell_started(self._engine, self._configuration, began_at)
        systemd.ready(self._status())

    def _status(self) -> str:
        return f"serving on {', '.join(dict.fromkeys(self._engine.listeners))}"

    async def _wait_for_stop(self) -> None:
        await self._asked_again.wait()

    async def _drain(self) -> None:
        """Lets transactions end, as long as the way of stopping allows."""
        if not self._has_given_place:
            systemd.stopping()
            await self._give_notice()
        started = time.monotonic()
        event(logging.INFO, "stopping", how=self._asked.name.lower() if self._asked else None)
        way = self._asked or Stop.NOW
        drained = asyncio.ensure_future(self._leave(way))
        while self._asked is not Stop.NOW and not drained.done():
            if self._asked is not way and way.waits_without_limit:
                drained.cancel()
                way = self._asked or Stop.NOW
                drained = asyncio.ensure_future(self._leave(way))
            self._asked_again.clear()
            hurried = asyncio.ensure_future(self._asked_again.wait())
            limit_s = self._limit_s()
            left_s = None if limit_s is None else max(0.0, started + limit_s - time.monotonic())
            await asyncio.wait({drained, hurried}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            is_hurried = hurried.done()
            hurried.cancel()
            if not is_hurried:
                break
        seconds = round(time.monotonic() - started, 3)
        is_drained = drained.done() or self._is_empty
        event(logging.INFO, "drained" if is_drained else "drain_cut", seconds=seconds)
        if not is_drained or way.waits_without_limit:
            await self._cut()
        drained.cancel()

    async def _give_notice(self) -> None:
        """Load balancers see that nobody is to be sent here before anybody is refused, unless the stop is urgent."""
        notice_s = self._configuration.drain_notice_s
        if not notice_s or self._asked not in (Stop.DRAIN, Stop.CLIENTS, Stop.SERVERS):
            return
        self._engine.set_leaving(True)
        event(logging.INFO, "draining", notice_s=notice_s)
        self._asked_again.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._asked_again.wait(), notice_s)

    def _limit_s(self) -> float | None:
        """How long the way out that was asked for may take; None: as long as it takes."""
        if self._asked is None or self._asked.waits_without_limit:
            return None
        return FAST_DRAIN_S if self._asked is Stop.FAST else self._configuration.drain_timeout_s

    async def _leave(self, how: Stop) -> None:
        if how is Stop.CLIENTS:
            await leaving.clients_left(self._link)
        elif how is Stop.SERVERS:
            await leaving.servers_free(self._link)
        else:
            await self._link.order("drain")

    async def _cut(self) -> None:
        """Tells those that are left to go, and cancels what runs for them."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._link.order("cut"), CUT_S)

    async def _end(self) -> None:
        """Stops the engine and lets go of the loop; what the engine says last is still logged."""
        for task in self._tasks:
            task.cancel()
        place = self._engine.place
        self._fleet.rest()
        await asyncio.to_thread(self._engine.stop)
        if hasattr(self, "_link"):
            self._link.close()
            await self._discovery.close()
        await self._fleet.close(is_over=not self._has_given_place and place != "lost")
        await self._lookup.close()
        self._runner.close()
        loop = asyncio.get_running_loop()
        for number in self._signals:
            loop.remove_signal_handler(number)
        self._log.report_suppressed()
        event(logging.INFO, "stop")

    async def _order(self, kind: str, argument: str | None) -> Outcome:
        return await self._link.order(kind, argument)

    def _tell_roles(self, database: str, cluster: Cluster) -> None:
        # Nobody waits for the workers' replies: they come in the order of what is told.
        with contextlib.suppress(RuntimeError):
            self._engine.set_roles(database, cluster)

    async def _find_secret(self, database: str, user: str) -> str | None:
        # By way of the attribute, which a reload replaces.
        return await self._lookup.secrets.find(database, user)

    async def _judge(self, claim: Claim) -> bool:
        return await self._lookup.is_right(claim)

    def begin_reload(self) -> None:
        """Reloads; what comes of it is in the log."""
        self.begin_read(self._source.load)

    def begin_read(self, load: Callable[[], Configuration]) -> None:
        """Applies what `load` gives, as a reload does with the whole configuration."""
        self._spawn(lambda: self._read_unanswered(load))

    async def _read_unanswered(self, load: Callable[[], Configuration]) -> None:
        # Why it is refused is in the log by then.
        with contextlib.suppress(Refused):
            await self._read_with(load)

    def begin_pause(self, told: Callable[[str | None], None]) -> None:
        """Holds new requests, as PAUSE of the console does. told: hears what holds all of them already."""
        self._spawn(lambda: self._without_answer(lambda: self._backend.pause(None), told))

    def begin_resume(self, told: Callable[[str | None], None]) -> None:
        """Undoes it. told: hears what is undone, if there is anything."""
        self._spawn(lambda: self._without_answer(lambda: self._backend.resume(None), told))

    async def _without_answer(self, act: Callable[[], Awaitable[object]], told: Callable[[str | None], None]) -> None:
        try:
            held = await self._backend.snapshot()
            told("SUSPEND" if held.is_suspended else "PAUSE" if held.paused else None)
            await act()
        except (Refused, TimeoutError) as error:
            event(logging.WARNING, "signal_refused", because=str(error) or "a worker did not reply in time")

    def _shutdown_by_console(self, how: Shutdown) -> None:
        asyncio.get_running_loop().call_later(LAST_WORDS_S, self.ask_stop, Stop[how.name])

    async def _take_samples(self) -> None:
        """Ends a period of averages whenever one has passed, and logs it where that is asked for."""
        while True:
            await asyncio.sleep(self._configuration.stats_period_s)
            self._backend.end_period()
            if self._configuration.logs_stats:
                log_event(logging.INFO, "stats", None, self._backend.period())

    def reopen_log(self) -> None:
        """Opens the log's files anew."""
        try:
            self._log.reopen()
            event(logging.INFO, "log_reopened")
        except OSError as error:
            event(logging.ERROR, "log_not_reopened", because=str(error))

    def _configure_log(self, configuration: Configuration) -> None:
        config, sinks = configuration.config, self._manners.sinks(configuration)
        try:
            self._log.configure(level=config.engine.log.level, form=config.log_format, sinks=sinks)
        except OSError as error:
            hint = "Make its folder, let forebay's user write there, or change log.file."
            path = error.filename or configuration.log_file
            raise Failure(f"the log can't be written to {path}: {error.strerror or error}", hint=hint) from None

    def _spawn(self, begin: Callable[[], Coroutine[object, object, None]]) -> None:
        task = asyncio.ensure_future(begin())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def log_findings(findings: Sequence[Finding]) -> None:
    """A line for each; the text of the configuration is not in it."""
    for finding in findings:
        level = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO}[finding.severity]
        event(level, "config_finding", code=finding.code, at=finding.where,
              message=finding.message, hint=finding.hint)  # fmt: skip
