"""Pools that share a limit: nobody starves beside a pool that always has somebody waiting (PgBouncer's #131)."""

from __future__ import annotations

import threading
import time

import pytest

from tests.conftest import Start
from tests.harness.pooler import Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.target import Target

BUSY = 12
TURNS = 6


def wait_of(target: Target, stop: threading.Event, longest: list[float], faults: list[str]) -> None:
    """A client that asks again at once; the longest that an answer took."""
    try:
        with target.wire() as wire:
            while not stop.is_set():
                began = time.monotonic()
                wire.value("select pg_sleep(0.004)")
                longest.append(time.monotonic() - began)
    except Exception as error:
        faults.append(repr(error))


@pytest.mark.variants("uring-2", "epoll-2", "epoll-1")
@pytest.mark.parametrize("limit", ["database", "user"])
def test_a_place_goes_to_the_pool_that_waits_longest(
    limit: str, start: Start, server: Postgres, variant: Variant
) -> None:
    """A busy pool has all the servers, and always a waiter for one that comes free: the others get their turn."""
    # Two places, for the pools of three users of one database, or of one user in three databases.
    if limit == "database":
        sections = configuration(server, variant, databases={"app": {"pool_size": 4, "max_db_connections": 2}})
        places = [("app", user) for user in ("app", "other", "gone")]
    else:
        databases = {name: {"pool_size": 4, "dbname": "app"} for name in ("a", "b", "c")}
        sections = configuration(server, variant, databases=databases, **{"users.app": {"max_user_connections": 2}})
        places = [(name, "app") for name in databases]
    target = start(sections).target
    busy, *others = [target.at(dbname=dbname, user=user) for dbname, user in places]
    stop, faults = threading.Event(), list[str]()
    waits: list[list[float]] = [[] for _ in range(BUSY)]
    threads = [threading.Thread(target=wait_of, args=(busy, stop, mine, faults)) for mine in waits]
    for thread in threads:
        thread.start()
    try:
        for _ in range(TURNS):
            for other in others:
                began = time.monotonic()
                with other.wire() as wire:
                    assert wire.value("select 'served'") == "served"
                assert time.monotonic() - began < 2, "it starves"
        before = [len(mine) for mine in waits]
        time.sleep(0.3)  # what is measured is what the busy pool gets in a while
        assert sum(map(len, waits)) > sum(before), "the busy pool starves"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert faults == []
    assert max(max(mine) for mine in waits) < 2
