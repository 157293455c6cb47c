"""What console commands need of the running service; `forebay.control` implements it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from forebay._engine import Catalogue
from forebay.admin.snapshot import Snapshot
from forebay.config.resolved import DatabaseConfig, EngineConfig, Preference
from forebay.config.setting_line import SettingLine
from forebay.observe.stats import PoolCounters, Totals, WorkerCounters


class Refused(Exception):
    """An order that was not carried out; `because` completes "… was refused: ". hint: what to do about it."""

    def __init__(self, because: str, *, hint: str | None = None) -> None:
        super().__init__(because)
        self.because = because
        self.hint = hint


class Shutdown(Enum):
    """How SHUTDOWN stops: at once; as transactions end; once clients, or servers, are done."""

    NOW = "now"
    DRAIN = "drain"
    CLIENTS = "clients"
    SERVERS = "servers"


@dataclass(frozen=True, slots=True)
class Identity:
    """What is running. is_pgbouncer: it stands in for PgBouncer, and answers as that does."""

    version: str
    driver: str
    workers: int
    is_pgbouncer: bool = False


@dataclass(frozen=True, slots=True)
class Hosts:
    """Names of servers: (name, seconds until it is looked up again, addresses). under_way, waiting: lookups."""

    rows: Sequence[tuple[str, int, Sequence[str]]]
    under_way: int
    waiting: int


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """An endpoint of a cluster. role: a name of forebay_core::cluster::Standing; reason: completes "it …".

    lsn: written or replayed up to there; lag: bytes behind the primary; answered_s: seconds since its last answer;
    error: why the last probe failed; source: the kind of who tells of the topology besides the endpoints; source_s:
    seconds since that did. exposed_s: how old the primary's work that a replica has not replayed is at most; canary:
    what came of the last write canary; unconfirmed_s: seconds since one was confirmed. weight, zone: what is said of
    it. None where that is not known.
    """

    database: str
    endpoint: str
    role: str
    reason: str
    timeline: int | None
    lsn: int | None
    lag: int | None
    answered_s: float | None
    error: str | None
    source: str | None = None
    source_s: float | None = None
    exposed_s: float | None = None
    canary: str | None = None
    unconfirmed_s: float | None = None
    weight: int = 1
    zone: str | None = None

    def preferred(self, said: Preference | None) -> EndpointRow:
        """The same, with what is said of it."""
        return self if said is None else replace(self, weight=said.weight, zone=said.zone or None)


@dataclass(frozen=True, slots=True)
class FailoverRow:
    """A change of a database's primary, as it was seen. seen_at: by the monotonic clock.

    missing_bytes, missing_s: what may be missing of the old primary's work, as `reason` says; None: nobody knows.
    """

    database: str
    old: str
    new: str
    timeline: int
    is_planned: bool
    missing_bytes: int | None
    missing_s: float | None
    reason: str
    seen_at: float


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node of the fleet. state: this, here, cut off (this one), absent. started: seconds since 1970.

    holds: endpoints that it takes for primaries.
    """

    node: str
    state: str
    address: str | None
    version: str | None
    started: float | None
    holds: str


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """A node's part of a database's budget. open: servers that there are, of this node."""

    database: str
    budget: int
    node: str
    lent: int
    kept: int
    wanted: int
    open: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchoverOrder:
    """A planned change of a database's primary.

    candidate: an endpoint; None: the replica that is behind the least. end_s: what is under way may take as long to
    end; is_cut: past it, it is cut; otherwise all is undone. limit_s: how long all may be held up to the promotion, and
    how long that may take. is_manual: somebody else promotes when they are told to.
    """

    database: str
    candidate: str | None = None
    end_s: float = 10.0
    limit_s: float = 30.0
    is_manual: bool = False
    is_cut: bool = False


# Shows a line of how far a command is, and what a program may want to know of it, to who waits for the answer.
Tell = Callable[[str, str | None], None]


