"""What a failover may cost, by where the primary had written and when."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from forebay.admin.backend import FailoverRow
from forebay.config.resolved import ServerTls
from forebay.config.topology import Topology
from forebay.control.discover import risk
from forebay.control.discover.exposure import POSITIONS_MAX, Fork, Forks, Positions, least_exposed, loss_of
from forebay.control.discover.poll import Poll
from forebay.control.discover.risk import FAILOVERS_MAX, Node, Risk

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
    assert loss_of(positions(), Fork(300, is_exact=True), 13) is None
    lost = loss_of(before, Fork(250, is_exact=True), 12.4)
    assert lost is not None
    assert (lost.missing_bytes, lost.missing_s) == (50, pytest.approx(1.4))
    assert lost.words == "at most 1.4 s of acknowledged work may be missing; 50 bytes that were seen written are"
    whole = loss_of(before, Fork(300, is_exact=True), 12.4)
    assert whole is not None
    assert (whole.missing_bytes, whole.missing_s) == (0, pytest.approx(0.4))
    assert whole.words == "at most 0.4 s of acknowledged work may be missing"
    beyond = loss_of(before, Fork(1, is_exact=True), 13)
    assert beyond is not None
    assert (beyond.missing_bytes, beyond.missing_s) == (299, None)


def test_a_bound_is_told_as_one_where_the_fork_is_not_known() -> None:
    """Bytes that may be missing are none that are."""
    before = positions((10, 100), (11, 200), (12, 300))
    may = "; it may be less: nobody saw how far the new primary was at its promotion"
    found = [loss_of(before, Fork(at, is_exact=False), 12.4) for at in (250, 300, 1)]
    assert [one.words if one else None for one in found] == [
        f"at most 1.4 s of acknowledged work may be missing; up to 50 bytes that were seen written are{may}",
        f"at most 0.4 s of acknowledged work may be missing{may}",
        "of how much time acknowledged work may be missing is not known; up to 299 bytes that were seen written are"
        + may,
    ]


def test_a_fork_is_believed_on_a_connection_on_which_the_server_was_a_replica() -> None:
    """After a crash a server tells how far it has replayed of its own work: nothing would seem to be missing."""
    forks = Forks()

    def heard(lsn: int, fork: int | None = None, *, was_replica: bool = True, timeline: int = 1) -> None:
        forks.heard(NEW, is_in_recovery=fork is None, timeline=timeline, lsn=lsn, fork=fork, was_replica=was_replica)

    assert forks.of(NEW, 2, 1) is None
    heard(200)
    heard(900, 250, timeline=2)
    assert forks.of(NEW, 2, 1) == Fork(250, is_exact=True)
    # It crashes now: what it tells from then on is no news.
    heard(1000, 950, timeline=2, was_replica=False)
    assert forks.of(NEW, 2, 1) == Fork(250, is_exact=True)
    # A replica again, and promoted while nobody looked.
    heard(1100, timeline=2)
    heard(2000, 1900, timeline=3, was_replica=False)
    assert forks.of(NEW, 3, 2) == Fork(1100, is_exact=False)
    assert forks.of(NEW, 3, 1) is None, "its positions are those of another line"
    assert forks.of(THIRD, 3, 2) is None
    forks.keep([THIRD])
    assert forks.of(NEW, 3, 2) is None


def test_a_server_that_tells_nothing_of_its_fork_is_where_it_was_seen() -> None:
    """It was restarted in order since: then PostgreSQL has replayed nothing."""
    forks = Forks()
    forks.heard(NEW, is_in_recovery=True, timeline=1, lsn=200, fork=None, was_replica=True)
    forks.heard(NEW, is_in_recovery=False, timeline=2, lsn=900, fork=None, was_replica=False)
    assert forks.of(NEW, 2, 1) == Fork(200, is_exact=False)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What the log was told of."""
    found: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(risk, "event", lambda _level, name, **fields: found.append((name, fields)))
    return found


