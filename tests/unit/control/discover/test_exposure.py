"""What a failover may cost, by where the primary had written and when."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from forebay.config.resolved import ServerTls
from forebay.config.topology import Topology
from forebay.control.discover import risk
from forebay.control.discover.exposure import POSITIONS_MAX, Positions, least_exposed, loss_of
from forebay.control.discover.risk import Node, Risk

OLD, NEW, THIRD = "10.0.0.5:5432", "10.0.0.6:5432", "10.0.0.7:5432"
SHOP = Topology("poll", "shop", (OLD, NEW), "shop", "poll", None, ServerTls("disable", None, None, None),
                1.0, 1.0, 2, 0, is_followed=False, rpo_target_s=60)  # fmt: skip


def positions(*points: tuple[float, int], span_s: float = 60) -> Positions:
    found = Positions(span_s)
    for at, lsn in points:
        found.note(at, lsn)
    return found


def test_work_is_as_old_as_the_last_question_that_what_was_replayed_answers() -> None:
    """Else a replica that stands still would look as if it lost nothing."""
    found = positions((10, 100), (11, 200), (12, 200), (13, 300))
    assert found.last == (13, 300)
    assert [found.covered(lsn) for lsn in (99, 100, 199, 200, 299, 300)] == [None, 10, 10, 12, 12, 13]
    assert found.exposed_s(300, 13.5) == 0.5
    assert found.exposed_s(250, 20) == 8
    assert found.exposed_s(1, 20) == 10, "older than all that is known"
    assert positions().exposed_s(1, 20) is None
    assert least_exposed(found, [1, 250], 20) == 8
    assert least_exposed(found, [], 20) is None


def test_a_primary_that_writes_nothing_exposes_nobody_the_longer() -> None:
    """And one that lacks what it wrote before that, it does."""
    idle = positions(*((10 + at, 500) for at in range(100)))
    assert idle.exposed_s(500, 110) == 1
    assert idle.exposed_s(499, 110) == 100


def test_the_target_is_measured_however_often_it_is_asked() -> None:
    """A queue that is too short would call a day a minute; one without an end would fill the memory."""
    found = positions(*((at / 10, at) for at in range(100_000)), span_s=9000)
    assert found.last == (9999.9, 99_999)
    exposed_s = found.exposed_s(50_000, 10_000)
    assert exposed_s is not None
    assert 5000 <= exposed_s <= 5000 + 3 * 9000 * 4 / POSITIONS_MAX
    # An answer that comes late is of no use any more.
    found.note(3, 7)
    assert found.last == (9999.9, 99_999)


def test_a_loss_is_told_at_its_most() -> None:
    """What was acknowledged between the last question and the loss may be missing though nothing is seen to be."""
    before = positions((10, 100), (11, 200), (12, 300))
    assert loss_of(positions(), 300, 13) is None
    lost = loss_of(before, 250, 12.4)
    assert lost is not None
    assert (lost.missing_bytes, lost.missing_s) == (50, pytest.approx(1.4))
    assert lost.words == "at most 1.4 s of acknowledged work may be missing; 50 bytes that were seen written are"
    whole = loss_of(before, 300, 12.4)
    assert whole is not None
    assert (whole.missing_bytes, whole.missing_s) == (0, pytest.approx(0.4))
    assert whole.words == "at most 0.4 s of acknowledged work may be missing"
    beyond = loss_of(before, 1, 13)
    assert beyond is not None
    assert (beyond.missing_bytes, beyond.missing_s) == (299, None)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What the log was told of."""
    found: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(risk, "event", lambda _level, name, **fields: found.append((name, fields)))
    return found


def node(endpoint: str, role: str, timeline: int, lsn: int) -> Node:
    return (endpoint, role, "", timeline, lsn, None)


async def play(fork: int | None, planned: str = "down") -> None:
    """The primary is lost when it was at 300, and the replica takes over."""

    async def ask(endpoint: str, sql: str) -> int | None:
        assert (endpoint, sql) == (NEW, risk.FORK)
        return fork

    watch, now = Risk(SHOP, ask), time.monotonic()
    for at, lsn in ((-3, 100), (-2, 200), (-1, 300)):
        watch.look([node(OLD, "primary", 1, lsn), node(NEW, "replica", 1, lsn)], 0, now + at)
    watch.look([node(OLD, planned, 1, 300), node(NEW, "replica", 1, 300)], None, now)
    watch.look([node(OLD, "deposed", 1, 900), node(NEW, "primary", 2, 400)], 1, now)
    # The old one comes back, and its line leads elsewhere.
    watch.look([node(OLD, "down", 1, 900), node(NEW, "primary", 2, 400)], None, now)
    assert not [one for one in watch._telling if one.done()]
    await asyncio.sleep(0.01)


def test_a_failover_is_told_with_its_cost(told: list[tuple[str, dict[str, Any]]]) -> None:
    """Whoever must say what was lost would search the old primary's files for it."""
    asyncio.run(play(250))
    ((name, fields),) = told
    assert (name, fields["old"], fields["new"], fields["missing_bytes"]) == ("failover_loss", OLD, NEW, 50)
    assert 1990 < fields["missing_ms_max"] < 12_000
    told.clear()
    asyncio.run(play(None))
    assert [name for name, _ in told] == ["failover_loss_unknown"]
    told.clear()
    asyncio.run(play(250, planned="relieved"))
    assert told == [], "who orders a switchover waits until nothing is missing"


def test_too_much_that_only_the_primary_has_is_told_once(told: list[tuple[str, dict[str, Any]]]) -> None:
    """And that it is over."""

    async def ask(_endpoint: str, _sql: str) -> int | None:
        return None

    watch, now = Risk(SHOP, ask), time.monotonic()

    def at(age_s: float, lsn: int, replayed: int, role: str = "replica") -> None:
        watch.look([node(OLD, "primary", 1, lsn), node(NEW, role, 1, replayed)], 0, now - age_s)

    at(100, 100, 100)
    at(90, 200, 100)
    assert [name for name, _ in told] == ["rpo_at_risk"]
    at(80, 300, 150, "down")
    assert len(told) == 1
    at(1, 300, 300)
    assert [name for name, _ in told] == ["rpo_at_risk", "rpo_kept"]
    never = Risk(replace(SHOP, rpo_target_s=0), ask)
    never.look([node(OLD, "primary", 1, 300), node(NEW, "replica", 1, 1)], 0, now - 1000)
    assert len(told) == 2


def test_what_the_old_primary_has_hides_nothing(
    told: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is far by the numbers, and on a line of its own."""
    now = 0.0
    monkeypatch.setattr(risk, "time", SimpleNamespace(monotonic=lambda: now))

    async def ask(_endpoint: str, _sql: str) -> int | None:
        return None

    async def story() -> None:
        nonlocal now
        watch = Risk(SHOP, ask)
        watch.look([node(OLD, "primary", 1, 300), node(NEW, "replica", 1, 300), node(THIRD, "replica", 1, 300)], 0, now)
        rest = [node(OLD, "down", 1, 300), node(THIRD, "replica", 2, 250)]
        for now, lsn in ((10.0, 250), (11.0, 280), (100.0, 290)):
            watch.look([node(NEW, "primary", 2, lsn), *rest], 0, now)
        assert [name for name, _ in told if name.startswith("rpo")] == ["rpo_at_risk"]
        # As a replica it counts again.
        watch.look([node(NEW, "primary", 2, 290), node(OLD, "replica", 2, 290)], 0, now)
        assert [name for name, _ in told if name.startswith("rpo")] == ["rpo_at_risk", "rpo_kept"]

    asyncio.run(story())
