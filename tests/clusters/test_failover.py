"""A failover behind forebay: who waits goes on at the new primary, and one that was deposed gets no write."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from tests.clusters.conftest import Trio, on_each_driver
from tests.harness.deadline import until
from tests.harness.pooler import Forebay
from tests.harness.postgres import Postgres
from tests.harness.standby import caught_up

# What forebay may add to a failover: half a second between two looks, and the machine's own slowness.
GOES_ON_WITHIN_S = 2.0
POOL_SIZE = 4


@pytest.fixture
def both(trio: Trio, tmp_path: Path) -> Iterator[list[Forebay]]:
    """A forebay with each I/O driver before the same servers, so that one failover serves both."""
    endpoints = [f"127.0.0.1:{one.port}" for one in trio]
    database = {"endpoints": endpoints, "topology": "poll", "poll_user": "app", "server_check_delay": "0s"}
    databases = {
        "app": database,
        "reading": {**database, "role": "replica"},
        "split": {**database, "read_write_split": True},
    }
    with on_each_driver(trio[0], databases, tmp_path) as started:
        yield started


def roles(forebay: Forebay, servers: Sequence[Postgres]) -> list[str | None]:
    """The roles of the servers by forebay's account."""
    found = {row["endpoint"]: row["role"] for row in forebay.console("show endpoints") if row["database"] == "app"}
    return [found[f"127.0.0.1:{one.port}"] for one in servers]


def are(forebays: Sequence[Forebay], servers: Sequence[Postgres], *expected: str) -> None:
    """Waits until these are the servers' roles."""
    for forebay in forebays:
        until(
            lambda forebay=forebay: roles(forebay, servers) == list(expected),
            within_s=15, what=f"the servers are {expected}",
        )  # fmt: skip


class Writer(threading.Thread):
    """A client that inserts one row after the other, and notes what it was told and how long it waited."""

    def __init__(self, forebay: Forebay, client: int) -> None:
        super().__init__()
        self.target, self.client = forebay.target, client
        self.acknowledged: list[int] = []
        self.errors: list[str | None] = []
        self.last_at = time.monotonic()
        self.is_over = threading.Event()

    def run(self) -> None:
        with self.target.connect(autocommit=True) as client:
            key = self.client * 1_000_000
            while not self.is_over.is_set():
                key += 1
                try:
                    client.execute("insert into ledger values (%s, %s)", (key, self.client))
                    self.acknowledged.append(key)
                    self.last_at = time.monotonic()
                except psycopg.OperationalError as error:
                    self.errors.append(error.sqlstate)
                    if client.closed:
                        return


def promote(server: Postgres) -> float:
    """Makes a standby a primary; returns when that was done."""
    with server.target.connect(user="postgres", autocommit=True) as asked:
        assert asked.execute("select pg_promote()").fetchone() == (True,)
        until(
            lambda: asked.execute("select pg_is_in_recovery()").fetchone() == (False,),
            within_s=30, what="it is promoted",
        )  # fmt: skip
    return time.monotonic()


def keys(server: Postgres) -> set[int]:
    """What is in the ledger of a server."""
    with server.target.connect(user="postgres", dbname="app", autocommit=True) as asked:
        return {key for (key,) in asked.execute("select key from ledger")}


