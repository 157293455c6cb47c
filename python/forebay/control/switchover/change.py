"""The steps of a switchover.

| step | then | what fails up to here |
|---|---|---|
| hold | new requests for the primary wait; reads of replicas go on | is undone: requests go on at the old primary |
| let end | what is under way there has ended, or is cut where that was asked for | is undone |
| catch up | the candidate has replayed all that was written | is undone |
| promote | the candidate can write | is undone only where the candidate is known to be none and to become none |
| release | whoever asks for roles believes it: requests go there | |

All databases of the configuration are held whose primary is at the same endpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from forebay.admin.backend import EndpointRow, Refused, SwitchoverOrder, Tell
from forebay.config.resolved import EngineConfig
from forebay.control.discover import Discovery
from forebay.control.switchover.servers import Order, Servers
from forebay.observe.log import event

if TYPE_CHECKING:
    from forebay.control.switchover.promotion import Promotion

# Further behind than this, a candidate would have everybody wait for it.
LAG_BYTES_MAX: Final = 16 << 20
# How often servers are asked while all wait for them.
LOOK_S: Final = 0.01
# What a cut transaction's server may take to be closed.
CUT_S: Final = 5.0
# Clients that a refusal names.
NAMED_MAX: Final = 3

# How long it is looked at whether a candidate stays a replica of which somebody has said that they do not promote it.
CALM_S: Final = 1.0
# Roles of an endpoint that a switchover leaves.
_LEAVING: Final = frozenset(("held", "relieved"))
# Roles in which an endpoint gets no writes, whatever becomes of another one.
_OUT: Final = frozenset(("deposed", "contested", "stranger", "unnamed"))


class Switchovers:
    """At most one at a time. order: sends a command to every worker. config: what is in force."""

    def __init__(self, discovery: Discovery, order: Order, config: Callable[[], EngineConfig]) -> None:
        self._discovery = discovery
        self._order = order
        self._config = config
        self._change: _Change | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether one is."""
        return self._running is not None and not self._running.done()

    async def run(self, wanted: SwitchoverOrder, tell: Tell) -> None:
        """Returns when requests go to the new primary. Raises Refused; the words say whether it is undone."""
        if self.is_under_way:
            raise Refused("another switchover is under way")
        self._change = _Change(wanted, tell, self._discovery, self._order, self._config())
        self._running = asyncio.ensure_future(self._change.run())
        # Who waits may go; the steps are ended in order, by `call_off`.
        await asyncio.shield(self._running)

    async def call_off(self) -> None:
        """Undoes the one under way. Raises Refused where that can't be any more."""
        if self._running is None or self._change is None or self._running.done():
            return
        if self._change.is_past:
            raise Refused("the candidate is being promoted: it goes on by itself, and SHOW ENDPOINTS tells what comes")
        self._running.cancel()
        # What it refuses, it refuses to who ordered it.
        await asyncio.wait({self._running})
        if not self._running.cancelled() and (failed := self._running.exception()):
            raise failed

    def back(self, database: str) -> None:
        """Lets requests go to the old primary again, after a promotion of which nobody knew how it ended."""
        if self.is_under_way:
            raise Refused("a switchover is under way: cancel it where it was ordered")
        rows = [row for row in self._discovery.rows() if row.database == database]
        of = {row.endpoint for row in rows if row.role in _LEAVING}
        if not of:
            raise Refused(f'no endpoint of "{database}" is relieved{_of_deposed(rows)}')
        held = {row.database for row in self._discovery.rows() if row.endpoint in of and row.role in _LEAVING}
        self._discovery.release(held)
        event(logging.WARNING, "switchover_back", database=database, endpoint=", ".join(sorted(of)))


