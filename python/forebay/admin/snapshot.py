"""What the workers hold, as they report it (forebay_core::command::Snapshot), merged over workers.

Times are microseconds ago.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Socket(msgspec.Struct, frozen=True):
    """Our own end of a connection: descriptor, address or `unix`, port."""

    descriptor: int
    address: str
    port: int


class Client(msgspec.Struct, frozen=True):
    """A client; `id` is unique over workers and time.

    replication: none, physical, logical.
    pin: why it holds its server between transactions, by the names of spec/pins.toml; empty: it does not.
    pinned_us: since when. pin_verb: the kind of statement that brought it about.
    channels: how many it listens to through its pool's listener.
    socket: where that was asked for.
    """

    id: int
    user: str
    database: str
    application_name: str
    state: str
    address: str
    port: int
    age_us: int
    request_us: int
    wait_us: int
    server: int | None
    tls: str
    prepared_statements: int
    replication: str = "none"
    pin: tuple[str, ...] = ()
    pinned_us: int = 0
    pin_verb: str = ""
    channels: int = 0
    socket: Socket | None = None


class Server(msgspec.Struct, frozen=True):
    """A server connection; `id` is unique over workers and time.

    replication: none, physical, logical.
    dirt: what the session that it served last may have left on it. channels: how many it listens to, if it is a
    pool's listener. socket: where that was asked for.
    """

    id: int
    user: str
    database: str
    application_name: str
    state: str
    address: str
    port: int
    age_us: int
    request_us: int
    client: int | None
    remote_pid: int
    tls: str
    prepared_statements: int
    close_needed: bool
    replication: str = "none"
    dirt: tuple[str, ...] = ()
    channels: int = 0
    socket: Socket | None = None


class Share(msgspec.Struct, frozen=True):
    """What an endpoint has of a pool's requests: in hundredths, and why it gets none or few."""

    endpoint: str
    share: int
    latency_us: int | None
    ejected: str | None


class Pool(msgspec.Struct):
    """A pool, or one worker's part of it."""

    database: str
    user: str
    cl_active: int
    cl_waiting: int
    cl_active_cancel_req: int
    cl_waiting_cancel_req: int
    sv_active: int
    sv_active_cancel: int
    sv_being_canceled: int
    sv_idle: int
    sv_used: int
    sv_tested: int
    sv_login: int
    maxwait_us: int
    pool_mode: str
    sick: str | None
    endpoints: list[Share] = []

    @property
    def is_replication(self) -> bool:
        """Whether it counts replication connections, each with a server of its own."""
        return self.pool_mode == "replication"

    @property
    def servers(self) -> int:
        """Server connections of whatever state."""
        states = (self.sv_active, self.sv_being_canceled, self.sv_idle, self.sv_used, self.sv_tested, self.sv_login)
        return sum(states)

    def add(self, other: Pool) -> None:
        """Adds another worker's part of the same pool."""
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.maxwait_us = max(self.maxwait_us, other.maxwait_us)
        self.sick = self.sick or other.sick
        self.endpoints = self.endpoints or other.endpoints


_SUMMED = (
    "cl_active",
    "cl_waiting",
    "cl_active_cancel_req",
    "cl_waiting_cancel_req",
    "sv_active",
    "sv_active_cancel",
    "sv_being_canceled",
    "sv_idle",
    "sv_used",
    "sv_tested",
    "sv_login",
)


class PeerPool(msgspec.Struct, frozen=True):
    """What is on its way to a peer, which belongs to one worker."""

    peer_id: int
    cl_active_cancel_req: int
    cl_waiting_cancel_req: int
    sv_active_cancel: int
    sv_login: int


class Snapshot(msgspec.Struct):
    """What one worker holds, or all of them."""

    clients: list[Client] = []
    servers: list[Server] = []
    pools: list[Pool] = []
    paused: list[str] = []
    disabled: list[str] = []
    peers: list[PeerPool] = []
    is_suspended: bool = False


def decode(text: str | bytes) -> Snapshot:
    """One worker's report."""
    return msgspec.json.decode(text, type=Snapshot)


def merge(parts: Iterable[Snapshot]) -> Snapshot:
    """All workers' reports as one; pools by (database, user), in the order of their names, replication last."""
    whole = Snapshot()
    pools: dict[tuple[str, str, bool], Pool] = {}
    paused: set[str] = set()
    disabled: set[str] = set()
    for part in parts:
        whole.clients.extend(part.clients)
        whole.servers.extend(part.servers)
        paused.update(part.paused)
        disabled.update(part.disabled)
        whole.peers.extend(part.peers)
        whole.is_suspended |= part.is_suspended
        for pool in part.pools:
            key = (pool.database, pool.user, pool.is_replication)
            if (known := pools.setdefault(key, pool)) is not pool:
                known.add(pool)
    whole.pools = [pools[key] for key in sorted(pools)]
    whole.peers.sort(key=lambda peer: peer.peer_id)
    whole.paused = sorted(paused)
    whole.disabled = sorted(disabled)
    return whole
