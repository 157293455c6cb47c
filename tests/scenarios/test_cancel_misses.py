"""Who guesses the keys of cancel requests is soon not listened to."""

from __future__ import annotations

import re

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.target import Target
from tests.harness.wire import PROTOCOL_3_2, Wire, cancel, query

LIMIT = 5


def counter(forebay: Forebay, name: str) -> int:
    """A counter without labels."""
    found = re.search(rf"^{name} (\d+)$", forebay.metrics(), re.MULTILINE)
    assert found, name
    return int(found[1])


def send(target: Target, key: tuple[int, bytes]) -> None:
    """A CancelRequest; whatever it is worth, it is answered with nothing and closed, as by PostgreSQL."""
    with target.dial() as wire:
        wire.send(cancel(*key))
        assert wire.ends()


def wrong(key: tuple[int, bytes]) -> tuple[int, bytes]:
    """The same process, another secret."""
    return key[0], bytes(byte ^ 0xFF for byte in key[1])


def sleep(client: Wire, seconds: int, watcher: Wire) -> None:
    """Has a client's server sleep; returned once it does."""
    client.send(query(f"select pg_sleep({seconds})"))
    sleeps = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and usename = 'app'"
    until(lambda: watcher.value(sleeps) == "1", within_s=10, what="it runs")


def is_cancelled(client: Wire, target: Target, watcher: Wire) -> bool:
    """Whether a cancel with the client's own key is heard."""
    sleep(client, 30, watcher)
    send(target, client.key)
    return [frame.fields["C"] for frame in client.ready() if frame.tag == "E"] == ["57014"]


def test_a_source_that_misses_too_often_is_refused(
    start: Start, server: Postgres, direct: Target, variant: Variant
) -> None:
    """Over all workers; told once in the log, counted in the metrics, and nothing on the wire tells a guesser."""
    forebay = start(configuration(server, variant, limits={"cancel_misses_max": LIMIT}))
    with forebay.target.wire() as client:
        for _ in range(LIMIT):
            send(forebay.target, wrong(client.key))
        until(lambda: counter(forebay, "forebay_cancels_total") == LIMIT, within_s=10, what="they have come")
        assert counter(forebay, "forebay_cancels_refused_total") == 0
        with direct.wire() as watcher:
            sleep(client, 2, watcher)
        # Even the right key is not looked at by now.
        send(forebay.target, client.key)
        send(forebay.target, wrong(client.key))
        assert [frame.tag for frame in client.ready() if frame.tag in "DE"] == ["D"], "nothing was cancelled"
    assert counter(forebay, "forebay_cancels_refused_total") == 2
    assert counter(forebay, "forebay_cancels_forwarded_total") == 0
    [told] = until(lambda: forebay.events("cancels_refused"), within_s=10, what="it is told") or []
    assert (told["level"], told["source"], told["limit"]) == ("warn", "127.0.0.1", LIMIT)


@pytest.mark.variants("uring-1", "epoll-2")
def test_right_keys_do_not_count(start: Start, server: Postgres, direct: Target, variant: Variant) -> None:
    """An application whose statements time out by the hundred is no guesser."""
    forebay = start(configuration(server, variant, limits={"cancel_misses_max": LIMIT}))
    with forebay.target.wire() as client, direct.wire() as watcher:
        for _ in range(3 * LIMIT):
            send(forebay.target, client.key)
        assert is_cancelled(client, forebay.target, watcher)
    assert counter(forebay, "forebay_cancels_refused_total") == 0


@pytest.mark.variants("uring-1", "epoll-2")
def test_keys_that_nobody_comes_by_do_not_count(
    start: Start, server: Postgres, direct: Target, variant: Variant
) -> None:
    """A pooler of clients whose own keys have 256 bits may send many that come too late, and is no guesser."""
    forebay = start(configuration(server, variant, limits={"cancel_misses_max": LIMIT}))
    with forebay.target.dial() as client:
        client.log_in(user="app", database="app", version=PROTOCOL_3_2)
        assert len(client.key[1]) > 4
        for _ in range(3 * LIMIT):
            send(forebay.target, wrong(client.key))
        # Nor does a guess of such a key hinder those who hold short ones.
        with forebay.target.wire() as other, direct.wire() as watcher:
            assert is_cancelled(other, forebay.target, watcher)
    assert counter(forebay, "forebay_cancels_refused_total") == 0