class _Change:
    """One switchover."""

    def __init__(
        self, wanted: SwitchoverOrder, tell: Tell, discovery: Discovery, order: Order, config: EngineConfig
    ) -> None:
        self._wanted = wanted
        self._tell = tell
        self._discovery = discovery
        self._order = order
        self._config = config
        # Asking for a promotion that can't be taken back is under way, or done.
        self.is_past = False
        self._is_asked = False
        # Whoever promotes says that they do not.
        self._is_called_off = False
        self._held_at = 0.0

    async def run(self) -> None:
        """Raises Refused."""
        # The driver is imported where it is needed.
        from forebay.control.switchover.line import Line

        topology = self._discovery.topology(self._wanted.database)
        if topology is None:
            raise Refused(
                f'"{self._wanted.database}" has no topology: forebay does not know its primary from its replicas'
            )
        self._old, self._new = self._both()
        self._primary, self._candidate = Line(topology, self._old), Line(topology, self._new)
        # One each for what is asked while another question of the same server is open.
        self._marker, self._watcher = Line(topology, self._old), Line(topology, self._new)
        try:
            self._promotion = self._way()
            await self._check()
            await self._change()
        finally:
            for line in (self._primary, self._candidate, self._marker, self._watcher):
                line.close()

    async def _change(self) -> None:
        try:
            self._hold()
            await self._let_end()
            await self._catch_up()
            await self._promote()
        except Refused as refused:
            raise Refused(f"{refused.because}; {await self._undone(refused.because)}") from None
        except BaseException as error:
            self._is_called_off = isinstance(error, asyncio.CancelledError)
            if (doubt := await self._undone("it was cancelled")) != self._as_before:
                raise Refused(doubt) from None
            raise
        self._discovery.release(self._held)
        stall_ms = self._since(self._held_at)
        event(
            logging.INFO, "switchover", database=self._wanted.database, old=self._old, new=self._new, held_ms=stall_ms
        )
        self._tell(f"released: requests go to {self._new}; they were held for {stall_ms} ms at most", None)
        if not self._promotion.is_fencing and await self._primary.can_write():
            words = f"{self._old} can still write, and gets nothing of forebay's: make it a standby of {self._new}"
            self._tell(words, None)
            self._tell_of_others()

    def _tell_of_others(self) -> None:
        """Replicas go on after the old primary until somebody tells them to follow the new one."""
        others = {
            row.endpoint
            for row in self._discovery.rows()
            if row.database in self._held and row.role in ("replica", "lagging", "astray")
        }
        for each in sorted(others - {self._old, self._new}):
            self._tell(f"{each} goes on after {self._old}, and gets no reads: have it follow {self._new} at once", None)

    def _both(self) -> tuple[str, str]:
        """The endpoint of the primary, and of the candidate. Raises Refused."""
        database = self._wanted.database
        rows = [row for row in self._discovery.rows() if row.database == database]
        old = next((row for row in rows if row.role == "primary"), None)
        if old is None:
            raise Refused(f'"{database}" has no primary at the moment: SHOW ENDPOINTS tells why')
        if old.timeline is None:
            raise Refused("Aurora changes its writer itself: order it there (failover-db-cluster), without SWITCHOVER")
        if self._wanted.candidate is None:
            replicas = sorted((row for row in rows if row.role == "replica"), key=_lag)
            if not replicas:
                raise Refused(f'"{database}" has no replica that could take over: SHOW ENDPOINTS tells why')
            new = replicas[0]
        else:
            named = next((row for row in rows if row.endpoint == self._wanted.candidate), None)
            if named is None:
                known = ", ".join(row.endpoint for row in rows)
                raise Refused(f'{self._wanted.candidate} is no endpoint of "{database}", which has {known}')
            new = named
        if new.role != "replica":
            raise Refused(f"{new.endpoint} is no replica that could take over: it {new.reason}")
        if _lag(new) > LAG_BYTES_MAX:
            raise Refused(
                f"{new.endpoint} is {new.lag} bytes behind the primary, and all would wait for it;"
                f" at most {LAG_BYTES_MAX} may be missing"
            )
        self._held = self._beside(old.endpoint, new.endpoint)
        return old.endpoint, new.endpoint

    def _beside(self, old: str, new: str) -> list[str]:
        """The databases whose primary is replaced. Raises Refused for one that would not hear of the new one, or that
        may write to the old one while the others wait."""
        rows = self._discovery.rows()
        held = sorted({row.database for row in rows if _is_primary(row, old)})
        known = {row.database for row in rows if row.endpoint == new and row.role != "stranger"}
        if unaware := [each for each in held if each not in known]:
            raise Refused(f"{', '.join(unaware)}: {old} is the primary there too, and {new} is no endpoint: add it")
        unclear = sorted(
            f"{row.database} ({row.role})"
            for row in rows
            if row.endpoint == old and row.role != "primary" and row.role not in _OUT
        )
        if unclear:
            raise Refused(f"{old} is no primary at the moment by the account of {', '.join(unclear)}: SHOW ENDPOINTS")
        return held

    def _way(self) -> Promotion:
        from forebay.control.discover.member import Managing
        from forebay.control.switchover.promotion import Asked, ByHand, Managed

        source = self._discovery.source(self._wanted.database)
        if self._wanted.is_manual:
            return ByHand()
        if isinstance(source, Managing):
            return Managed(source, self._old, self._new)
        if source is not None:
            raise Refused("whoever manages this cluster has to promote: order it there, with SWITCHOVER … MANUAL here")
        return Asked(self._candidate)

    async def _check(self) -> None:
        """Opens the connections that are needed later. Raises Refused."""
        is_in_recovery, is_paused, _ = await self._candidate.state()
        if not is_in_recovery:
            raise Refused(f"{self._new} can write already")
        if is_paused:
            raise Refused(f"replay is paused on {self._new}: SELECT pg_wal_replay_resume() there")
        await self._check_follows()
        await self._promotion.check()
        rows = self._discovery.rows()
        others = {row.endpoint for row in rows if row.database in self._held} - {self._old}
        self._servers = Servers(self._order, self._held, self._old, others)
        await self._servers.resolve()
        strays = [each.name for each in self._config.databases if each.cluster is None and self._old in each.endpoints]
        if strays:
            names = ", ".join(strays)
            self._tell(f"warning: {names} without a topology stays with {self._old} whatever comes", None)

    async def _check_follows(self) -> None:
        """The candidate replays what this primary writes. Else what was acknowledged here is not there: it may go on
        after a primary that was deposed, and be as far by the numbers. Raises Refused."""
        mark = await self._marker.mark()
        await self._is_marked(mark, "in progress", await self._primary.flushed())
        await self._marker.unmark()
        await self._is_marked(mark, "aborted", await self._primary.flushed())

    async def _is_marked(self, mark: int, standing: str, written: int) -> None:
        by = time.monotonic() + self._wanted.limit_s
        while True:
            has_all = await self._candidate.replayed() >= written
            found = await self._candidate.standing(mark)
            if found == standing:
                return
            # What was replayed when it was asked for the first is there when it is asked for the second.
            if has_all:
                raise Refused(
                    f"{self._new} does not follow {self._old}, but another line of what was once the same:"
                    f" pg_rewind it, or make it anew from {self._old}. Another replica is named by TO"
                )
            if time.monotonic() > by:
                raise Refused(f"{self._new} does not replay what {self._old} writes within {self._wanted.limit_s:g} s")
            await asyncio.sleep(LOOK_S)

    def _hold(self) -> None:
        self._held_at = time.monotonic()
        self._leave(is_relieved=False)
        event(logging.INFO, "switchover_held", database=self._wanted.database, old=self._old, new=self._new,
              held=", ".join(self._held))  # fmt: skip
        self._tell(f"held: requests of {', '.join(self._held)} for {self._old} wait", None)

    def _leave(self, *, is_relieved: bool) -> None:
        """Raises Refused where not all could be held."""
        if not self._discovery.hold(self._held, self._old, is_relieved=is_relieved):
            raise Refused(f"{self._old} has just been lost, or demoted")

    async def _let_end(self) -> None:
        """Nobody has a server at the old primary any more. Raises Refused."""
        try:
            await self._ended(min(self._wanted.end_s, self._left_s()))
        except TimeoutError:
            holders = await self._holders()
            if not self._wanted.is_cut:
                raise Refused(
                    f"after {self._wanted.end_s:g} s there are still in use at {self._old}: {holders}"
                ) from None
            self._leave(is_relieved=True)
            self._tell(f"cut: what is under way ends with an error: {holders}", None)
            try:
                await self._ended(CUT_S)
            except TimeoutError:
                raise Refused(f"servers at {self._old} were not closed within {CUT_S:g} s") from None
        self._tell(f"ended: nothing is under way at {self._old} after {self._since(self._held_at)} ms", None)

    async def _ended(self, limit_s: float) -> None:
        """Raises TimeoutError."""
        async with asyncio.timeout(limit_s):
            await self._servers.closed()

    async def _holders(self) -> str:
        held = await self._servers.snapshot()
        ids = {server.client for server in self._servers.left(held) if server.client is not None}
        named = [f"client {each.id} ({each.database}/{each.user})" for each in held.clients if each.id in ids]
        more = f" and {len(named) - NAMED_MAX} more" if len(named) > NAMED_MAX else ""
        return f"{len(named)} servers, by {', '.join(named[:NAMED_MAX])}{more}" if named else "servers"

    async def _catch_up(self) -> None:
        written = await self._primary.flushed()
        while (replayed := await self._candidate.replayed()) < written:
            if self._left_s() <= 0:
                raise Refused(
                    f"{self._new} has not caught up within {self._wanted.limit_s:g} s: {written - replayed} bytes"
                )
            await asyncio.sleep(LOOK_S)
        self._tell(f"replayed: {self._new} has all of it after {self._since(self._held_at)} ms", None)

    async def _promote(self) -> None:
        """Returns when requests may go to the candidate. Raises Refused."""
        began = time.monotonic()
        if loose := [row.database for row in self._discovery.rows() if _is_primary(row, self._old)]:
            raise Refused(f"{', '.join(loose)} came to {self._old} meanwhile")
        if self._promotion.is_final:
            self._leave(is_relieved=True)
            self.is_past = True
        # Of what can be taken back nobody knows when it begins.
        self._is_asked = not self._promotion.is_final
        self._tell(f"promote: {self._new} in place of {self._old}", f"old={self._old} new={self._new}")
        begun = asyncio.ensure_future(self._begin())
        try:
            await self._believed(begun, began)
        finally:
            begun.cancel()

    async def _begin(self) -> None:
        try:
            await self._promotion.begin(self._wanted.limit_s)
        except Refused:
            self.is_past = False
            raise
        self._is_asked = True

    async def _believed(self, begun: asyncio.Future[None], began: float) -> None:
        """Until whoever asks for roles takes the candidate for the primary. Raises Refused."""
        promoted_ms: int | None = None
        while True:
            if promoted_ms is None and await self._watcher.can_write():
                promoted_ms = self._since(began)
            if promoted_ms is not None and self._is_believed():
                break
            if begun.done():
                begun.result()
            if time.monotonic() - began > self._wanted.limit_s:
                raise Refused(f"{self._new} has not become the primary within {self._wanted.limit_s:g} s")
            if promoted_ms is not None:
                self._discovery.look_now(self._held)
            await asyncio.sleep(LOOK_S)
        late_ms = self._since(began) - promoted_ms
        self._tell(f"promoted: {self._new} can write after {promoted_ms} ms, and is believed {late_ms} ms later", None)

    def _is_believed(self) -> bool:
        found = {row.database for row in self._discovery.rows() if _is_primary(row, self._new)}
        return found.issuperset(self._held)

    async def _undone(self, because: str) -> str:
        """`_undo`, to its end: if it were left half-way, all would be held for ever."""
        undoing = asyncio.ensure_future(self._undo(because))
        while not undoing.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({undoing})
        return undoing.result()

    async def _undo(self, because: str) -> str:
        """Lets requests go on at the old primary, unless another one may be written to. Says which of both."""
        is_safe = False
        # Whatever fails, nobody is left held.
        with contextlib.suppress(Exception):
            is_safe = await self._is_safe()
        if is_safe:
            self._discovery.release(self._held)
            event(logging.WARNING, "switchover_undone", database=self._wanted.database, because=because)
            return self._as_before
        self._discovery.hold(self._held, self._old, is_relieved=True)
        event(logging.ERROR, "switchover_in_doubt", database=self._wanted.database, because=because, new=self._new)
        return (
            f"{self._new} may become the primary yet, so nothing goes back to {self._old}: requests wait."
            f" Promote {self._new}, or stop it for good and then order SWITCHOVER {self._wanted.database} BACK"
        )

    async def _is_safe(self) -> bool:
        """Whether the candidate is no primary, and becomes none."""
        if not (self._is_asked or self.is_past) or self._promotion.is_fencing:
            return True
        # A server does not show that it was told to be promoted; only who tells it knows.
        if self._promotion.is_final or not self._is_called_off:
            return False
        by = time.monotonic() + CALM_S
        while await self._watcher.can_write() is False:
            if time.monotonic() > by:
                return True
            await asyncio.sleep(LOOK_S)
        return False

    @property
    def _as_before(self) -> str:
        return f"undone: requests go on at {self._old}"

    def _left_s(self) -> float:
        """Of the time that all may be held for before the promotion."""
        return max(0.0, self._held_at + self._wanted.limit_s - time.monotonic())

    @staticmethod
    def _since(moment: float) -> int:
        return round((time.monotonic() - moment) * 1000)


def _is_primary(row: EndpointRow, endpoint: str) -> bool:
    return row.endpoint == endpoint and row.role == "primary"


def _lag(row: EndpointRow) -> int:
    return row.lag or 0


def _of_deposed(rows: Sequence[EndpointRow]) -> str:
    """Why there is nothing to release where an online restart came in between."""
    deposed = ", ".join(row.endpoint for row in rows if row.role == "deposed")
    if not deposed or any(row.role == "primary" for row in rows):
        return ""
    return (
        f": {deposed} is deposed, as another one was promoted, or an online restart came while that was in doubt, which"
        " keeps it so. There is nothing to release: promote the other one, or stop it for good, delete clusters.file"
        " and start forebay anew"
    )
