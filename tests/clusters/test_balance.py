"""Reads are shared among replicas: one that has become slow, or fails, is left, and comes back."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.clusters.test_roles import clustered, endpoints
from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.readers import Readers, nap
from tests.harness.standby import caught_up

pytestmark = pytest.mark.variants("uring-2", "epoll-1")


def test_a_replica_that_becomes_slow_loses_its_part_and_gets_it_back(
    server: Postgres, standbys: Sequence[Postgres], variant: Variant, start: Start
) -> None:
    """With the settings that nobody has touched. Shares alone would leave the clients with its slow answers."""
    caught_up(server, standbys[0])
    slow, *others = standbys
    for one in standbys:
        nap(one, 0.02)
    # It is another limit than the pool's own by which there are no more: servers must move to get there.
    reads = clustered(server, *standbys, role="replica", pool_size=20, max_db_connections=12)
    forebay = start(configuration(server, variant, databases={"app": reads}))
    endpoints(forebay, "app", 4)
    port = str(slow.port)
    address = f"127.0.0.1:{port}"
    shown = lambda: endpoints(forebay, "app", 4)[address]  # noqa: E731
    try:
        with Readers(forebay.target) as readers:
            begun = lambda: len(readers.answers) > 300  # noqa: E731
            until(begun, within_s=20, what="it is known how they do")
            even = lambda: all(0.2 < readers.shares(2).get(str(one.port), 0) < 0.47 for one in standbys)  # noqa: E731
            until(even, within_s=10, what="all of them have their part")
            assert shown()["ejected"] is None
            assert 15_000 < int(shown()["latency_us"] or 0) < 60_000
            nap(slow, 0.2)
            slowed = time.monotonic()
            until(lambda: time.monotonic() > slowed + 2, within_s=5, what="it has had two seconds")
            fallen = time.monotonic()
            # What is left to it are its trials, of which few requests here make a larger part than many elsewhere.
            until(lambda: time.monotonic() > fallen + 3, within_s=5, what="it has been so for a while")
            assert readers.shares(3).get(port, 0) <= 0.05
            assert "times as slowly as the others" in str(shown()["ejected"])
            assert forebay.events("endpoint_ejected")[0]["endpoint"] == address
            nap(slow, 0.02)
            until(lambda: readers.shares(2).get(port, 0) > 0.25, within_s=20, what="it has its part again")
            assert forebay.events("endpoint_readmitted")
            assert shown()["ejected"] is None
            # Where all are as slow, none is at fault.
            for one in standbys:
                nap(one, 0.2)
            ejected = len(forebay.events("endpoint_ejected"))
            all_slow = time.monotonic()
            until(lambda: time.monotonic() > all_slow + 2, within_s=5, what="all have been slow for a while")
            assert len(forebay.events("endpoint_ejected")) == ejected
            for one in standbys:
                nap(one, 0.02)
            assert not readers.errors
        used = Counter(row["port"] for row in forebay.console("show servers") if row["state"] in ("active", "idle"))
        assert all(used[str(one.port)] >= 2 for one in others)
    finally:
        for one in standbys:
            nap(one, 0)


# Takes long at one server alone, and what all take at the others.
REPORT = """select current_setting('port') = '{0}',
    pg_sleep(case current_setting('port') when '{0}' then 4 else current_setting('nap.s')::float end)"""


def test_long_reports_do_not_eject_the_replica_that_they_are_asked_of(
    server: Postgres, standbys: Sequence[Postgres], variant: Variant, start: Start
) -> None:
    """It answers everybody else: those would lose a third of what serves them, for nothing."""
    caught_up(server, standbys[0])
    port = str(standbys[0].port)
    reads = clustered(server, *standbys, role="replica", pool_size=15)
    forebay = start(configuration(server, variant, databases={"app": reads}))
    endpoints(forebay, "app", 4)
    reported: list[bool] = []

    def report() -> None:
        with forebay.target.wire() as wire:
            while wire.value(REPORT.format(port)) != "t":
                pass
            reported.append(True)

    for one in standbys:
        nap(one, 0.01)
    try:
        with Readers(forebay.target) as readers:
            until(lambda: len(readers.answers) > 300, within_s=20, what="it is known how they do")
            threads = [threading.Thread(target=report) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(reported) == len(threads)
            # How it did while reports took its servers is forgotten by and by.
            until(lambda: readers.shares(2).get(port, 0) > 0.04, within_s=20, what="it has its part")
            assert not readers.errors
        assert not forebay.events("endpoint_ejected")
    finally:
        for one in standbys:
            nap(one, 0)
