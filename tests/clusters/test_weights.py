"""How much of the requests each endpoint is to have, and which are near: as the configuration says, live."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres, free_port
from tests.harness.readers import Readers, nap
from tests.harness.toxi import Toxi

pytestmark = [pytest.mark.variants("uring-2", "epoll-1"), pytest.mark.timeout(300)]

WAYS = ("latency", "least_busy", "round_robin")
PATIENCE_S = 40.0


@pytest.fixture(autouse=True)
def short_naps(standbys: Sequence[Postgres]) -> Iterator[None]:
    """A request takes its server 5 ms."""
    for one in standbys:
        nap(one, 0.005)
    yield
    for one in standbys:
        nap(one, 0)


def shown(forebay: Forebay, database: str) -> dict[str, tuple[str | None, str | None]]:
    """Weight and zone of each endpoint, by SHOW ENDPOINTS."""
    rows = forebay.console("show endpoints")
    return {str(row["endpoint"]): (row["weight"], row["zone"]) for row in rows if row["database"] == database}


def test_requests_are_shared_by_weight(
    server: Postgres, standbys: Sequence[Postgres], variant: Variant, start: Start
) -> None:
    """By whatever way they are shared; a reload and an online restart change nothing but what they are told to."""
    first, second, third = (f"127.0.0.1:{one.port}" for one in standbys)
    ports, listen = [str(one.port) for one in standbys], {"port": free_port()}

    def sections(weights: dict[str, int]) -> dict[str, dict[str, object]]:
        of = {"endpoints": [first, second, third], "pool_size": 24, "weights": weights}
        databases = {way: {**of, "load_balance": way} for way in WAYS}
        return configuration(server, variant, databases=databases, listen=listen)

    forebay = start(sections({first: 3, third: 0}))
    for way in WAYS:
        with Readers(forebay.target.at(dbname=way)) as readers:
            # Of three quarters and one, as far as a machine lets them have it.
            is_so = lambda: (  # noqa: E731
                len(readers.answers) > 300
                and 0.65 < readers.shares(2).get(ports[0], 0) < 0.85
                and readers.shares(2).get(ports[2], 0) == 0
            )
            until(is_so, within_s=PATIENCE_S, what=f"the parts are as the weights say: {way}")
            assert not readers.errors
    assert shown(forebay, "latency") == {first: ("3", None), second: ("1", None), third: ("0", None)}
    answers = re.findall(r'^forebay_endpoint_answers_total\{database="latency",.*"\} (\d+)$', forebay.metrics(), re.M)
    assert len(answers) == 3
    assert sum(map(int, answers)) > 300
    with Readers(forebay.target.at(dbname="latency")) as readers:
        forebay.reload(sections({third: 8}))
        is_moved = lambda: readers.shares(2).get(ports[2], 0) > 0.7  # noqa: E731
        until(is_moved, within_s=PATIENCE_S, what="the reload holds")
        forebay.upgrade()
        assert shown(forebay, "latency") == {first: ("1", None), second: ("1", None), third: ("8", None)}
        before = len(readers.answers)
        is_kept = lambda: len(readers.answers) > before + 500 and is_moved()  # noqa: E731
        until(is_kept, within_s=PATIENCE_S, what="the new process goes by them")
        assert not readers.errors


def test_endpoints_that_are_near_serve_as_long_as_they_can(
    server: Postgres, standbys: Sequence[Postgres], variant: Variant, start: Start
) -> None:
    """Traffic between zones is paid for; a zone that is lost is not what it is saved for."""
    with contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(Toxi(one.port)) for one in standbys]
        places = [f"127.0.0.1:{one.port}" for one in proxies]
        ports = [str(one.port) for one in standbys]
        zones = dict(zip(places, ("a", "b", "c"), strict=True))

        def sections(zone: str) -> dict[str, dict[str, object]]:
            reads = {"endpoints": places, "zones": zones, "pool_size": 24}
            return configuration(server, variant, databases={"app": reads}, server_defaults={"zone": zone})

        forebay = start(sections("a"))
        with Readers(forebay.target, may_fail=True) as readers:
            is_near = lambda at: len(readers.answers) > 300 and readers.shares(2).get(ports[at], 0) > 0.9  # noqa: E731
            until(lambda: is_near(0), within_s=PATIENCE_S, what="the near one has nearly all")
            assert not readers.failed()
            assert shown(forebay, "app") == {place: ("1", zone) for place, zone in zones.items()}
            proxies[0].refuses.set()
            proxies[0].cut()
            others = lambda: [readers.shares(2).get(port, 0) for port in ports[1:]]  # noqa: E731
            until(lambda: min(others()) > 0.3, within_s=PATIENCE_S, what="the others take over")
            lost = len(readers.failed())
            assert lost <= 24, "no more than it had servers"
            proxies[0].refuses.clear()
            until(lambda: is_near(0), within_s=PATIENCE_S, what="it has nearly all again")
            forebay.reload(sections("c"))
            until(lambda: is_near(2), within_s=PATIENCE_S, what="another one is near")
            assert len(readers.failed()) == lost
            assert not readers.errors
