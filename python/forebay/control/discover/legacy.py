"""What a process knows of a cluster's endpoints as words to the one that takes its place, and how long that holds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from forebay.config.topology import Topology

if TYPE_CHECKING:
    from forebay._engine import _ClusterLegacy


def taken_over(words: Sequence[Any]) -> _ClusterLegacy:
    """`Cluster.legacy`, after it was words of JSON's."""
    system, beginning, endpoints = words
    return (
        system,
        None if beginning is None else tuple(beginning),
        [(name, None if said is None else tuple(said), *rest) for name, said, *rest in endpoints],
    )


def since_us(topology: Topology) -> int:
    """What was asked before then is older than what any process knows of an endpoint that answers."""
    now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return max(0, now_us - round((topology.interval_s + topology.timeout_s) * 1e6))
