"""The service's side of a fleet: there may be none."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from forebay import __version__
from forebay._engine import Engine
from forebay.config.fleet import FleetConfig
from forebay.config.resolve import Config
from forebay.failure import Failure
from forebay.observe import stats

if TYPE_CHECKING:
    from forebay.control.discover import Discovery
    from forebay.control.discover.member import Renewal
    from forebay.control.etcd_gateway import Gateway
    from forebay.control.fleet.node import Fleet

# How long etcd may take for an answer, of the time that a lease counts for.
ANSWER_PART: Final = 1 / 5
ANSWER_S_MAX: Final = 2.0
# Behind the last server that was closed: PostgreSQL may not have heard yet.
LAST_WORDS_S: Final = 0.3
# Where what a fleet knows stands among what is known of clusters; no database has such a name.
_LEGACY: Final = "\0fleet"


class Joined:
    """A fleet, or none."""

    def __init__(self, fleet: Fleet | None, gateway: Gateway | None = None) -> None:
        self.fleet = fleet
        self._gateway = gateway
        self._renewal: Renewal | None = None

    def start(self, engine: Engine, *, is_moving: Callable[[], bool]) -> None:
        """The engine runs."""
        if self.fleet is not None:
            self.fleet.start(engine, lambda: _wanted(engine), is_moving)

    async def prepare(self) -> None:
        """Reads certificates once more, for `configure`. Raises Failure."""
        if self._gateway is not None:
            with _named():
                self._renewal = await asyncio.to_thread(self._gateway.http.read_files)

    async def configure(self, config: Config) -> None:
        """Another configuration is in force."""
        if self._renewal is not None:
            await self._renewal()
        if self.fleet is not None and config.fleet is not None:
            self.fleet.configure(config.fleet)

    def with_legacy(self, clusters: dict[str, Any]) -> dict[str, Any]:
        """What a process that takes this one's place is to know."""
        known = self.fleet.legacy() if self.fleet is not None else None
        return clusters if known is None else {**clusters, _LEGACY: known}

    def inherited(self, clusters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Takes what is a fleet's of that; the rest is of clusters."""
        known = clusters.get(_LEGACY)
        if known is not None and self.fleet is not None:
            self.fleet.inherit(known)
        return {name: words for name, words in clusters.items() if name != _LEGACY}

    def rest(self) -> None:
        """The engine is about to stop."""
        if self.fleet is not None:
            self.fleet.rest()

    async def close(self, *, is_over: bool) -> None:
        """The engine has stopped. is_over: nobody goes on in this process's place."""
        if self.fleet is not None:
            if is_over:
                await asyncio.sleep(LAST_WORDS_S)
            await self.fleet.close(is_over=is_over)


def join(config: Config, discovery: Discovery) -> Joined:
    """Makes the node that a configuration describes; asks nobody yet. Reads certificates. Raises Failure."""
    if config.fleet is None:
        return Joined(None)
    from forebay.control.fleet.node import Fleet
    from forebay.control.fleet.store import Node, Store

    with _named():
        gateway = gateway_of(config.fleet)
    listen = config.engine.listen
    where = f"{listen.addresses[0]}:{listen.port}" if listen.addresses else str(listen.unix)
    node = Node(id=secrets.token_hex(8), version=__version__, address=where, started=time.time())

    fleet = Fleet(config.fleet, Store(gateway, config.fleet.name), node, changed=discovery.reconsider)
    discovery.fleet = fleet
    return Joined(fleet, gateway)


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Failures tell which section they are of."""
    try:
        yield
    except Failure as failure:
        raise Failure(f"[fleet]: {failure.message}", hint=failure.hint, exit=failure.exit) from None


def gateway_of(fleet: FleetConfig) -> Gateway:
    """The fleet's etcd, not asked yet. Reads certificates. Raises Failure."""
    from forebay.control.discover.registration import need
    from forebay.control.etcd_gateway import Gateway

    address = fleet.store_address()
    need(address, "httpx2")
    login_hint = (
        f"Check fleet.user and fleet.secret, and that the user may read and write below /forebay/{fleet.name}/."
        if fleet.user
        else "etcd has users: set fleet.user and fleet.secret."
    )
    return Gateway(address, timeout_s=min(ANSWER_S_MAX, fleet.ttl_s * ANSWER_PART), login_hint=login_hint)


def _wanted(engine: Engine) -> dict[str, int]:
    """Servers that clients hold or wait for, by database."""
    sums: dict[str, int] = {}
    for pool in stats.decode(engine.stats()):
        name = pool.database.removesuffix(":replicas")
        sums[name] = sums.get(name, 0) + pool.servers_active + pool.waiting
    return sums
