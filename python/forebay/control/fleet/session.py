"""A node's registration in its fleet: a lease, renewed for as long as the process runs, and until when it surely holds.

Time is counted from before a renewal was asked for, and a third of it is given up: what was lent must be back, and what
was begun must have ended, when etcd lets go of the lease. So a process that was stopped, or cut off, knows by its own
clock that it may not go on, before anybody else is told that it is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from forebay.control.discover.member import SourceFailed
from forebay.control.fleet.store import Store, There

# Of its time a lease counts for so much here, and is renewed so often.
COUNTS: Final = 2 / 3
RENEWALS: Final = 5
# A renewal that failed is tried again after that.
AGAIN_S: Final = 0.5


class Session:
    """One registration. there: the node as it is written; its revision is that of the registration."""

    def __init__(self, lease: str, there: There, until: float) -> None:
        self.lease = lease
        self.there = there
        self.until = until
        self.is_over = False

    @property
    def is_current(self) -> bool:
        """Whether its lease surely holds at this moment."""
        return not self.is_over and time.monotonic() < self.until

    async def keep(
        self, store: Store, *, ttl_s: float, renewed: Callable[[], None], failed: Callable[[], None]
    ) -> None:
        """Renews it until it is over; calls `renewed` each time, or `failed`."""
        while not self.is_over:
            asked_at = time.monotonic()
            pause_s = ttl_s / RENEWALS
            try:
                left_s = await store.renew(self.lease)
            except SourceFailed:
                pause_s = min(AGAIN_S, pause_s)
                failed()
            else:
                self.is_over = left_s <= 0
                if not self.is_over:
                    self.until = max(self.until, asked_at + left_s * COUNTS)
                renewed()
            await asyncio.sleep(pause_s)


async def register(store: Store, name: str, there: There, *, ttl_s: int) -> Session | None:
    """Begins one; None where the name is taken. Raises SourceFailed."""
    asked_at = time.monotonic()
    lease, given_s = await store.grant(ttl_s)
    try:
        revision = await store.register(name, there.node, lease)
    except SourceFailed:
        await end(store, lease)
        raise
    if revision is None:
        await end(store, lease)
        return None
    return Session(lease, There(there.node, revision), asked_at + given_s * COUNTS)


async def end(store: Store, lease: str) -> None:
    """Gives a lease up, if etcd can be told."""
    with contextlib.suppress(SourceFailed):
        await store.revoke(lease)
