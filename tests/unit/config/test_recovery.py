"""How long a failover takes: each sum worked out by hand from the settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
from forebay.config.recovery import LeaseTimes, Recovery, recovery, rendered
from forebay.config.resolved import ServerTls
from forebay.config.topology import Topology, TopologySource

# As forebay has them by default.
SHOP = Topology("poll", "shop", ("10.0.0.5:5432", "10.0.0.6:5432"), "shop", "poll", None,
                ServerTls("disable", None, None, None), 0.5, 1.0, 2, 0, is_followed=False)  # fmt: skip
PATRONI = replace(SHOP, kind="patroni", source=TopologySource("patroni://10.0.0.5:8008", None, None))


def added_up(topology: Topology, times: LeaseTimes | None = None, *, is_watched: bool = False) -> Recovery:
    return recovery(topology, pool_size=20, opening_max=4, wait_s=30.0, hurry_s=0.1, is_watched=is_watched, times=times)


def seconds(found: Recovery) -> dict[str, tuple[float, float]]:
    parts = {part.name: (round(part.worst_s, 4), round(part.mean_s, 4)) for part in found.parts}
    return {**parts, "in all": (round(found.worst_s, 4), round(found.mean_s, 4))}


def test_without_anybody_who_promotes_it_is_what_forebay_adds() -> None:
    """0.5 + 2 x 1 + 0.1 until it is down; 0.1 + 0.005 until the next is found; 5 turns of 30 or 10 ms."""
    assert seconds(added_up(SHOP)) == {
        "noticed": (2.6, 2.35), "found": (0.105, 0.055), "opened": (0.15, 0.05), "in all": (2.855, 2.455),
    }  # fmt: skip


def test_the_lease_of_patroni_is_the_longer_part_and_not_added_to_what_forebay_notices() -> None:
    found = seconds(added_up(PATRONI, LeaseTimes(30, 10)))
    assert found["promoted"] == (40, 30)
    assert found["found"] == (0.505, 0.255), "the source is asked every poll_interval"
    assert found["in all"] == (40.655, 30.305)
    assert seconds(added_up(PATRONI, LeaseTimes(20, 5)))["in all"] == (25.655, 20.305)


def test_a_source_that_is_watched_tells_sooner() -> None:
    etcd = replace(PATRONI, kind="etcd")
    assert seconds(added_up(etcd, LeaseTimes(30, 10), is_watched=True))["found"] == (0.105, 0.055)


def test_one_that_is_asked_more_often_than_in_a_hurry_is_asked_as_often() -> None:
    quick = seconds(added_up(replace(SHOP, interval_s=0.05, misses_max=3)))
    assert quick["noticed"] == (0.05 + 3 + 2 * 0.05, 0.025 + 3 + 2 * 0.05)
    assert quick["found"] == (0.055, 0.03)


@pytest.mark.parametrize(("wait_s", "is_too_long"), [(40.0, True), (41.0, False), (0.0, False)])
def test_it_is_told_where_requests_do_not_wait_so_long(wait_s: float, is_too_long: bool) -> None:
    """They would fail though all goes as it should."""
    found = replace(added_up(PATRONI, LeaseTimes(30, 10)), wait_s=wait_s)
    assert found.is_too_long is is_too_long
    assert ("longer than query_wait_timeout" in rendered([found])) is is_too_long


def test_each_sum_is_told_with_what_it_is_of() -> None:
    unknown = replace(added_up(PATRONI), unknown="Patroni gave no answer")
    lines = rendered([added_up(SHOP), unknown]).splitlines()
    assert lines[0] == "shop: if its primary is lost for good, writes wait (at worst, on average)"
    assert lines[1].split()[:5] == ["noticed", "2.60", "s", "2.35", "s"]
    assert "poll_interval 500ms + poll_misses 2 x poll_timeout 1s + 1 x 100ms" in lines[1]
    assert "pool_size 20 in 5 turns of server_opening_max 4" in lines[3]
    assert lines[4].split()[:2] == ["in", "all"]
    assert lines[-1].endswith("could not be asked how long that takes: Patroni gave no answer")
