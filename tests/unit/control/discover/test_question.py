"""What follows from what Aurora's members say of themselves, which is whether they are in recovery."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from forebay._engine import Cluster
from forebay.config.resolved import ServerTls
from forebay.config.topology import Topology, TopologySource
from forebay.control.discover.poll import Poll
from forebay.control.discover.question import Seen, SeenOfAurora, are_placed
from forebay.control.fleet.agreement import Record

SOURCE = "aurora://shop.cluster-abc123.eu-west-1.rds.amazonaws.com"
ONE, OTHER = "a:5432", "b:5432"
SHOP = Topology("aurora", "shop", (ONE, OTHER), "shop", "poll", None, ServerTls("disable", None, None, None),
                1.0, 1.0, 2, 0, is_followed=True, rpo_target_s=60,
                source=TopologySource(SOURCE, None, None))  # fmt: skip


def heard(cluster: Cluster, *writers: bool) -> list[str]:
    """Roles after each endpoint has said whether it can write."""
    for index, can_write in enumerate(writers):
        cluster.heard(index, SeenOfAurora((not can_write,), SOURCE).said, 1)
    cluster.decide()
    return [node[1] for node in cluster.nodes()]


def test_the_writer_may_change_back_and_forth() -> None:
    """There are no timelines by which one that was the writer before could be taken for deposed."""
    cluster = Cluster([ONE, OTHER], 2, 0)
    assert heard(cluster, True, False) == ["primary", "replica"]
    assert heard(cluster, False, True) == ["replica", "primary"]
    assert heard(cluster, True, False) == ["primary", "replica"]
    cluster.missed(0)
    cluster.missed(0)
    cluster.heard(1, SeenOfAurora((False,), SOURCE).said, 1)
    cluster.decide()
    assert [node[1] for node in cluster.nodes()] == ["down", "primary"]
    assert not are_placed(cluster.nodes())


def test_two_that_can_write_get_nothing() -> None:
    """Which of them is right, nobody can say."""
    assert heard(Cluster([ONE, OTHER], 2, 0), True, True) == ["contested", "contested"]


def test_servers_of_postgresql_have_positions() -> None:
    """One that has replayed nothing yet as well: what timelines say of it must hold."""
    cluster = Cluster([ONE, OTHER], 2, 0)
    assert are_placed(cluster.nodes())
    cluster.heard(0, Seen((False, 1, 500, 7, None, None)).said, 1)
    cluster.heard(1, Seen((True, 1, 0, 7, None, None)).said, 1)
    cluster.decide()
    assert [node[1] for node in cluster.nodes()] == ["primary", "replica"]
    assert are_placed(cluster.nodes())


class Gate:
    """A fleet that has agreed on nobody."""

    def __init__(self) -> None:
        self.claims: list[Record | None] = []

    def admitted(self, system: int) -> list[str] | None:
        return []

    def floor(self, system: int) -> int:
        return 9

    def claim(self, database: str, system: int, record: Record | None) -> None:
        self.claims.append(record)


@pytest.mark.parametrize("is_source_first", [False, True])
def test_a_fleet_and_a_switchover_have_no_say_where_there_are_no_timelines(
    *, is_source_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fleet would never let the second writer in, and a switchover would hold the first one for ever."""
    answers = {ONE: False, OTHER: True}

    async def ask(probe: object, timeout_s: float) -> Seen:
        return SeenOfAurora((answers[order.pop(0)],), SOURCE)

    monkeypatch.setattr("forebay.control.discover.poll._Probe.ask", ask)
    order = [ONE, OTHER] * 2

    async def story() -> None:
        gate = Gate()
        poll = Poll(replace(SHOP), lambda _database, _cluster: None, gate=gate)
        if is_source_first:
            poll.name([ONE])
        for index in (0, 1):
            await poll._look(index)
        assert [(row.role, row.timeline, row.lsn, row.lag) for row in poll.rows()] == [
            ("primary", None, None, None), ("replica", None, None, None),
        ]  # fmt: skip
        assert not poll.hold(ONE, is_relieved=False)
        assert gate.claims == []
        # What another process goes on with says the same.
        after = Poll(SHOP, lambda _database, _cluster: None, before=poll.cluster, gate=gate)
        after.reconsider()
        assert [row.role for row in after.rows()] == ["primary", "replica"]
        assert gate.claims == []

    asyncio.run(story())
