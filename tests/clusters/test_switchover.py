"""A planned change of the primary: everybody waits for a moment, and nobody sees an error."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.clusters.conftest import VARIANTS, Pair, on_each_driver
from tests.clusters.switching import STEPS, Order
from tests.harness import account, pooler
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, configuration
from tests.harness.postgres import Postgres
from tests.harness.standby import caught_up, standby_of

# What forebay may add to the promotion, and what a busy machine adds to both.
ADDED_S = 0.5
BUSY_S = 2.5

# Stops the old primary, so that the candidate has all of it, and promotes the candidate.
HOOK = """\
import os, pathlib, signal, sys, time
import psycopg
pid_file = pathlib.Path(sys.argv[1])
os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)
while pid_file.exists():
    time.sleep(0.01)
dsn = f"host={os.environ['FOREBAY_NEW_HOST']} port={os.environ['FOREBAY_NEW_PORT']} user=postgres dbname=postgres"
with psycopg.connect(dsn, autocommit=True) as candidate:
    assert candidate.execute("select pg_promote()").fetchone() == (True,)
"""


@pytest.fixture
def both(pair: Pair, tmp_path: Path) -> Iterator[list[Forebay]]:
    """A forebay with each I/O driver before the same servers."""
    endpoints = [f"127.0.0.1:{one.port}" for one in pair]
    database = {"endpoints": endpoints, "topology": "poll", "poll_user": "app", "server_check_delay": "0s"}
    databases = {"app": database, "split": {**database, "read_write_split": True, "read_consistency": "eventual"}}
    with on_each_driver(pair[0], databases, tmp_path) as started:
        yield started


class Client(threading.Thread):
    """Asks one statement after the other until it is over; notes errors and how long the longest took."""

    numbers = itertools.count(1)

    def __init__(self, forebay: Forebay, sql: str, *, database: str = "app") -> None:
        super().__init__()
        self.target, self.first, self.sql = forebay.target.at(dbname=database), next(self.numbers) * 1_000_000, sql
        self.done: list[int] = []
        self.errors: list[str] = []
        self.longest_s = 0.0
        self.is_over = threading.Event()

    def run(self) -> None:
        with self.target.connect(autocommit=True) as client:
            for key in range(self.first, self.first + 1_000_000):
                if self.is_over.is_set():
                    return
                began = time.monotonic()
                try:
                    client.execute(self.sql.format(key=key).encode())
                except psycopg.Error as error:
                    self.errors.append(f"{error.sqlstate}: {error}")
                    return
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                self.done.append(key)


@contextlib.contextmanager
def load(both: list[Forebay]) -> Iterator[list[Client]]:
    """Clients that write and such that read, which must see nothing."""
    clients = []
    for forebay in both:
        clients += [
            Client(forebay, "insert into ledger values ({key}, 1)"),
            Client(forebay, "begin; insert into ledger values ({key}, 2); commit"),
            Client(forebay, "select count(*) from people", database="split"),
        ]
    for client in clients:
        client.start()
    try:
        go_on(clients)
        yield clients
        go_on(clients)
    finally:
        for client in clients:
            client.is_over.set()
        for client in clients:
            client.join()
    assert [client.errors for client in clients if client.errors] == []


def go_on(clients: list[Client]) -> None:
    """Waits until each has done more than by now."""
    counts = [len(client.done) for client in clients]
    until(
        lambda: all(len(each.done) > count + 3 or each.errors for each, count in zip(clients, counts, strict=True)),
        within_s=20, what="all clients go on",
    )  # fmt: skip


def roles(forebay: Forebay, *servers: Postgres) -> list[str | None]:
    """By forebay's account."""
    found = {row["endpoint"]: row["role"] for row in forebay.console("show endpoints") if row["database"] == "app"}
    return [found.get(f"127.0.0.1:{one.port}") for one in servers]


def are(both: list[Forebay], servers: Pair, *expected: str) -> None:
    """Waits until these are the servers' roles."""
    for forebay in both:
        until(lambda f=forebay: roles(f, *servers) == list(expected), within_s=15, what=f"they are {expected}")


def refusal(forebay: Forebay, order: str) -> str:
    """The words with which SWITCHOVER is refused."""
    return Order(forebay, f"switchover {order}").refusal()