def node(endpoint: str, role: str, timeline: int, lsn: int) -> Node:
    return (endpoint, role, "", timeline, lsn, None)


def play(
    fork: int | None,
    planned: str = "down",
    *,
    crashed: bool = False,
    succeeds: Callable[[Risk], Risk] = lambda one: one,
) -> FailoverRow:
    """The primary is lost when it was at 300, and the replica, seen at 200, takes over; fork: as that tells.

    succeeds: who goes on at each step. Returns what is remembered of it.
    """
    watch, now = Risk(SHOP), time.monotonic()

    def heard(is_in_recovery: bool, timeline: int, lsn: int) -> None:
        told = None if is_in_recovery else fork
        watch.forks.heard(
            NEW, is_in_recovery=is_in_recovery, timeline=timeline, lsn=lsn, fork=told, was_replica=not crashed
        )

    for at, lsn in ((-3, 100), (-2, 200), (-1, 300)):
        watch = succeeds(watch)
        watch.look([node(OLD, "primary", 1, lsn), node(NEW, "replica", 1, lsn)], 0, now + at)
    if fork is not None:
        heard(True, 1, 200)
    watch = succeeds(watch)
    watch.look([node(OLD, planned, 1, 300), node(NEW, "replica", 1, 300)], None, now)
    watch = succeeds(watch)
    heard(False, 2, 400)
    watch = succeeds(watch)
    watch.look([node(OLD, "deposed", 1, 900), node(NEW, "primary", 2, 400)], 1, now)
    # The old one comes back, and its line leads elsewhere.
    watch.look([node(OLD, "down", 1, 900), node(NEW, "primary", 2, 400)], None, now)
    (row,) = succeeds(watch).failovers
    assert (row.database, row.old, row.new, row.timeline) == ("shop", OLD, NEW, 2)
    return row


def test_a_failover_is_told_with_its_cost(told: list[tuple[str, dict[str, Any]]]) -> None:
    """Whoever must say what was lost would search the old primary's files for it."""
    row = play(250)
    ((name, fields),) = told
    assert (row.missing_bytes, round((row.missing_s or 0) * 1000), row.reason, row.is_planned) == (
        50, fields["missing_ms_max"], fields["because"], False,
    )  # fmt: skip
    assert (name, fields["old"], fields["new"], fields["missing_bytes"]) == ("failover_loss", OLD, NEW, 50)
    assert 1990 < fields["missing_ms_max"] < 12_000
    assert fields["missing_bytes_max"] is None
    told.clear()
    row = play(None)
    ((name, fields),) = told
    assert (row.missing_bytes, row.missing_s, row.reason) == (None, None, fields["because"])
    assert (name, fields["because"]) == (
        "failover_loss_unknown", "it is not known where the new primary's timeline begins",
    )  # fmt: skip
    told.clear()
    row = play(300, planned="relieved")
    assert told == [], "who orders a switchover waits until nothing is missing"
    assert (row.is_planned, row.missing_bytes, row.missing_s) == (True, 0, 0.0)


def test_a_switchover_that_somebody_else_has_overtaken_is_none(told: list[tuple[str, dict[str, Any]]]) -> None:
    """The old primary is held, crashes, and a replica that lacks some of it is promoted: that was no plan."""
    row = play(250, planned="held")
    assert (row.is_planned, row.missing_bytes) == (False, 50)
    assert [name for name, _ in told] == ["failover_loss"]


@pytest.mark.parametrize(("fork", "planned"), [(250, "down"), (None, "down"), (300, "relieved")])
def test_a_restart_in_the_middle_of_a_failover_changes_nothing_of_what_is_told(
    told: list[tuple[str, dict[str, Any]]], fork: int | None, planned: str
) -> None:
    """An online restart, or a reload that changes the database, would make the loss one that nobody knows."""
    alone, events = play(fork, planned), told.copy()
    told.clear()
    row = play(fork, planned, succeeds=lambda one: Risk(SHOP, json.loads(json.dumps(one.words()))))
    of = ("old", "new", "timeline", "is_planned", "missing_bytes", "reason")
    assert [getattr(row, name) for name in of] == [getattr(alone, name) for name in of]
    assert [name for name, _ in told] == [name for name, _ in events]


