"""Endpoints that fail requests, flap, or are full: what their clients see of that, and for how long they are left."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence

import psycopg
import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.readers import Readers, nap, tell
from tests.harness.standby import caught_up
from tests.harness.toxi import Toxi

pytestmark = [pytest.mark.variants("uring-2", "epoll-1"), pytest.mark.timeout(300)]

PATIENCE_S = 40.0
# Without an ejection there are thousands. As a rule those of one look fail; on a busy machine it comes late.
FAILED_MAX = 400
# On a busy machine one may be slower than the others by itself.
FAULTS_ALONE = {"pool_size": 24, "eject_slower_than": 0}
# Fails for its disk as often as the server is told to, and tells which one answers. The client reads the setting: one
# that a function reads is taken for the client's own where the function is called before forebay knows it.
AILING = "select current_setting('port'), ail(current_setting('ill.part', true)), pg_sleep(0.005)"
AIL = """create or replace function ail(part text) returns int language plpgsql as $$begin
  if random() < coalesce(nullif(part, ''), '0')::float then
    raise exception using errcode = '58030', message = 'could not read block';
  end if;
  return 1;
end$$"""


@pytest.fixture
def ailing(server: Postgres, standbys: Sequence[Postgres]) -> Iterator[Sequence[Postgres]]:
    """Replicas that can be told to fail; they are well afterwards."""
    with server.target.at(user="postgres", dbname="app").connect(autocommit=True) as admin:
        admin.execute(AIL.encode())
    for one in standbys:
        caught_up(server, one)
        nap(one, 0.005)
    yield standbys
    for one in standbys:
        tell(one, "ill.part", "0")
        nap(one, 0)


def shown(forebay: Forebay, endpoint: str) -> dict[str, str | None]:
    """The endpoint's row of SHOW ENDPOINTS."""
    return next((row for row in forebay.console("show endpoints") if row["endpoint"] == endpoint), {})


def test_a_replica_that_fails_requests_is_left_until_it_does_not(
    server: Postgres, ailing: Sequence[Postgres], variant: Variant, start: Start
) -> None:
    """One whose disk fails answers at once: by speed alone it would get more and more of the requests."""
    ill = ailing[0]
    places, port = [f"127.0.0.1:{one.port}" for one in ailing], str(ill.port)
    forebay = start(configuration(server, variant, databases={"app": {"endpoints": places, **FAULTS_ALONE}}))
    with Readers(forebay.target, sql=AILING, may_fail=True) as readers:
        begun = lambda: len(readers.answers) > 300 and readers.shares(2).get(port, 0) > 0.2  # noqa: E731
        until(begun, within_s=PATIENCE_S, what="all of them serve")
        assert not readers.failed()
        tell(ill, "ill.part", "1")
        out = lambda: "has failed" in str(shown(forebay, places[0]).get("ejected"))  # noqa: E731
        until(out, within_s=PATIENCE_S, what="it is ejected")
        ejected, failed = time.monotonic(), len(readers.failed())
        until(lambda: len(readers.since(ejected)) > 1000, within_s=PATIENCE_S, what="the others serve")
        # What it still fails are its trials.
        assert len([one for one in readers.since(ejected) if one.port is None]) <= 0.05 * len(readers.since(ejected))
        assert {one.sqlstate for one in readers.failed()} == {"58030"}
        assert failed <= FAILED_MAX, failed
        assert 'cause="faults"} 0' not in _line(forebay, "forebay_endpoint_ejections_total", places[0], "faults")
        tell(ill, "ill.part", "0")
        until(lambda: readers.shares(2).get(port, 0) > 0.2, within_s=PATIENCE_S, what="it has its part again")
        assert forebay.events("endpoint_readmitted")
        assert not readers.errors


def _line(forebay: Forebay, name: str, endpoint: str, cause: str) -> str:
    lines = forebay.metrics().splitlines()
    (found,) = [one for one in lines if one.startswith(name) and endpoint in one and f'cause="{cause}"' in one]
    return found


