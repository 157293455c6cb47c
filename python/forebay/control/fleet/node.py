"""Several forebays that share decisions through leases in etcd: which primary is written to, and who has which servers.

| a node | writes go to | servers of a budget |
|---|---|---|
| has never reached etcd | nobody: another node may know a newer primary | none |
| is registered, and its lease holds | the record's endpoint, once all that are there have left another one | its part |
| is cut off, and others were there | whoever they went to: no switch | its part, then what it keeps |
| is cut off, and was alone | the primary by its own rules | the same |
| wakes after its lease has ended | as one that is cut off, until it is registered again | what it keeps |

`agreement` and `allocation` decide, `store` writes, `session` keeps the lease; this module goes round.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec.structs import replace

from forebay.admin.backend import BudgetRow, NodeRow
from forebay.config.fleet import FleetConfig
from forebay.control.discover.member import SourceFailed
from forebay.control.fleet.agreement import Claim, Record, judge, may_act
from forebay.control.fleet.allocation import Budget
from forebay.control.fleet.figures import Counts, figures
from forebay.control.fleet.loan import Loan, Wish
from forebay.control.fleet.session import Session, end, register
from forebay.control.fleet.store import Node, Seen, Store, There
from forebay.observe.log import event

if TYPE_CHECKING:
    from forebay._engine import FleetFigures

# Looked at that often, whatever the watch tells.
PERIOD_S: Final = 1.0
# After a failure, and while the name is taken.
AGAIN_S: Final = 0.5


class Servers(Protocol):
    """The engine, as far as budgets and metrics go."""

    def share(self, database: str, servers: int, until_us: int, after: int) -> object:
        """So many may be open until then; at most `after` from there on."""

    def servers_of(self, database: str) -> int:
        """Servers open."""

    def tell_fleet(self, figures: FleetFigures) -> None:
        """What the metrics tell."""


class Fleet:
    """One node. Belongs to one event loop.

    changed: called when `admitted` may be another one.
    """

    def __init__(
        self, config: FleetConfig, store: Store, node: Node, *,
        changed: Callable[[], None],
    ) -> None:  # fmt: skip
        self._config = config
        self._store = store
        self._node = node
        self._wanted: Callable[[], Mapping[str, int]] = dict
        self._changed = changed
        self._servers: Servers | None = None
        self._totals = dict(config.budgets)
        self._stated: set[str] = set()
        self._loans: dict[str, Loan] = {}
        self._wishes: dict[str, Wish] = {}
        self._session: Session | None = None
        self._seen: Seen | None = None
        self._looked_at: float | None = None
        self._counts = Counts()
        # Systems that a database here is of; who writes of them where; what was last asked for.
        self._systems: set[int] = set()
        self._admitted: dict[int, str | None] = {}
        # By database: its system, and what it would have there.
        self._claims: dict[str, tuple[int, Record | None]] = {}
        self._contested: dict[int, Record] = {}
        self._is_away = False
        self._is_taken = False
        self._is_moving: Callable[[], bool] = lambda: False
        self._is_due = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._keeping: asyncio.Task[None] | None = None

    # What those who look for primaries ask.

    def admitted(self, system: int) -> list[str] | None:
        """Endpoints of a system that may get writes; None: the fleet leaves it to the node."""
        if system not in self._systems:
            self._systems.add(system)
            self._is_due.set()
        if not self._is_joined and self._is_alone and self._seen is not None:
            return None
        endpoint = self._admitted.get(system)
        return [] if endpoint is None else [endpoint]

    def floor(self, system: int) -> int:
        """The highest timeline of a system that any node has seen to write; 0: none."""
        found = self._seen.records.get(system) if self._seen else None
        return found[0].timeline if found else 0

    def claim(self, database: str, system: int, record: Record | None) -> None:
        """This node would write there for a database; None: nowhere that it knows of."""
        if self._claims.get(database) != (system, record):
            self._claims[database] = system, record
            self._is_due.set()

    # What the service does.

    def start(
        self, servers: Servers, wanted: Callable[[], Mapping[str, int]], is_moving: Callable[[], bool] = lambda: False
    ) -> None:
        """Begins.

        wanted: servers that clients want, by database. is_moving: another process may be about to take this one's
        place, and decides.
        """
        self._servers, self._wanted, self._is_moving = servers, wanted, is_moving
        self._share()
        self._tasks = [asyncio.ensure_future(self._run()), asyncio.ensure_future(self._watch())]

    def configure(self, config: FleetConfig) -> None:
        """Other budgets are in force."""
        changed = {name for name, total in config.budgets.items() if self._totals.get(name) != total}
        self._stated -= changed
        self._totals = dict(config.budgets)
        self._is_due.set()

    async def forget(self, node: str) -> bool:
        """A node that is not there is gone for good: what it kept is free. False: it is there, or has nothing.

        Raises SourceFailed.
        """
        seen = await self._store.look()
        if self._session is None or node in seen.nodes:
            return False
        has_had = False
        for database, (budget, revision) in seen.budgets.items():
            if node in budget.parts:
                has_had |= await self._store.divide(
                    self._config.node, self._session.there.revision, database, budget.without(node), revision, [node]
                )
        return has_had

    def rows(self) -> list[NodeRow]:
        """The nodes that are known."""
        seen, own = self._seen, self._config.node
        if seen is None:
            return [NodeRow(own, "cut off", self._node.address, self._node.version, self._node.started, "")]
        rows = []
        for name, there in sorted(seen.nodes.items()):
            state = "here" if name != own else "this" if self._is_joined else "cut off"
            held = ", ".join(endpoint for _, endpoint in there.node.held.values())
            rows.append(NodeRow(name, state, there.node.address, there.node.version, there.node.started, held))
        absent = {node for budget, _ in seen.budgets.values() for node in budget.parts}.difference(seen.nodes)
        rows += [NodeRow(name, "cut off" if name == own else "absent", None, None, None, "") for name in sorted(absent)]
        return rows

    def budgets(self) -> list[BudgetRow]:
        """The parts of the nodes."""
        found = self._seen.budgets if self._seen else {}
        return [
            BudgetRow(database, budget.total, node, part.lent, part.kept, part.wanted,
             self._servers.servers_of(database) if self._servers and node == self._config.node else None)
            for database, (budget, _) in sorted(found.items())
            for node, part in sorted(budget.parts.items())
        ]  # fmt: skip

    def legacy(self) -> dict[str, Any] | None:
        """What a process that takes this one's place goes on with; None: it registers anew."""
        session = self._session
        if session is None or not session.is_current:
            return None
        loans = {database: [loan.servers, loan.after] for database, loan in self._loans.items()}
        admitted = {str(system): endpoint for system, endpoint in self._admitted.items() if endpoint}
        return {"id": self._node.id, "lease": session.lease, "revision": session.there.revision, "loans": loans,
                "until": session.until, "admitted": admitted, "held": dict(session.there.node.held)}  # fmt: skip

    def inherit(self, words: Mapping[str, Any]) -> None:
        """Goes on as that one. Before it is started."""
        self._node = replace(self._node, id=words["id"])
        held = {system: (int(timeline), str(endpoint)) for system, (timeline, endpoint) in words["held"].items()}
        there = There(replace(self._node, held=held), words["revision"])
        self._session = Session(words["lease"], there, words["until"])
        self._loans = {database: Loan(*loan, is_new=False) for database, loan in words["loans"].items()}
        self._admitted = {int(system): endpoint for system, endpoint in words["admitted"].items()}

    def rest(self) -> None:
        """Decides nothing more, and keeps what it has: the engine is about to stop."""
        self._servers = None
        for task in self._tasks:
            task.cancel()

    async def close(self, *, is_over: bool) -> None:
        """Ends. is_over: no other process goes on as this node; all its servers are closed by now."""
        for task in [*self._tasks, *([self._keeping] if self._keeping else [])]:
            task.cancel()
        await asyncio.gather(*self._tasks, *([self._keeping] if self._keeping else []), return_exceptions=True)
        session = self._session
        if is_over and session is not None and session.is_current:
            with contextlib.suppress(SourceFailed):
                await self._give_all_back(session)
            await end(self._store, session.lease)
        await self._store.close()

    async def _give_all_back(self, session: Session) -> None:
        for database, (budget, revision) in (await self._store.look()).budgets.items():
            if self._config.node in budget.parts:
                await self._store.divide(self._config.node, session.there.revision, database,
                                         budget.without(self._config.node), revision, [])  # fmt: skip

    # Going round.

    @property
    def _is_joined(self) -> bool:
        return self._session is not None and self._session.is_current and self._seen is not None

    @property
    def _is_alone(self) -> bool:
        """Whether no other node was there when etcd was last reached; not known before it ever was."""
        return self._seen is not None and not set(self._seen.nodes) - {self._config.node}

    async def _run(self) -> None:
        while True:
            self._is_due.clear()
            pause_s = PERIOD_S
            try:
                if not self._is_moving():
                    await self._go_round()
                    self._tell_back()
            except SourceFailed as failed:
                self._counts.failures += 1
                self._tell_away(failed)
                pause_s = AGAIN_S
            except Exception as error:
                event(logging.ERROR, "fleet_failed", code="FB999", error=f"{type(error).__name__}: {error}")
            if not self._is_joined:
                # Alone, and cut off, other rules hold.
                self._changed()
                pause_s = AGAIN_S
            self._tell_figures()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_due.wait(), pause_s)

    async def _go_round(self) -> None:
        if self._session is None or self._session.is_over:
            self._session = None
            if not await self._register():
                return
        session = self._session
        if session is None:
            return
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.ensure_future(
                session.keep(self._store, ttl_s=self._config.ttl_s, renewed=self._renewed, failed=self._not_renewed)
            )
        looked_at = time.monotonic()
        seen = await self._store.look()
        own = seen.nodes.get(self._config.node)
        if own is None or own.node.id != self._node.id:
            # etcd let go of the lease: what was lent is somebody else's by now.
            session.is_over = True
            self._is_due.set()
            return
        self._seen, self._looked_at = seen, looked_at
        for system in sorted(self._systems):
            if not await self._agree(session, seen, system):
                # What it rests on is to be looked at anew.
                self._is_due.set()
                return
        for database in sorted(set(self._totals) | set(seen.budgets)):
            await self._divide(session, seen, database)

    async def _register(self) -> bool:
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None
        node = replace(self._node, held={})
        session = await register(self._store, self._config.node, There(node, 0), ttl_s=round(self._config.ttl_s))
        if session is None:
            if not self._is_taken:
                self._is_taken = True
                hint = "It is another process, or this one before it was killed: then its lease ends in a moment."
                event(logging.WARNING, "fleet_node_taken", node=self._config.node, fleet=self._config.name, hint=hint)
            return False
        self._is_taken = False
        self._counts.registrations += 1
        self._session = session
        for loan in self._loans.values():
            # What was lent before this registration may be others' by now.
            loan.servers = loan.after
        event(logging.INFO, "fleet_joined", fleet=self._config.name, node=self._config.node)
        return True

    def _renewed(self) -> None:
        session = self._session
        if session is None or session.is_over:
            self._is_due.set()
        elif not self._is_moving():
            self._share()
        self._tell_figures()

    def _not_renewed(self) -> None:
        self._counts.failures += 1

    async def _watch(self) -> None:
        """Hurries the next round when something has changed."""
        while True:
            seen = self._seen
            if seen is not None:
                with contextlib.suppress(SourceFailed):
                    async with contextlib.aclosing(self._store.changes(seen)) as changes:
                        async for revision in changes:
                            if self._seen is None or revision > self._seen.revision:
                                self._is_due.set()
            await asyncio.sleep(AGAIN_S)

    # Who is primary.

    async def _agree(self, session: Session, seen: Seen, system: int) -> bool:
        """False: something was written, or is otherwise by now."""
        found = seen.records.get(system)
        record, revision = found or (None, 0)
        others = [held for name, there in seen.nodes.items()
                  if name != self._config.node and (held := there.node.record(system)) is not None]  # fmt: skip
        claims = {claim for of, claim in self._claims.values() if of == system and claim is not None}
        claim = max(claims, key=lambda one: (one.timeline, one.endpoint), default=None)
        if claim is not None and session.is_current:
            verdict = judge(record, claim, others)
            if verdict in (Claim.WRITTEN, Claim.UNHELD):
                at = seen.revision if verdict is Claim.UNHELD else None
                if await self._store.record(self._config.node, session.there.revision, system, claim, revision,
                                            unheld_at=at):  # fmt: skip
                    self._counts.written += 1
                    event(logging.INFO, "fleet_primary", system=system, endpoint=claim.endpoint,
                          timeline=claim.timeline, node=self._config.node)  # fmt: skip
                return False
            if verdict is Claim.CONTESTED and self._contested.get(system) != claim:
                self._contested[system] = claim
                self._counts.refused += 1
                hint = "All nodes must call an endpoint by the same name; SHOW FLEET tells which they hold."
                event(logging.ERROR, "fleet_primary_refused", system=system, endpoint=claim.endpoint,
                      because=f"it {verdict.value}", hint=hint)  # fmt: skip
        if record is None:
            return True
        if self._admitted.get(system) not in (None, record.endpoint):
            # Nobody goes on before this node has left.
            self._admit(system, None)
        held = session.there.node.record(system)
        if held != record:
            node = session.there.node
            node = replace(node, held={**node.held, str(system): (record.timeline, record.endpoint)})
            there = There(node, session.there.revision)
            if not await self._store.hold(self._config.node, there, session.lease, system, revision):
                return False
            session.there, held = there, record
            # Who held another one by then is in a look from here on.
            return False
        if session.is_current and may_act(record, held, others):
            self._admit(system, record.endpoint)
        return True

    def _admit(self, system: int, endpoint: str | None) -> None:
        if self._admitted.get(system) != endpoint or system not in self._admitted:
            self._admitted[system] = endpoint
            self._changed()

    # Who has which servers.

    async def _divide(self, session: Session, seen: Seen, database: str) -> None:
        if self._servers is None:
            return
        node, total = self._config.node, self._totals.get(database)
        budget, revision = seen.budgets.get(database) or (Budget(total or 0), 0)
        used = self._servers.servers_of(database)
        if total is None:
            # Not a database of this node any more.
            if node in budget.parts and used == 0:
                await self._store.divide(node, session.there.revision, database, budget.without(node), revision, [])
            return
        before = budget
        if database not in self._stated and budget.total != total:
            event(logging.INFO, "fleet_budget", database=database, before=budget.total, after=total)
            budget = Budget(total, budget.parts)
        now = time.monotonic()
        wish = self._wishes.setdefault(database, Wish())
        wanted = wish.of(self._wanted().get(database, 0), budget.total, now)
        loan = self._loans.setdefault(database, Loan())
        written = loan.plan(budget, node, set(seen.nodes), wanted=wanted, used=used, now=now)
        self._share()
        if written is None and budget == before and revision:
            self._stated.add(database)
            return
        absent = [each for each in budget.parts if each not in seen.nodes]
        if await self._store.divide(node, session.there.revision, database, written or budget, revision, absent):
            self._stated.add(database)
            self._counts.changes[database] += 1
        self._is_due.set()

    def _share(self) -> None:
        """Tells the engine what holds."""
        session = self._session
        if self._servers is None or session is None:
            return
        for database, loan in self._loans.items():
            self._servers.share(database, loan.servers, int(session.until * 1_000_000), loan.after)

    # What people are told.

    def _tell_figures(self) -> None:
        """For the metrics."""
        if self._servers is not None:
            systems = {database: system for database, (system, _) in self._claims.items()}
            self._servers.tell_fleet(
                figures(self._counts, self._config.node, self._session, self._seen, self._looked_at, systems,
                        self._servers.servers_of)
            )  # fmt: skip

    def _tell_away(self, failed: SourceFailed) -> None:
        if not self._is_away:
            self._is_away = True
            event(logging.WARNING, "fleet_away", fleet=self._config.name, error=str(failed), hint=failed.hint,
                  keeps="the primary in use; of budgets what is lent until the lease ends, then a part")  # fmt: skip

    def _tell_back(self) -> None:
        if self._is_away:
            self._is_away = False
            event(logging.INFO, "fleet_back", fleet=self._config.name)
