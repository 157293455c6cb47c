"""What one process tells the next of a cluster's endpoints."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from forebay._engine import Cluster
from forebay.control.discover import Discovery
from forebay.control.discover.poll import Poll

from tests.unit.control.discover.test_told import configured


def now_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


@pytest.mark.parametrize(("age_s", "role"), [(0.4, "primary"), (3600.0, "unknown")])
def test_what_was_just_heard_is_told_before_anybody_is_asked(
    monkeypatch: pytest.MonkeyPatch, age_s: float, role: str
) -> None:
    """Or all requests wait at each online restart; or writes go to who was the primary an hour ago."""
    told: list[tuple[str, list[str]]] = []

    async def asks_nobody(_poll: Poll, _index: int) -> None: ...

    def tell(database: str, cluster: Cluster) -> None:
        told.append((database, [node[1] for node in cluster.nodes()]))

    def legacy(config: Any) -> dict[str, Any]:
        cluster = Cluster(["a:5432"], 2, 0)
        cluster.heard(0, (False, 7, False, 100, 42), now_us() - round(age_s * 1e6))
        cluster.decide()
        (topology,) = config.topologies
        return {"app": {"kind": topology.kind, "memory": cluster.memory(), "account": None,
                        "endpoints": cluster.legacy()}}  # fmt: skip

    async def play() -> None:
        monkeypatch.setattr(Poll, "_watch", asks_nobody)
        # An age of an hour is one that a machine as busy as any does not come to, nor to so long a pause.
        config = configured("", "30s")
        successor = Discovery(tell, lambda: asyncio.sleep(0), {})
        successor.inherit(json.loads(json.dumps(legacy(config))))
        await successor.follow(config.topologies)
        assert told == [("app", [role])]
        rows = successor.rows()
        assert [(row.role, row.answered_s) for row in rows] == [(role, None)]
        await successor.close()

    asyncio.run(play())


def test_what_was_seen_to_write_is_told_also_of_a_system_that_is_not_the_clusters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or the next process undercuts who wrote last, where a stranger has taken that one's place."""

    async def asks_nobody(_poll: Poll, _index: int) -> None: ...

    async def play() -> None:
        monkeypatch.setattr(Poll, "_watch", asks_nobody)
        config = configured("", "30s")
        told: dict[str, Any] = {"app": {"kind": config.topologies[0].kind, "memory": [42, 1], "account": None,
                                        "written": [[42, 2], [8, 1]]}}  # fmt: skip
        clusters: list[Cluster] = []
        for _ in range(2):
            process = Discovery(lambda _database, cluster: clusters.append(cluster), lambda: asyncio.sleep(0), {})
            process.inherit(told)
            await process.follow(config.topologies)
            told = json.loads(json.dumps(process.legacy()))
            assert told["app"]["memory"] == [42, 2]
            assert sorted(told["app"]["written"]) == [[8, 1], [42, 2]]
            await process.close()
        clusters[-1].heard(0, (False, 1, False, 100, 42), now_us())
        clusters[-1].decide()
        assert [node[1] for node in clusters[-1].nodes()] == ["deposed"]

    asyncio.run(play())