def test_where_nobody_else_serves_the_ejected_one_does(
    server: Postgres, ailing: Sequence[Postgres], variant: Variant, start: Start
) -> None:
    """One that fails a part of its requests is better than none."""
    with contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(Toxi(one.port)) for one in ailing]
        places, port = [f"127.0.0.1:{one.port}" for one in proxies], str(ailing[0].port)
        forebay = start(configuration(server, variant, databases={"app": {"endpoints": places, **FAULTS_ALONE}}))
        with Readers(forebay.target, sql=AILING, may_fail=True) as readers:
            until(lambda: len(readers.answers) > 300, within_s=PATIENCE_S, what="they serve")
            tell(ailing[0], "ill.part", "0.5")
            ejected = lambda: {one["endpoint"] for one in forebay.events("endpoint_ejected")}  # noqa: E731
            until(lambda: places[0] in ejected(), within_s=PATIENCE_S, what="it is ejected")
            for proxy in proxies[1:]:
                proxy.refuses.set()
                proxy.cut()
            gone = time.monotonic()
            lifted = lambda: places[0] in {one["endpoint"] for one in forebay.events("endpoint_readmitted")}  # noqa: E731
            until(lifted, within_s=PATIENCE_S, what="its ejection is lifted")
            served = lambda: len([one for one in readers.since(gone) if one.port == port]) > 50  # noqa: E731
            until(served, within_s=PATIENCE_S, what="it serves")
            for proxy in proxies[1:]:
                proxy.refuses.clear()
            back = lambda: sum(readers.shares(2).get(str(one.port), 0) for one in ailing[1:]) > 0.5  # noqa: E731
            until(back, within_s=PATIENCE_S, what="the others are back")
            assert not readers.errors


def test_a_replica_that_flaps_costs_no_more_than_its_down_time(
    server: Postgres, ailing: Sequence[Postgres], variant: Variant, start: Start
) -> None:
    """Row 25 of the faults: half a second down, half a second up, and again."""
    with contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(Toxi(one.port)) for one in ailing]
        places, port = [f"127.0.0.1:{one.port}" for one in proxies], str(ailing[0].port)
        forebay = start(configuration(server, variant, databases={"app": {"endpoints": places, "pool_size": 24}}))
        flaps, is_over = 0, threading.Event()

        def flap() -> None:
            nonlocal flaps
            while not is_over.is_set():
                proxies[0].refuses.set()
                proxies[0].cut()
                is_over.wait(0.5)
                proxies[0].refuses.clear()
                flaps += 1
                is_over.wait(0.5)

        with Readers(forebay.target, may_fail=True) as readers:
            until(lambda: readers.shares(2).get(port, 0) > 0.2, within_s=PATIENCE_S, what="all of them serve")
            began = time.monotonic()
            flapping = threading.Thread(target=flap)
            flapping.start()
            until(lambda: flaps >= 12, within_s=PATIENCE_S, what="it has flapped")
            is_over.set()
            flapping.join()
            seen, failed = readers.since(began), len(readers.failed())
            print(f"{failed} of {len(seen)} failed, {flaps} flaps")
            # It was down half of the time, and a third of the requests are its part.
            assert failed <= len(seen) * 0.5 / 3
            assert failed <= readers.count * flaps
            until(lambda: readers.shares(2).get(port, 0) > 0.2, within_s=PATIENCE_S, what="it has its part again")
            assert not readers.errors


def test_a_replica_that_is_full_is_not_sick(
    server: Postgres, ailing: Sequence[Postgres], variant: Variant, start: Start
) -> None:
    """Nor are those that clients wait for: else servers would be taken away just when they are needed."""
    full = ailing[0]
    place, port = f"127.0.0.1:{full.port}", str(full.port)
    places = [f"127.0.0.1:{one.port}" for one in ailing]
    few = {"endpoints": places, "pool_size": 3}
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                stack.enter_context(full.target.connect())
        databases = {"app": {"endpoints": places, "pool_size": 24}, "few": {**few, "dbname": "app"}}
        forebay = start(configuration(server, variant, databases=databases))
        with Readers(forebay.target) as readers:
            until(lambda: len(readers.answers) > 1000, within_s=PATIENCE_S, what="the others serve")
            assert readers.shares(60).get(port, 0) == 0
            assert shown(forebay, place)["ejected"] is None
            stack.close()
            until(lambda: readers.shares(2).get(port, 0) > 0.2, within_s=PATIENCE_S, what="it has its part")
            assert not readers.errors
        with Readers(forebay.target.at(dbname="few"), count=30) as waiting:
            until(lambda: len(waiting.answers) > 2000, within_s=PATIENCE_S, what="many have waited")
            assert not waiting.errors
        assert not forebay.events("endpoint_ejected")
