"""Counters and averages of SHOW STATS."""

from __future__ import annotations

import json

from forebay.observe.stats import Averages, Totals, by_database, decode


def pool(database: str, user: str, **counts: int) -> dict[str, object]:
    names = (
        "assignments transactions requests received_bytes sent_bytes transaction_us request_us wait_us client_parses"
        " server_parses binds logins"
    )
    return {"database": database, "user": user, **dict.fromkeys(names.split(), 0), **counts}


def test_pools_of_one_database_are_one_row() -> None:
    """PgBouncer's rows are by database; two users would otherwise show as two databases."""
    text = json.dumps([pool("shop", "a", requests=2), pool("blog", "a", requests=5), pool("shop", "b", requests=3)])
    sums = by_database(decode(text))
    assert {name: totals.query_count for name, totals in sums.items()} == {"blog": 5, "shop": 5}


def test_averages_are_those_of_the_last_whole_period() -> None:
    """Counts are a second, transaction and query times are one each."""
    averages = Averages(started_s=0.0)
    averages.sample({"shop": Totals(xact_count=100)}, now_s=60.0)
    averages.sample({"shop": Totals(xact_count=700, xact_time=6_000_000, wait_time=120, received=60)}, now_s=120.0)
    now = {"shop": Totals(xact_count=9_999)}
    mean = averages.of(now, now_s=121.0)["shop"]
    assert (mean.xact_count, mean.xact_time, mean.wait_time, mean.received) == (10, 10_000, 2, 1)


def test_before_the_first_period_ends_averages_are_since_the_start() -> None:
    """A fresh start would otherwise show zeros for a minute."""
    mean = Averages(started_s=0.0).of({"shop": Totals(query_count=50)}, now_s=10.0)["shop"]
    assert mean.query_count == 5


def test_nothing_happened_is_zero_and_no_division_by_it() -> None:
    """An idle night."""
    averages = Averages(started_s=0.0)
    totals = {"shop": Totals(xact_count=3, xact_time=9)}
    averages.sample(totals, now_s=60.0)
    averages.sample(totals, now_s=120.0)
    assert averages.of(totals, now_s=130.0)["shop"] == Totals()
