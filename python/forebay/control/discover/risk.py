"""Tells what a failover may have cost, that the next one would cost more than `rpo_target`, and who is late.

| a replica, when it is asked | is |
|---|---|
| has not replayed what the primary is known to have written longer ago than `replica_lag_time_max` | late |
| was late, and has not come to the first that is known of this primary either | late |
| was late, and there is no primary at the moment | late |
| else | not late |
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any, Final

from forebay.admin.backend import FailoverRow
from forebay.config.topology import Topology
from forebay.control.discover.exposure import Forks, Positions, least_exposed, loss_of
from forebay.observe.log import event

# Positions are kept for so many times the target, or what replicas may be late.
SPANS: Final = 2
# Changes of the primary that are remembered.
FAILOVERS_MAX: Final = 8
_LEAVING: Final = ("held", "relieved")
_CANDIDATES: Final = ("replica", "lagging", "down")

# Endpoint, role, reason, timeline, LSN, lag.
Node = tuple[str, str, str, int | None, int | None, int | None]


class Risk:
    """Of one database's cluster. forks: is told what endpoints answer. before: what another one knew, as `words`."""

    def __init__(self, topology: Topology, before: Mapping[str, Any] | None = None) -> None:
        self._topology = topology
        self.forks = Forks()
        self.failovers: deque[FailoverRow] = deque(maxlen=FAILOVERS_MAX)
        self._positions = self._positions_of()
        # The primary and its timeline, when it was lost, and whether that was planned.
        self._primary: tuple[str, int] | None = None
        self._lost_at: float | None = None
        self._is_planned = False
        # Those that have been the primary, and no replica since: where they are is on a line of their own.
        self._former: set[str] = set()
        self._is_at_risk = False
        self._late: set[str] = set()
        if before is not None:
            self._inherit(before)

    def words(self) -> dict[str, Any]:
        """What who goes on in this one's place is to know; of JSON's types. Times are of the monotonic clock."""
        return {
            "failovers": [astuple(row) for row in self.failovers],
            "primary": self._primary, "lost_at": self._lost_at, "is_planned": self._is_planned,
            "former": sorted(self._former), "is_at_risk": self._is_at_risk,
            "late": sorted(self._late), "points": self._positions.points, "forks": self.forks.words(),
        }  # fmt: skip

    def _inherit(self, words: Mapping[str, Any]) -> None:
        self.failovers.extend(FailoverRow(*row) for row in words["failovers"])
        if words["primary"] is not None:
            endpoint, timeline = words["primary"]
            self._primary = endpoint, timeline
        self._lost_at, self._is_planned = words["lost_at"], words["is_planned"]
        self._former, self._is_at_risk = set(words["former"]), words["is_at_risk"]
        # A release before this one knew of none, and a reload may have taken the limit away.
        self._late = set(words.get("late", ()) if self._topology.lag_s_max else ())
        self._positions = self._positions_of(tuple(map(tuple, words["points"])))
        self.forks.inherit(words["forks"])

    def look(self, nodes: Sequence[Node], index: int | None, asked_at: float) -> None:
        """Roles as they stand. index: who has just answered what it was asked at that moment."""
        primary = next((node for node in nodes if node[1] == "primary"), None)
        if primary is not None and primary[3] is not None:
            self._follow(primary[0], primary[3])
        elif self._primary is not None and self._lost_at is None:
            self._lost_at = time.monotonic()
            self._is_planned = any(node[0] == self._primary[0] and node[1] in _LEAVING for node in nodes)
        self._former.difference_update(node[0] for node in nodes if node[1] in ("replica", "lagging"))
        if index is not None and nodes[index] is primary and primary[4] is not None:
            self._positions.note(asked_at, primary[4])
        if self._lost_at is None:
            self._tell_risk(nodes)

    def exposed_s(self, node: Node) -> float | None:
        """How old what a replica has not replayed is at most; None: it is none, or nobody knows."""
        if node[1] not in ("replica", "lagging") or node[4] is None or self._lost_at is not None:
            return None
        return self._positions.exposed_s(node[4], time.monotonic())

    def is_late(self, endpoint: str) -> bool:
        """By what it said last."""
        return endpoint in self._late

    def heard(self, endpoint: str, *, is_in_recovery: bool, lsn: int, asked_at: float) -> bool:
        """It has said where it is, asked at that moment; whether it is late. Before roles are concluded from that."""
        limit_s = self._topology.lag_s_max
        if not limit_s or not is_in_recovery:
            self._late.discard(endpoint)
        elif self._primary is None or self._lost_at is not None:
            # While there is no primary, one that was late is not known to have caught up.
            pass
        elif self._positions.late_s(lsn, asked_at) > limit_s:
            self._late.add(endpoint)
        elif self._positions.covered(lsn) is not None:
            self._late.discard(endpoint)
        return endpoint in self._late

    def _follow(self, endpoint: str, timeline: int) -> None:
        before, self._primary = self._primary, (endpoint, timeline)
        if before == self._primary:
            self._lost_at = None
            return
        positions, self._positions = self._positions, self._positions_of()
        lost_at, self._lost_at = self._lost_at or time.monotonic(), None
        if before is not None:
            self._former.add(before[0])
        if before is not None and timeline > before[1]:
            self._note(before, endpoint, timeline, positions, lost_at)
        self._is_planned = False

    def _note(
        self, before: tuple[str, int], endpoint: str, timeline: int, positions: Positions, lost_at: float
    ) -> None:
        """The primary is another one: what that may have cost."""
        fork = self.forks.of(endpoint, timeline, before[1])
        loss = None if fork is None else loss_of(positions, fork, lost_at)
        # By who orders a switchover it is known that nothing is missing; unless somebody else has promoted meanwhile.
        is_planned = self._is_planned and (loss is None or not loss.fork.is_exact or not loss.missing_bytes)
        if is_planned:
            missing: tuple[int | None, float | None] = 0, 0.0
            because = "it was planned, and waited until the new primary had all"
        elif loss is None:
            missing, because = (None, None), "nothing was heard of the old primary"
            if fork is None:
                because = "it is not known where the new primary's timeline begins"
            event(logging.WARNING, "failover_loss_unknown", database=self._topology.database, old=before[0],
                  new=endpoint, because=because)  # fmt: skip
        else:
            missing, because = (loss.missing_bytes, loss.missing_s), loss.words
            missing_ms = None if loss.missing_s is None else round(loss.missing_s * 1000)
            event(logging.WARNING, "failover_loss", database=self._topology.database, old=before[0], new=endpoint,
                  because=loss.words, missing_ms_max=missing_ms, timelines=timeline - before[1],
                  missing_bytes=loss.missing_bytes if loss.fork.is_exact else None,
                  missing_bytes_max=None if loss.fork.is_exact else loss.missing_bytes)  # fmt: skip
        self.failovers.append(FailoverRow(self._topology.database, before[0], endpoint, timeline, is_planned,
                                          *missing, because, time.monotonic()))  # fmt: skip

    def _tell_risk(self, nodes: Sequence[Node]) -> None:
        target_s = self._topology.rpo_target_s
        if not target_s or self._primary is None:
            return
        replayed = [
            node[4] for node in nodes if node[1] in _CANDIDATES and node[4] is not None and node[0] not in self._former
        ]
        exposed_s = least_exposed(self._positions, replayed, time.monotonic())
        if exposed_s is None or (exposed_s > target_s) == self._is_at_risk:
            return
        self._is_at_risk = not self._is_at_risk
        if self._is_at_risk:
            event(logging.ERROR, "rpo_at_risk", database=self._topology.database, exposed_s=round(exposed_s, 1),
                  target_s=target_s, because="no replica has replayed what the primary wrote since",
                  hint="SHOW ENDPOINTS tells how far each is.")  # fmt: skip
        else:
            event(logging.INFO, "rpo_kept", database=self._topology.database, exposed_s=round(exposed_s, 1))

    def _positions_of(self, points: Sequence[tuple[float, float, int]] = ()) -> Positions:
        return Positions(SPANS * max(self._topology.rpo_target_s, self._topology.lag_s_max), points)
