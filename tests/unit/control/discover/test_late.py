"""Which replicas are late by `replica_lag_time_max`."""

from __future__ import annotations

import json
from dataclasses import replace

from forebay.config.resolved import ServerTls
from forebay.config.topology import Topology
from forebay.control.discover.exposure import POSITIONS_MAX, Positions
from forebay.control.discover.poll import Poll
from forebay.control.discover.risk import Risk

ONE, TWO = "10.0.0.5:5432", "10.0.0.6:5432"
# No rpo_target: what is kept is kept for this alone.
SHOP = Topology("poll", "shop", (ONE, TWO), "shop", "poll", None, ServerTls("disable", None, None, None),
                1.0, 1.0, 2, 0, is_followed=False, rpo_target_s=0, lag_s_max=10)  # fmt: skip


def writes(watch: Risk, at: float, lsn: int, *, endpoint: str = ONE, timeline: int = 1) -> None:
    """It is the primary, and was that far when it was asked."""
    watch.look([(endpoint, "primary", "", timeline, lsn, None)], 0, at)


def is_lost(watch: Risk) -> None:
    watch.look([(ONE, "down", "", 1, 300, None)], None, 0)


def replays(watch: Risk, at: float, lsn: int) -> bool:
    """A replica was that far when it was asked; whether it is late."""
    is_late = watch.heard(TWO, is_in_recovery=True, lsn=lsn, asked_at=at)
    assert watch.is_late(TWO) == is_late
    return is_late


def test_what_is_not_replayed_is_no_younger_than_the_first_answer_that_had_it() -> None:
    """The last that was the same would make a replica that stands still as young as the last question."""
    found = Positions(60)
    for at, lsn in ((10, 100), (11, 200), (12, 200), (13, 300)):
        found.note(at, lsn)
    assert [found.late_s(lsn, 15) for lsn in (99, 100, 199, 200, 299, 300, 400)] == [5, 4, 4, 2, 2, 0, 0]
    assert found.late_s(299, 12.5) == 0, "it was asked before that was known"
    assert Positions(60).late_s(1, 20) == 0, "nothing is known"


def test_a_replica_is_late_until_it_has_what_is_older_than_the_limit() -> None:
    """Who reads there sees what is older than anybody allowed."""
    watch = Risk(SHOP)
    assert not replays(watch, 99, 90), "there is no primary yet"
    writes(watch, 100, 100)
    writes(watch, 101, 200)
    assert not replays(watch, 111, 100)
    assert replays(watch, 111.1, 100)
    assert replays(watch, 112, 150)
    assert not replays(watch, 112, 200)
    assert not Risk(replace(SHOP, lag_s_max=0)).heard(TWO, is_in_recovery=True, lsn=0, asked_at=1e6)


def test_a_replica_that_has_all_is_never_late() -> None:
    """At night nobody writes, and in the morning nobody could read."""
    watch = Risk(SHOP)
    for at in range(0, 100_000, 100):
        writes(watch, at, 100)
        assert not replays(watch, at + 99, 100)
    writes(watch, 100_000, 200)
    assert not replays(watch, 100_001, 100), "what it lacks is a second old"
    assert not replays(watch, 100_010, 100)
    assert replays(watch, 100_011, 100)


def test_a_primary_that_writes_without_end_makes_nobody_late_who_keeps_up() -> None:
    """Positions that are kept far apart would."""
    watch = Risk(SHOP)
    for step in range(20 * POSITIONS_MAX):
        at = step / 10
        writes(watch, at, step)
        assert not replays(watch, at + 0.05, max(0, step - 90)), "nine seconds behind"
    last = 20 * POSITIONS_MAX - 1
    assert replays(watch, last / 10, last - 110), "eleven seconds"


def test_positions_are_kept_for_as_long_as_a_replica_may_be_late() -> None:
    """A limit of an hour would never be reached."""
    watch = Risk(replace(SHOP, lag_s_max=3600))
    for at in range(8000):
        writes(watch, at, at)
    assert not replays(watch, 8000, 8000 - 3500)
    assert replays(watch, 8000, 8000 - 3700)


def test_who_was_late_is_so_until_it_is_known_not_to_be() -> None:
    """A new primary's past is not known: what a replica lacks of it looks young."""
    watch = Risk(SHOP)
    writes(watch, 100, 100)
    writes(watch, 101, 300)
    assert replays(watch, 120, 150)
    is_lost(watch)
    assert replays(watch, 121, 160), "there is no primary"
    writes(watch, 122, 310, endpoint="10.0.0.7:5432", timeline=2)
    assert replays(watch, 123, 200)
    assert replays(watch, 124, 309)
    assert not replays(watch, 125, 310)


def test_who_is_late_is_known_to_the_next_process_and_after_a_reload() -> None:
    """Else it serves for as long as the limit after each."""
    watch = Risk(SHOP)
    writes(watch, 100, 100)
    writes(watch, 101, 300)
    assert replays(watch, 120, 150)
    words = json.loads(json.dumps(watch.words()))
    heir = Risk(SHOP, words)
    assert heir.is_late(TWO)
    assert replays(heir, 120.5, 200)
    assert not replays(heir, 121, 300)
    assert not Risk(replace(SHOP, lag_s_max=0), words).is_late(TWO)
    del words["late"]
    before = Risk(SHOP, words)
    assert not before.is_late(TWO), "a release that did not know of it"
    assert replays(before, 120.5, 200)


def test_a_replica_that_can_write_is_late_for_nobody() -> None:
    """It was promoted."""
    watch = Risk(SHOP)
    writes(watch, 100, 100)
    assert replays(watch, 120, 50)
    assert not watch.heard(TWO, is_in_recovery=False, lsn=60, asked_at=121)


def test_whoever_takes_over_begins_with_who_is_late() -> None:
    """Roles are told before anybody is asked anew."""
    watch = Risk(SHOP)
    writes(watch, 100, 100)
    assert replays(watch, 120, 50)
    before = Poll(SHOP, lambda _database, _cluster: None).cluster
    for index, is_replica in enumerate((False, True)):
        before.heard(index, (is_replica, 1, False, 100, 7), 1)
    before.decide()
    poll = Poll(SHOP, lambda _database, _cluster: None, before, watch)
    poll.reconsider()
    assert [row.role for row in poll.rows()] == ["primary", "lagging"]
    assert "replica_lag_time_max" in poll.rows()[1].reason
