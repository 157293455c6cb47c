"""What would be missing, or is, if a replica takes over: by where the primary had written, and when.

All that was acknowledged before a primary was asked where it is lies before what it answers. So who has replayed that
far has all of it, and what is missing of work is younger than the last such question.

| asked is | of |
|---|---|
| how much work a replica does not have yet | the positions of the primary, and what the replica has replayed |
| how old what a replica lacks is known to be | the same, and when the replica was asked |
| how much a failover has lost | the positions of the old primary, and where the new one's timeline begins |

Pure: what is told of it is `risk.py`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

# Positions that are kept, and the shortest time between two.
POSITIONS_MAX: Final = 1024
STEP_S: Final = 0.2


class Positions:
    """Where one primary was on one timeline. span_s: for how long back that is wanted. points: of one before."""

    def __init__(self, span_s: float, points: Iterable[tuple[float, float, int]] = ()) -> None:
        self._step_s = max(STEP_S, 4 * span_s / POSITIONS_MAX)
        # When it was first and last asked of those that answered the same, and what; all grow.
        self._points = deque(points, maxlen=POSITIONS_MAX)

    def note(self, asked_at: float, lsn: int) -> None:
        """It has answered."""
        first_at = asked_at
        if self._points:
            since, last_at, last = self._points[-1]
            if asked_at < last_at or lsn < last:
                return
            is_near = len(self._points) > 1 and asked_at - self._points[-2][1] < self._step_s
            if lsn == last:
                first_at = since
            if lsn == last or is_near:
                self._points.pop()
        self._points.append((first_at, asked_at, lsn))

    @property
    def points(self) -> tuple[tuple[float, float, int], ...]:
        """All that is known, the last one last: what `__init__` takes."""
        return tuple(self._points)

    @property
    def last(self) -> tuple[float, int] | None:
        """When it was asked last, and what it answered."""
        return self._points[-1][1:] if self._points else None

    def covered(self, lsn: int) -> float | None:
        """What was acknowledged before this moment lies before the position; None: nobody knows of any."""
        return next((at for _, at, point in reversed(self._points) if point <= lsn), None)

    def exposed_s(self, lsn: int, now: float) -> float | None:
        """How old what lies behind the position is at most; None where nobody knows."""
        if not self._points:
            return None
        at = self.covered(lsn)
        # Older than all that is known: at least as much.
        return max(0.0, now - (self._points[0][0] if at is None else at))

    def late_s(self, lsn: int, asked_at: float) -> float:
        """How old, of what lies behind the position, some is known to be at that moment; 0: none is known of."""
        first = next((at for at, _, point in self._points if point > lsn), asked_at)
        return max(0.0, asked_at - first)


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a server's timeline begins. is_exact: it is there; otherwise it is there or later."""

    at: int
    is_exact: bool


@dataclass(frozen=True, slots=True)
class Loss:
    """What a failover may have cost. fork: where the new timeline begins. seen: the last that was heard of the old one.

    missing_bytes: of what the old one was seen to have written, at most where the fork is not exact. missing_s: of
    acknowledged work, at most; None: nobody knows, for all that was heard of the old one lies behind the fork.
    """

    fork: Fork
    seen: int
    missing_bytes: int
    missing_s: float | None

    @property
    def words(self) -> str:
        """For people."""
        if self.missing_s is None and self.fork.is_exact:
            return f"{self.missing_bytes} bytes that were seen written are missing, and of how much time is not known"
        count = f"{self.missing_bytes} bytes" if self.fork.is_exact else f"up to {self.missing_bytes} bytes"
        seen = f"; {count} that were seen written are" if self.missing_bytes else ""
        why = "" if self.fork.is_exact else "; it may be less: nobody saw how far the new primary was at its promotion"
        if self.missing_s is None:
            return f"of how much time acknowledged work may be missing is not known{seen}{why}"
        return f"at most {self.missing_s:.1f} s of acknowledged work may be missing{seen}{why}"


class Forks:
    """Where the timelines of servers begin, by what each has answered.

    A server that was promoted tells how far it had replayed, and that is the fork; one that has crashed since tells how
    far it has replayed after the crash, which is later. So it is believed only on a connection on which it was a
    replica: a crash ends all of them. Else the fork is where it was seen to have come as a replica, or later.
    """

    def __init__(self) -> None:
        # As a replica: timeline and position, by endpoint.
        self._replayed: dict[str, tuple[int, int]] = {}
        # As it answered first when it could write: timeline, and the fork if it is to be believed.
        self._forks: dict[str, tuple[int, int | None]] = {}

    def heard(
        self, endpoint: str, *, is_in_recovery: bool, timeline: int, lsn: int, fork: int | None, was_replica: bool
    ) -> None:
        """fork: what it tells of it. was_replica: it was one on this connection."""
        if is_in_recovery:
            self._replayed[endpoint] = timeline, lsn
            self._forks.pop(endpoint, None)
        elif endpoint not in self._forks or self._forks[endpoint][0] != timeline:
            self._forks[endpoint] = timeline, fork if was_replica else None

    def of(self, endpoint: str, timeline: int, before: int) -> Fork | None:
        """Where a timeline begins that leads on from `before`; None: nobody knows."""
        told = self._forks.get(endpoint)
        if told is not None and told[0] == timeline and told[1] is not None:
            return Fork(told[1], is_exact=True)
        replayed = self._replayed.get(endpoint)
        # On another timeline its positions are those of another branch, it may be.
        return Fork(replayed[1], is_exact=False) if replayed is not None and replayed[0] == before else None

    def words(self) -> list[Any]:
        """All of it, for `inherit`; of JSON's types."""
        return [self._replayed, self._forks]

    def inherit(self, words: Sequence[Any]) -> None:
        """What another one has heard."""
        replayed, forks = words
        self._replayed = {name: (timeline, lsn) for name, (timeline, lsn) in replayed.items()}
        self._forks = {name: (timeline, fork) for name, (timeline, fork) in forks.items()}

    def keep(self, endpoints: Iterable[str]) -> None:
        """Nobody else is there any more."""
        there = set(endpoints)
        self._replayed = {name: one for name, one in self._replayed.items() if name in there}
        self._forks = {name: one for name, one in self._forks.items() if name in there}


def loss_of(before: Positions, fork: Fork, lost_at: float) -> Loss | None:
    """lost_at: when the old primary got the last of what was acknowledged here; None: it was never heard of."""
    if before.last is None:
        return None
    seen = before.last[1]
    covered = before.covered(fork.at)
    return Loss(fork, seen, max(0, seen - fork.at), None if covered is None else max(0.0, lost_at - covered))


def least_exposed(positions: Positions, replayed: Iterable[int], now: float) -> float | None:
    """Of the candidates that would lose the least; None: there is none, or nothing is known."""
    known = [each for lsn in replayed if (each := positions.exposed_s(lsn, now)) is not None]
    return min(known, default=None)