def test_a_failover_costs_what_was_under_way_and_no_session(trio: Trio, both: list[Forebay]) -> None:
    """Else every application has to learn who the primary is, and to reconnect at the same moment."""
    primary, first, _second = trio
    are(both, trio, "primary", "replica", "replica")
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(forebay.target.connect(autocommit=True)) for forebay in both]
        for client in idle:
            assert client.execute("select pg_is_in_recovery()").fetchone() == (False,)
        inside = [stack.enter_context(forebay.target.connect()) for forebay in both]
        for client in inside:
            client.execute("insert into scratch values (1, 'is lost with the primary')")
        writers = [Writer(forebay, 1 + number) for number, forebay in enumerate(both)]
        for writer in writers:
            writer.start()
        until(lambda: all(len(w.acknowledged) > 20 for w in writers), within_s=15, what="both write")
        caught_up(primary, first)
        primary.kill()
        are(both, trio, "down", "replica", "replica")
        for forebay in both:
            until(lambda forebay=forebay: forebay.events("pool_held"), within_s=5, what="requests wait")
            with forebay.target.at(dbname="reading").connect(autocommit=True) as reader:
                assert reader.execute("select pg_is_in_recovery()").fetchone() == (True,), "reads go on meanwhile"
        counts = [len(writer.acknowledged) for writer in writers]
        promoted_at = promote(first)
        until(
            lambda: all(len(w.acknowledged) > count for w, count in zip(writers, counts, strict=True)),
            within_s=15, what="both write again",
        )  # fmt: skip
        assert time.monotonic() - promoted_at < GOES_ON_WITHIN_S
        for writer in writers:
            writer.is_over.set()
            writer.join()
        for writer, client, within in zip(writers, idle, inside, strict=True):
            # What was under way may have been done: 08007. The next may meet another back end before that is killed.
            assert len(writer.errors) <= POOL_SIZE, writer.errors
            assert set(writer.errors) <= {"08007", "57P01"}, writer.errors
            assert client.execute("select pg_is_in_recovery()").fetchone() == (False,), "the session lives on"
            with pytest.raises(psycopg.OperationalError) as lost:
                within.execute("select 1")
            assert lost.value.sqlstate == "57P01"
            within.rollback()
            assert within.execute("select count(*) from scratch where a = 1").fetchone() == (0,)
            within.rollback()
        told = {key for writer, count in zip(writers, counts, strict=True) for key in writer.acknowledged[count:]}
        assert told <= keys(first), "what the new primary has acknowledged is there"
        are(both, trio, "down", "primary", "astray")
        a_deposed_primary_gets_no_write(trio, both)


def a_deposed_primary_gets_no_write(trio: Trio, both: list[Forebay]) -> None:
    """It comes back as if nothing had happened, and takes whatever is sent to it."""
    primary, first, second = trio
    primary.start()
    are(both, trio, "deposed", "primary", "astray")
    for forebay in both:
        with forebay.target.connect(autocommit=True) as client:
            port = client.execute("select inet_server_port()").fetchone()
            assert port == (first.port,)
        assert any(event["role"] == "deposed" for event in forebay.events("endpoint_role"))
    # The second one knows nothing of the first's promotion, and is promoted to the same timeline.
    with both[0].target.connect(autocommit=True) as client:
        client.execute("begin")
        client.execute("insert into scratch values (2, 'under way')")
        promote(second)
        are(both, trio, "deposed", "contested", "contested")
        with pytest.raises(psycopg.OperationalError):
            client.execute("commit")
    second.stop(signal.SIGQUIT)
    are(both, trio, "deposed", "primary", "down")
    for forebay in both:
        with forebay.target.connect(autocommit=True) as client:
            assert client.execute("select inet_server_port()").fetchone() == (first.port,)
        with forebay.target.at(dbname="split").connect(autocommit=True) as client:
            where = client.execute("select current_setting('port')").fetchone()
            assert where == (str(first.port),), "without a replica the primary serves reads"
    a_reload_forgets_nothing(trio, both)


def a_reload_forgets_nothing(trio: Trio, both: list[Forebay]) -> None:
    """The deposed one is the only one that answers when the database's settings change."""
    _primary, first, _second = trio
    first.stop(signal.SIGQUIT)
    are(both, trio, "deposed", "down", "down")
    for forebay in both:
        name = 'databases."app"'
        forebay.reload({**forebay.sections, name: {**forebay.sections[name], "poll_interval": "400ms"}})
        until(
            lambda forebay=forebay: [row for row in forebay.console("show endpoints")
                                     if row["database"] == "app" and row["answered_ms"] is not None],
            within_s=5, what="it has answered since",
        )  # fmt: skip
        assert roles(forebay, trio) == ["deposed", "down", "down"]