def command(forebay: Forebay, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`forebay switchover`, as its user runs it."""
    dsn = f"host=127.0.0.1 port={forebay.target.port} user=ops"
    return subprocess.run(
        [sys.executable, "-m", "forebay", "switchover", "app", "--dsn", dsn, *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def steps(lines: list[str]) -> list[str]:
    """The steps that lines tell of."""
    return [step for line in lines if (step := line.partition(":")[0]) in STEPS]


def allow(server: Postgres) -> None:
    """What pg_promote() by the poll's user takes."""
    with server.target.connect(user="postgres", dbname="app", autocommit=True) as admin:
        admin.execute("grant execute on function pg_promote to app")


def keys(server: Postgres) -> list[int]:
    """What is in the ledger."""
    with server.target.connect(user="postgres", dbname="app", autocommit=True) as asked:
        return [key for (key,) in asked.execute("select key from ledger")]


def follow(old: Postgres, new: Postgres) -> None:
    """A primary that was stopped in order becomes a standby of the new one, as it is."""
    data = old.folder / "data"
    (data / "standby.signal").touch()
    account.give(data / "standby.signal")
    with (data / "postgresql.conf").open("a") as conf:
        conf.write(f"primary_conninfo = 'host=127.0.0.1 port={new.port} user=postgres'\n")
    old.stop()
    old.start()


def test_a_planned_switchover_shows_nobody_an_error(pair: Pair, both: list[Forebay], tmp_path: Path) -> None:
    """Else every upgrade of a server is an incident. There by a hook that stops the old one, back by pg_promote()."""
    first, second = pair
    are(both, pair, "primary", "replica")
    what_fails_is_undone(pair, both)
    hook = tmp_path / "hook.py"
    hook.write_text(HOOK)
    with load(both) as clients:
        by_hand = Order(both[-1], "switchover app manual") if len(both) > 1 else None
        if by_hand:
            by_hand.says("promote")
        pid_file = first.folder / "data" / "postmaster.pid"
        there = command(both[0], "--hook", f"{sys.executable} {hook} {pid_file}")
        assert (there.returncode, there.stderr) == (0, ""), there.stdout + there.stderr
        assert steps(there.stdout.splitlines()) == STEPS
        if by_hand:
            by_hand.join(30)
            assert (by_hand.error, steps(by_hand.told)) == (None, STEPS)
        are(both, pair, "down", "primary")
        follow(first, second)
        are(both, pair, "replica", "primary")
        allow(second)
        go_on(clients)
        for client in clients:
            client.longest_s = 0.0
        if len(both) > 1:
            by_hand = Order(both[-1], "switchover app manual")
            by_hand.says("promote")
        began = time.monotonic()
        back = command(both[0], "--to", f"127.0.0.1:{first.port}")
        assert (back.returncode, back.stderr) == (0, ""), back.stdout + back.stderr
        assert steps(back.stdout.splitlines()) == STEPS
        assert f"127.0.0.1:{second.port} can still write" in back.stdout
        are(both, pair, "primary", "deposed")
        go_on(clients)
        promoted_s = (
            float(next(line for line in back.stdout.splitlines() if line.startswith("promoted")).split()[5]) / 1e3
        )
        longest_s = max(client.longest_s for client in clients[:2])
        print(back.stdout, f"longest stall {longest_s:.3f} s of {time.monotonic() - began:.3f} s")
        assert longest_s < promoted_s + ADDED_S + BUSY_S
    told = {key for client in clients if "insert" in client.sql for key in client.done}
    found = keys(first)
    assert told <= set(found), "what was acknowledged is there"
    assert len(found) == len(set(found))


def what_fails_is_undone(pair: Pair, both: list[Forebay]) -> None:
    """Nobody is left waiting, and the old primary is the primary."""
    first, second = pair
    forebay = both[0]
    with load(both), forebay.target.connect(autocommit=True) as holder:
        assert 'GRANT EXECUTE ON FUNCTION pg_promote TO "app"' in refusal(forebay, "app")
        assert "is no endpoint of" in refusal(forebay, "app to '127.0.0.1:1'")
        assert "it can write" in refusal(forebay, f"app to '127.0.0.1:{first.port}'")
        assert 'no endpoint of "app" is relieved' in refusal(forebay, "app back")
        assert "takes a number of seconds" in refusal(forebay, "app wait long")
        with second.target.connect(user="postgres", autocommit=True) as admin:
            admin.execute("select pg_wal_replay_pause()")
            assert "replay is paused" in refusal(forebay, "app")
            admin.execute("select pg_wal_replay_resume()")
        allow(first)
        caught_up(first, second)
        holder.execute("begin")
        holder.execute("insert into scratch values (1, 'goes on')")
        late = refusal(forebay, "app wait 0.3")
        assert "1 servers, by client" in late
        assert f"undone: requests go on at 127.0.0.1:{first.port}" in late
        holder.execute("commit")
        failed = command(forebay, "--hook", "false")
        assert failed.returncode == 1
        assert "the hook ended with status 1" in failed.stderr
        cancelled = Order(forebay, "switchover app manual")
        cancelled.says("promote")
        assert roles(forebay, *pair) == ["held", "replica"]
        assert "another switchover is under way" in refusal(forebay, "app")
        cancelled.connection.cancel_safe()
        assert cancelled.refusal().startswith("57014")
    with forebay.target.connect(autocommit=True) as holder:
        holder.execute("begin")
        holder.execute("insert into scratch values (2, 'is cut')")
        words = Order(forebay, "switchover app wait 0.2 timeout 1 manual cut").refusal()
        assert "has not become the primary within 1 s" in words
        with pytest.raises(psycopg.OperationalError) as cut:
            holder.execute("commit")
        assert cut.value.sqlstate == "57P01"
        assert roles(forebay, *pair) == ["relieved", "replica"], "somebody may be promoting the other one"
        assert command(forebay, "--back").returncode == 0
        assert holder.execute("select count(*) from scratch where a = 2").fetchone() == (0,)
    are(both, pair, "primary", "replica")


def test_a_replica_of_a_deposed_primary_takes_nothing_over(pair: Pair, tmp_path: Path) -> None:
    """It is as far as the primary by the numbers, and has nothing of what was acknowledged since."""
    first, second = pair
    variant = VARIANTS[-1]
    with standby_of(first) as third:
        servers = (first, second, third)
        database = {"endpoints": [f"127.0.0.1:{one.port}" for one in servers], "topology": "poll", "poll_user": "app"}
        sections = configuration(first, variant, databases={"app": database})
        with pooler.running(tmp_path / "forebay", sections, variant) as forebay:
            wait_for_roles(forebay, servers, "primary", "replica", "replica")
            allow(first)
            with first.target.connect(user="postgres", autocommit=True) as admin:
                admin.execute("revoke pg_read_all_stats from app")
            done = command(forebay, "--to", f"127.0.0.1:{second.port}")
            assert (done.returncode, done.stderr) == (0, ""), done.stdout
            assert f"\n127.0.0.1:{third.port} goes on after 127.0.0.1:{first.port}" in done.stdout
            with first.target.connect(user="postgres", autocommit=True) as aside:
                aside.execute("create table aside as select generate_series(1, 100000)")
            # By its position: whom it follows it does not tell. Past where the new primary began, and while it replays
            # on, it is taken for a replica, and refused for what it does not replay.
            by_role = "it is in recovery on an older timeline: it has not followed the new primary"
            by_mark = f"127.0.0.1:{third.port} does not follow 127.0.0.1:{second.port}"

            def is_told_by_its_role() -> bool:
                words = refusal(forebay, f"app to '127.0.0.1:{third.port}'")
                assert by_role in words or by_mark in words
                return by_role in words

            caught_up(first, third)
            until(is_told_by_its_role, within_s=30, what="it is known to have gone astray")
            wait_for_roles(forebay, servers, "deposed", "primary", "astray")
            with forebay.target.connect(autocommit=True) as client:
                client.execute("insert into scratch values (3, 'goes on')")


def wait_for_roles(forebay: Forebay, servers: tuple[Postgres, ...], *expected: str) -> None:
    """Waits until these are the servers' roles."""
    until(lambda: roles(forebay, *servers) == list(expected), within_s=15, what=f"they are {expected}")
