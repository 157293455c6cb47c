"""How long a database's writes wait where its primary is lost for good: the arithmetic of the settings, no measurement.

| part | worst | mean |
|---|---|---|
| noticed: the primary falls silent | a pause, and the answers that it may miss | half a pause, and the same |
| promoted: by Patroni | the lease, just renewed, and a round of the others | the lease: it is half a round old |
| found: the next one is asked, and whoever tells of it | a pause | half a pause |
| opened: connections to it, so many at once | each turn takes long | each turn is short |

Patroni notices by itself, so that only the longer of the first two counts. What a promotion takes at the server, and
whoever promotes where nobody is known to, come on top.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from forebay.config.measures import duration_text
from forebay.config.topology import Topology

# What is assumed of a network and a server that are near: an answer, and a connection with its login.
ANSWER_S: Final = 0.005
OPEN_S_MAX, OPEN_S_MEAN = 0.030, 0.010
# How soon a change is told by a source that is watched.
WATCHED_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Of whoever promotes: how long the primary's lease lasts, and how often it is renewed and looked at. Seconds."""

    lease_s: float
    round_s: float


@dataclass(frozen=True, slots=True)
class Part:
    """Seconds, and of what they are the sum."""

    name: str
    worst_s: float
    mean_s: float
    because: str


@dataclass(frozen=True, slots=True)
class Recovery:
    """Of one database. wait_s: how long requests wait at most; 0: for ever. unknown: why a part is missing."""

    database: str
    parts: tuple[Part, ...]
    worst_s: float
    mean_s: float
    wait_s: float
    unknown: str | None

    @property
    def is_too_long(self) -> bool:
        """Whether requests that wait fail before it is over, at worst."""
        return 0 < self.wait_s < self.worst_s


def recovery(
    topology: Topology,
    *,
    pool_size: int,
    opening_max: int,
    wait_s: float,
    hurry_s: float,
    is_watched: bool = False,
    times: LeaseTimes | None = None,
    unknown: str | None = None,
) -> Recovery:
    """Adds it up. opening_max: servers that a pool opens at once; hurry_s: between probes while a primary is missing.

    is_watched: the source tells of changes by itself. times: of whoever promotes, if that is known; unknown: why not.
    """
    hurry_s = min(hurry_s, topology.interval_s)
    noticed = _noticed(topology, hurry_s)
    promoted = [] if times is None else [_promoted(times)]
    after = [_found(topology, hurry_s, is_watched=is_watched), _opened(pool_size, opening_max)]
    begun = [noticed, *promoted]
    return Recovery(
        topology.database,
        (*begun, *after),
        max(part.worst_s for part in begun) + sum(part.worst_s for part in after),
        max(part.mean_s for part in begun) + sum(part.mean_s for part in after),
        wait_s,
        unknown,
    )


def _noticed(topology: Topology, hurry_s: float) -> Part:
    misses = topology.misses_max
    missed_s = misses * topology.timeout_s + (misses - 1) * hurry_s
    again = f" + {misses - 1} x {_text(hurry_s)} between them" if misses > 1 else ""
    because = (
        f"poll_interval {_text(topology.interval_s)} + poll_misses {misses} x poll_timeout {_text(topology.timeout_s)}"
        f"{again}, if it falls silent; at once, if connections to it are lost"
    )
    return Part("noticed", topology.interval_s + missed_s, topology.interval_s / 2 + missed_s, because)


def _promoted(times: LeaseTimes) -> Part:
    because = f"Patroni's ttl {_text(times.lease_s)} + loop_wait {_text(times.round_s)}, and what a promotion takes"
    return Part("promoted", times.lease_s + times.round_s, times.lease_s, because)


def _found(topology: Topology, hurry_s: float, *, is_watched: bool) -> Part:
    if topology.source is None:
        pause_s, because = hurry_s, f"asked every {_text(hurry_s)} while there is no primary"
    elif is_watched:
        pause_s = max(hurry_s, WATCHED_S)
        because = f"{topology.kind} tells at once, endpoints are asked every {_text(hurry_s)}"
    else:
        pause_s = max(hurry_s, topology.interval_s)
        because = f"{topology.kind} is asked every poll_interval {_text(topology.interval_s)}"
    return Part("found", pause_s + ANSWER_S, pause_s / 2 + ANSWER_S, f"{because}; answered in {_text(ANSWER_S)}")


def _opened(pool_size: int, opening_max: int) -> Part:
    turns = max(1, math.ceil(pool_size / opening_max))
    because = (
        f"pool_size {pool_size} in {turns} turns of server_opening_max {opening_max},"
        f" each {_text(OPEN_S_MEAN)} to {_text(OPEN_S_MAX)}"
    )
    return Part("opened", turns * OPEN_S_MAX, turns * OPEN_S_MEAN, because)


def _text(seconds: float) -> str:
    return duration_text(round(seconds * 1_000_000))


def rendered(recoveries: Sequence[Recovery]) -> str:
    """For people, a line for each part."""
    lines = []
    for one in recoveries:
        lines.append(f"{one.database}: if its primary is lost for good, writes wait (at worst, on average)")
        for part in one.parts:
            lines.append(f"  {part.name:<9}{part.worst_s:>8.2f} s {part.mean_s:>8.2f} s  {part.because}")
        is_managed = any(part.name == "promoted" for part in one.parts)
        rest = "the longer of noticed and promoted, found, opened" if is_managed else "and until somebody promotes"
        lines.append(f"  {'in all':<9}{one.worst_s:>8.2f} s {one.mean_s:>8.2f} s  {rest}")
        if one.unknown is not None:
            lines.append(f"  who promotes could not be asked how long that takes: {one.unknown}")
        if one.is_too_long:
            lines.append(f"  longer than query_wait_timeout {_text(one.wait_s)}: requests may fail before that (FB415)")
    return "".join(f"{line}\n" for line in lines)
