"""Servers that workers still have at the old primary.

WAIT_CLOSE waits for all servers of a database that shall be closed, also for those at other endpoints: a replica that
was ejected may have a report under way for an hour. Where it waits, it is looked at what workers hold.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from forebay.admin.snapshot import Server, Snapshot, decode, merge
from forebay.control.endpoint import host_and_port
from forebay.control.engine_link import Outcome

LOOK_S: Final = 0.05
# A server may be on its way from one worker to another as they are looked at, one after the other; each time, never.
CLEAN_MIN: Final = 4
_REPLICAS: Final = ":replicas"

Order = Callable[[str, str | None], Awaitable[Outcome]]


class Servers:
    """Those of some databases. endpoint: the old primary's; others: the rest of theirs."""

    def __init__(self, order: Order, databases: Collection[str], endpoint: str, others: Collection[str]) -> None:
        self._order = order
        self._databases = frozenset(databases)
        self._port = host_and_port(endpoint)[1]
        self._endpoint = endpoint
        # Of a socket, workers tell the path and no port.
        self._others = [each for each in others if each.startswith("/") or host_and_port(each)[1] == self._port]
        # Addresses at the old primary's port that are other endpoints'.
        self._elsewhere: frozenset[str] = frozenset()

    async def resolve(self) -> None:
        """Learns the addresses of names."""
        here, *others = await asyncio.gather(*map(_addresses, (self._endpoint, *self._others)))
        self._elsewhere = frozenset().union(*others) - here

    async def closed(self) -> None:
        """Returns when there is none any more."""
        waiting = [asyncio.ensure_future(self._order("wait_close", each)) for each in sorted(self._databases)]
        try:
            clean = 0
            while clean < CLEAN_MIN:
                done, left = await asyncio.wait(waiting, timeout=LOOK_S)
                for each in done:
                    each.result()
                if not left:
                    return
                clean = 0 if self.left(await self.snapshot()) else clean + 1
        finally:
            for each in waiting:
                each.cancel()

    async def snapshot(self) -> Snapshot:
        """What all workers hold."""
        return merge(map(decode, (await self._order("snapshot", None)).snapshots))

    def left(self, held: Snapshot) -> list[Server]:
        """Those that shall be closed, and are not known to be at another endpoint."""
        return [
            each
            for each in held.servers
            if each.close_needed
            and each.database.removesuffix(_REPLICAS) in self._databases
            and each.port in (self._port, 0)
            and each.address not in self._elsewhere
            # As WAIT_CLOSE has it: these write nothing.
            and not each.channels
            and each.replication == "none"
        ]


async def _addresses(endpoint: str) -> frozenset[str]:
    """Empty where its name can't be looked up."""
    host, port = host_and_port(endpoint)
    if host.startswith("/"):
        return frozenset((endpoint,))
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return frozenset()
    return frozenset((host, *(str(place[0]) for *_, place in found)))
