"""What a node may have open of one database's budget, from one look at the store to the next. Reads no clock."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from forebay.control.fleet.allocation import Budget, step

# PostgreSQL may still count a server for so long that was closed here.
LINGER_S: Final = 1.0
# For how long a node is taken to want what it wanted once.
WANT_S: Final = 10.0
# Wishes are rounded up to such a part of the budget, so that they seldom change.
GRAINS: Final = 16


class Loan:
    """servers: may be open while the lease holds; after: at most these are left open when it does not.

    is_new: no process before this one goes on here. One of the same name that was killed may have left servers which
    PostgreSQL has not missed yet.
    """

    def __init__(self, servers: int = 0, after: int = 0, *, is_new: bool = True) -> None:
        self.servers = servers
        self.after = after
        self._is_new = is_new
        self._rests_until = 0.0
        # When servers were last to be closed.
        self._closed_at: float | None = None
        # Since when no more than so many have been open, or could be.
        self._quiet: tuple[int, float] | None = None

    def plan(
        self, budget: Budget, node: str, there: Collection[str], *, wanted: int, used: int, now: float
    ) -> Budget | None:
        """Sets what holds until the next call; returns the budget to write, or None where it is right as it is.

        budget: as it is in the store. there: nodes whose leases hold, with this one. used: servers open now.
        """
        part = budget.part(node)
        if self._is_new:
            self._is_new = False
            self._rests_until = now + LINGER_S if part.lent else now
        goal = step(budget, node, there, wanted=wanted, in_use=0).part(node).lent
        most = min(part.lent, goal)
        if used > most:
            self._closed_at = now
        if most > self.servers and self._closed_at is not None and now - self._closed_at < LINGER_S:
            # PostgreSQL may not have missed those yet that were closed.
            most = min(self.servers, part.lent)
        self.servers = most
        if used > self.servers:
            self._quiet = None
        elif self._quiet is None or self._quiet[0] > self.servers:
            self._quiet = (self.servers, now)
        else:
            self._quiet = (self.servers, self._quiet[1])
        is_given_up = self._quiet is not None and now - self._quiet[1] >= LINGER_S
        in_use = self.servers if is_given_up else part.lent
        written = step(budget, node, there, wanted=wanted, in_use=in_use)
        self.after = min(part.kept, written.part(node).kept)
        if now < self._rests_until:
            self.servers = self.after = 0
        return written if written != budget else None


class Wish:
    """What a node's clients want of a budget: the most of the last while, rounded up."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def of(self, wanted: int, total: int, now: float) -> int:
        """With what they want now."""
        self._seen = [(at, count) for at, count in self._seen if now - at < WANT_S and count > wanted]
        self._seen.append((now, wanted))
        grain = max(1, total // GRAINS)
        most = max(count for _, count in self._seen)
        return min(total, -(-most // grain) * grain)