class Backend(Protocol):
    """The running service. Databases are named as clients name them; None means all of them."""

    @property
    def identity(self) -> Identity:
        """Version, I/O driver and workers."""

    @property
    def config(self) -> EngineConfig:
        """The configuration in force, as the engine got it."""

    def settings(self) -> Sequence[SettingLine]:
        """The settings in force, by the names of the file that they came from."""

    def totals(self) -> dict[str, Totals]:
        """Totals since the start, by database."""

    def averages(self) -> dict[str, Totals]:
        """Averages over the last period, by database."""

    def hosts(self) -> Hosts:
        """The names of servers that are kept."""

    def endpoints(self) -> Sequence[EndpointRow]:
        """The endpoints of databases with a topology."""

    def failovers(self) -> Sequence[FailoverRow]:
        """Changes of primaries that were seen, by database, the last of each last."""

    def fleet(self) -> Sequence[NodeRow]:
        """The nodes of the fleet; none where there is no fleet."""

    def budgets(self) -> Sequence[BudgetRow]:
        """Who has which part of the budgets of databases."""

    async def forget_node(self, node: str) -> None:
        """A node that is absent is gone for good. Raises Refused."""

    async def catalogue(self, database: str) -> Catalogue | None:
        """What objects of a database with a topology do, as it is now; None for others. Raises Refused."""

    def was_refused(self, database: DatabaseConfig, text: str) -> bool:
        """Whether a replica has refused a text that the catalogue takes for a reading one."""

    def workers(self) -> Sequence[WorkerCounters]:
        """Totals since the start, by worker."""

    def pools(self) -> Sequence[PoolCounters]:
        """Totals since the start, by pool."""

    async def snapshot(self) -> Snapshot:
        """What the workers hold."""

    async def sockets(self) -> Snapshot:
        """The same, with our own end of each connection."""

    async def suspend(self) -> None:
        """Returns once all that was read is written, and nothing more is read until RESUME. Raises Refused."""

    async def pause(self, database: str | None, limit_s: float | None = None, by: object | None = None) -> None:
        """Returns once no server is in use. Raises Refused; after limit_s it is undone before.

        by: what `unpause` knows it by.
        """

    async def unpause(self, database: str | None, by: object) -> None:
        """Undoes one pause. What another command holds stays held. Raises Refused."""

    async def resume(self, database: str | None) -> None:
        """Raises Refused."""

    async def switch_over(self, order: SwitchoverOrder, tell: Tell) -> None:
        """Returns once requests go to the new primary. Raises Refused."""

    async def call_off_switchover(self) -> None:
        """Undoes the switchover under way. Raises Refused where that can't be."""

    def switch_back(self, database: str) -> None:
        """Lets requests go to a primary again that was relieved. Raises Refused."""

    async def kill(self, database: str | None) -> None:
        """Raises Refused."""

    async def kill_client(self, client: int) -> None:
        """Raises Refused when there is none."""

    async def reconnect(self, database: str | None) -> None:
        """Raises Refused."""

    async def disable(self, database: str) -> None:
        """Lets no new client in to a database."""

    async def enable(self, database: str) -> None:
        """Undoes it."""

    async def wait_close(self, database: str | None) -> None:
        """Returns once no server is left that RECONNECT has marked. Raises Refused."""

    async def set_setting(self, name: str, value: str) -> None:
        """Changes a setting until the configuration says otherwise. Raises Refused."""

    async def reload(self) -> Sequence[str]:
        """Returns what changed, a line each. Raises Refused with the findings."""

    def drain(self, is_on: bool) -> None:
        """Says on /readyz that no more clients shall be sent, or takes it back. Raises Refused."""

    @property
    def is_draining(self) -> bool:
        """Whether it says so."""

    def shutdown(self, how: Shutdown) -> None:
        """Begins to stop, after the console's answer is on its way."""

    @property
    def is_stopping(self) -> bool:
        """Whether a stop was asked for."""
