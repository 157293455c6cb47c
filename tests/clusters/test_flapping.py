"""A cluster that flaps: clients wait for the next primary only so often within an hour."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest

from tests.clusters.test_roles import clustered, endpoints
from tests.conftest import Start
from tests.harness import postgres
from tests.harness.certificates import Authority
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

# Longer than the test may take: who waits for this long is not told at once.
WAIT = "10m"


@pytest.fixture
def flapping(authority: Authority) -> Iterator[Postgres]:
    """A primary that is killed and started again."""
    with postgres.running(18, authority) as running:
        yield running


def asked_after(forebay: Forebay, server: Postgres, client: psycopg.Connection, losses: int) -> list[object]:
    """Kills the primary, asks while there is none, and starts it. What the client was answered, or told."""
    server.kill()
    until(lambda: role(forebay) == "down", within_s=60, what="it is lost")
    heard: list[object] = []

    def ask() -> None:
        try:
            heard.append(client.execute("select 1").fetchone())
        except psycopg.Error as error:
            heard.append((error.sqlstate, str(error)))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    if losses > 1:
        until(lambda: heard, within_s=60, what="it is told while there is no primary")
    else:
        until(lambda: is_waiting(forebay), within_s=60, what="it waits")
    server.start()
    asking.join(timeout=60)
    until(lambda: role(forebay) == "primary", within_s=60, what="it is back")
    return heard


def is_waiting(forebay: Forebay) -> bool:
    return any(row["cl_waiting"] == "1" for row in forebay.console("show pools"))


def role(forebay: Forebay) -> str | None:
    return forebay.console("show endpoints")[0]["role"]


def test_clients_of_a_cluster_that_flaps_are_told_at_once(flapping: Postgres, variant: Variant, start: Start) -> None:
    """Else each of their requests takes as long as the next primary takes to be found, and the application stands."""
    once = clustered(flapping, holds_per_hour_max=1, query_wait_timeout=WAIT, poll_interval="100ms")
    forebay = start(configuration(flapping, variant, databases={"app": once}))
    endpoints(forebay, "app", 1)
    with forebay.target.connect(autocommit=True) as client:
        client.execute("select 1")
        first = asked_after(forebay, flapping, client, 1)
        assert first == [(1,)], "it has waited"
        assert forebay.events("holds_refused") == []
        for _ in range(2):
            ((sqlstate, words),) = asked_after(forebay, flapping, client, 2)
            assert sqlstate == "57P03", words
            assert "more often than holds_per_hour_max = 1 allows" in words, words
            assert "(FB416)" in words, words
        assert client.execute("select 1").fetchone() == (1,), "its session lives on"
    (told,) = forebay.events("holds_refused")
    assert (told["level"], told["database"], told["holds_per_hour_max"]) == ("warn", "app", 1)
