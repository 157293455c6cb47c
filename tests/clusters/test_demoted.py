"""A primary that comes back as a standby while it is still taken for the primary."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.clusters.conftest import Pair, on_each_driver
from tests.clusters.test_failover import are, promote, roles
from tests.clusters.test_switchover import follow
from tests.harness.deadline import until
from tests.harness.pooler import Forebay
from tests.harness.postgres import HBA, Postgres
from tests.harness.standby import caught_up
from tests.harness.target import Target

WITHIN_S = 60
# Who asks endpoints for their roles. One that lets it in no longer keeps the role that it had.
POLL_USER = "gone"
# A restart takes less than so many questions: it must not be noticed, as one between two questions is not.
MISSES = 100


@pytest.fixture
def both(pair: Pair, tmp_path: Path) -> Iterator[list[Forebay]]:
    """A forebay with each I/O driver before the same servers."""
    endpoints = [f"127.0.0.1:{one.port}" for one in pair]
    database = {"endpoints": endpoints, "topology": "poll", "poll_user": POLL_USER, "poll_misses": MISSES,
                "canary_interval": "0s"}  # fmt: skip
    with on_each_driver(pair[0], {"app": database}, tmp_path) as started:
        yield started


class Write(threading.Thread):
    """One row, by a session that is there already or by a new one; with the error that it ended with."""

    def __init__(self, client: psycopg.Connection | Target, key: int) -> None:
        super().__init__()
        self.client, self.key = client, key
        self.error: psycopg.Error | None = None
        self.start()

    def run(self) -> None:
        try:
            if isinstance(self.client, Target):
                with self.client.connect(autocommit=True) as client:
                    self.write(client)
            else:
                self.write(self.client)
        except psycopg.Error as error:
            self.error = error

    def write(self, client: psycopg.Connection) -> None:
        client.execute("insert into ledger values (%s, 0)", (self.key,))


def hba(server: Postgres, line: str) -> None:
    """Puts a line before all others."""
    (server.folder / "data" / "pg_hba.conf").write_text(f"{line}\n{HBA}")


def refusals(forebay: Forebay) -> int:
    """Logins that led to a standby instead of the primary."""
    return sum("it is a standby" in event["cause"] for event in forebay.events("server_open_failed"))


def test_nobody_hears_that_the_primary_has_become_a_standby(pair: Pair, both: list[Forebay]) -> None:
    """Else all that is written between the restart and the next question fails with 25006."""
    first, second = pair
    are(both, pair, "primary", "replica")
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(forebay.target.connect(autocommit=True)) for forebay in both for _ in range(3)]
        for key, session in enumerate(sessions):
            session.execute("insert into ledger values (%s, 0)", (key,))
        caught_up(first, second)
        hba(first, f"host all {POLL_USER} all reject")
        follow(first, second)
        assert [roles(forebay, pair) for forebay in both] == [["primary", "replica"]] * len(both), "nobody has told"
        old = [Write(session, 100 + key) for key, session in enumerate(sessions)]
        new = [Write(forebay.target, 200 + key) for key, forebay in enumerate(both)]
        for forebay in both:
            until(lambda forebay=forebay: refusals(forebay) > 5, within_s=WITHIN_S, what="it is tried again and again")
        waiting = [write for write in (*old, *new) if write.is_alive()]
        assert (len(waiting), [write.error for write in old]) == (len(old) + len(new), [None] * len(old)), "they wait"
        assert [roles(forebay, pair) for forebay in both] == [["primary", "replica"]] * len(both), "nobody has told"
        promote(second)
        for write in (*old, *new):
            write.join(WITHIN_S)
            assert not write.is_alive()
            assert write.error is None, write.error
        with second.target.connect(user="postgres", dbname="app", autocommit=True) as asked:
            found = {key for (key,) in asked.execute("select key from ledger where key >= 100")}
        assert found == {write.key for write in (*old, *new)}
        hba(first, "")
        with first.target.connect(user="postgres", autocommit=True) as asked:
            asked.execute("select pg_reload_conf()")
        are(both, pair, "replica", "primary")
        for session in sessions:
            assert session.execute("select pg_is_in_recovery()").fetchone() == (False,)


def test_one_that_is_promoted_again_goes_on(pair: Pair, both: list[Forebay]) -> None:
    """Its roles are as they were, so that nobody is told anything: a mark kept until then would be kept for ever."""
    first, second = pair
    are(both, pair, "primary", "replica")
    hba(first, f"host all {POLL_USER} all reject")
    follow(first, second)
    writes = [Write(forebay.target, key) for key, forebay in enumerate(both)]
    for forebay in both:
        until(lambda forebay=forebay: refusals(forebay) > 1, within_s=WITHIN_S, what="it is refused")
    promote(first)
    for write in writes:
        write.join(WITHIN_S)
        assert not write.is_alive()
        assert write.error is None, write.error
    assert [roles(forebay, pair)[0] for forebay in both] == ["primary"] * len(both)