def test_no_more_changes_are_remembered_than_there_is_room_for() -> None:
    """A cluster that flaps for months would fill the memory."""
    watch = Risk(SHOP)
    for timeline in range(1, 30):
        watch.look([node((OLD, NEW)[timeline % 2], "primary", timeline, 300)], None, time.monotonic())
    assert [row.timeline for row in watch.failovers] == [*range(30 - FAILOVERS_MAX, 30)]


def test_a_new_primary_that_has_crashed_makes_no_loss_smaller(told: list[tuple[str, dict[str, Any]]]) -> None:
    """It has replayed up to 380, of which what lies behind 250 is its own: that must not look like the old one's."""
    play(380, crashed=True)
    ((name, fields),) = told
    assert (name, fields["missing_bytes"], fields["missing_bytes_max"]) == ("failover_loss", None, 100)
    assert 1990 < fields["missing_ms_max"] < 12_000
    assert "it may be less" in fields["because"]


def test_too_much_that_only_the_primary_has_is_told_once(told: list[tuple[str, dict[str, Any]]]) -> None:
    """And that it is over."""
    watch, now = Risk(SHOP), time.monotonic()

    def at(age_s: float, lsn: int, replayed: int, role: str = "replica") -> None:
        watch.look([node(OLD, "primary", 1, lsn), node(NEW, role, 1, replayed)], 0, now - age_s)

    at(100, 100, 100)
    at(90, 200, 100)
    assert [name for name, _ in told] == ["rpo_at_risk"]
    at(80, 300, 150, "down")
    assert len(told) == 1
    at(1, 300, 300)
    assert [name for name, _ in told] == ["rpo_at_risk", "rpo_kept"]
    never = Risk(replace(SHOP, rpo_target_s=0))
    never.look([node(OLD, "primary", 1, 300), node(NEW, "replica", 1, 1)], 0, now - 1000)
    assert len(told) == 2


def test_what_the_old_primary_has_hides_nothing(
    told: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is far by the numbers, and on a line of its own."""
    now = 0.0
    monkeypatch.setattr(risk, "time", SimpleNamespace(monotonic=lambda: now))

    async def story() -> None:
        nonlocal now
        watch = Risk(SHOP)
        watch.look([node(OLD, "primary", 1, 300), node(NEW, "replica", 1, 300), node(THIRD, "replica", 1, 300)], 0, now)
        rest = [node(OLD, "down", 1, 300), node(THIRD, "replica", 2, 250)]
        for now, lsn in ((10.0, 250), (11.0, 280), (100.0, 290)):
            watch.look([node(NEW, "primary", 2, lsn), *rest], 0, now)
        assert [name for name, _ in told if name.startswith("rpo")] == ["rpo_at_risk"]
        # As a replica it counts again.
        watch.look([node(NEW, "primary", 2, 290), node(OLD, "replica", 2, 290)], 0, now)
        assert [name for name, _ in told if name.startswith("rpo")] == ["rpo_at_risk", "rpo_kept"]

    asyncio.run(story())


def test_a_switchover_that_is_over_before_anybody_is_asked_again_was_planned() -> None:
    """It takes less time than passes between two questions; else it would be told as a loss."""
    poll = Poll(SHOP, lambda _database, _cluster: None)
    for index, is_replica in enumerate((False, True)):
        poll.cluster.heard(index, (is_replica, 1, False, 100, 7), 1)
    poll.cluster.decide()
    poll.risk.look(poll.cluster.nodes(), 0, 0)
    assert poll.hold(OLD, is_relieved=False)
    poll.cluster.heard(1, (False, 2, False, 120, 7), 2)
    poll.cluster.decide()
    poll.risk.look(poll.cluster.nodes(), 1, 1)
    assert [(row.old, row.new, row.is_planned) for row in poll.risk.failovers] == [(OLD, NEW, True)]
