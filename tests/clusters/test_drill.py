"""`forebay drill`: what it reports of a failover and of a switchover, and that both are as forebay promises."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import skip_without_uring
from tests.harness import pooler, postgres
from tests.harness.certificates import Authority
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres, free_port
from tests.harness.processes import is_alive
from tests.harness.standby import standby_of

CLIENTS, POOL_SIZE = 20, 4
# What forebay may add to a promotion, and what a busy machine adds to that.
ADDED_S, BUSY_S = 0.7, 2.5
VARIANTS = (Variant("uring", 2), Variant("epoll", 1))
Pair = tuple[Postgres, Postgres]


@pytest.fixture
def pair(authority: Authority) -> Iterator[Pair]:
    """A primary that acknowledges what its standby has, and that standby."""
    with postgres.running(18, authority, synchronous_standby_names="*") as primary, standby_of(primary) as standby:
        # It has no standby itself when it is promoted.
        admin(standby, "alter system set synchronous_standby_names = ''", "select pg_reload_conf()")
        admin(primary, "alter role app set synchronous_commit = on",
              "revoke pg_read_all_stats from app", "grant execute on function pg_promote to app",
              dbname="app")  # fmt: skip
        yield primary, standby


@pytest.fixture
def both(pair: Pair, tmp_path: Path) -> Iterator[list[Forebay]]:
    """A forebay with each I/O driver before the same servers."""
    database = {"endpoints": endpoints(*pair), "topology": "poll", "poll_user": "app", "read_write_split": True}
    with contextlib.ExitStack() as stack:
        started = []
        for variant in VARIANTS:
            with skip_without_uring(variant):
                # An online restart goes by the port.
                listen = {"port": free_port(), "address": ["127.0.0.1"]}
                sections = configuration(pair[0], variant, databases={"app": database}, listen=listen)
                started.append(stack.enter_context(pooler.running(tmp_path / str(variant), sections, variant)))
        yield started


def endpoints(*servers: Postgres) -> list[str]:
    """As a configuration has them."""
    return [f"127.0.0.1:{one.port}" for one in servers]


def admin(server: Postgres, *statements: str, dbname: str = "postgres") -> None:
    """Carries out statements as the superuser."""
    with server.target.connect(user="postgres", dbname=dbname, autocommit=True) as asked:
        for each in statements:
            asked.execute(each.encode())


def are_known(forebay: Forebay, servers: Pair) -> None:
    """Waits until it has a primary and a replica."""
    expected = dict(zip(endpoints(*servers), ("primary", "replica"), strict=True))
    until(
        lambda: {row["endpoint"]: row["role"] for row in forebay.console("show endpoints")} == expected,
        within_s=15, what=f"the roles are {expected}",
    )  # fmt: skip


def drill(forebay: Forebay, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A short one, as its user runs it."""
    at = f"host=127.0.0.1 port={forebay.target.port}"
    done = subprocess.run(
        [sys.executable, "-m", "forebay", "drill", f"{at} user=app dbname=app", "--dsn", f"{at} user=ops", "--json",
         "--clients", str(CLIENTS), "--rate", "200", "--before", "1", "--after", "1", *arguments],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_a_drill_tells_what_a_failover_and_a_switchover_cost(pair: Pair, both: list[Forebay], tmp_path: Path) -> None:
    """A promise that nobody can measure is none. A kill costs what was under way, a switchover nothing."""
    primary, standby = pair
    for forebay in both:
        are_known(forebay, pair)
    it_is_refused(both[0], primary)
    promoted_at: list[float] = []

    def promote() -> None:
        until(lambda: not is_alive(primary.pid), within_s=30, what="the primary is killed")
        admin(standby, "select pg_promote()")
        promoted_at.append(time.time())

    with _beside(promote):
        found = json.loads(drill(both[0], "--how", "kill", "--report", str(tmp_path / "kill.html")).stdout)
    print({key: value for key, value in found.items() if key != "slots"}, "promoted", promoted_at[0])
    assert set(found["errors"]) <= {"57P01", "08007"}, found["errors"]
    # A session ends if its server was lost as that was asked what the last statement had left behind.
    assert sum(found["errors"].values()) + found["sessions_lost"] <= POOL_SIZE
    assert (found["lost"], found["doubled"], found["risen"]) == (0, 0, 0)
    told = found["account"]
    assert told["because"].startswith("at most "), told
    assert (told["missing_bytes"], told["missing_s"] > 0) == (0, True), "its standby had all"
    assert found["resumed_at"] - promoted_at[0] < ADDED_S + BUSY_S
    assert found["acknowledged"] > 50 < found["read"]
    html = (tmp_path / "kill.html").read_text()
    assert html.count("<svg ") == html.count("</svg>") == 2
    assert "http" not in html, "it needs nothing else"

    forebay = both[-1]
    with standby_of(standby) as third:
        name = 'databases."app"'
        forebay.reload({**forebay.sections, name: {**forebay.sections[name], "endpoints": endpoints(standby, third)}})
        are_known(forebay, (standby, third))
        found = json.loads(drill(forebay, "--how", "switchover").stdout)
        print({key: value for key, value in found.items() if key != "slots"})
        assert (found["errors"], found["sessions_lost"], found["logins_failed"]) == ({}, 0, 0)
        assert (found["lost"], found["doubled"], found["risen"], found["unknown"]) == (0, 0, 0, 0)
        assert found["longest_write_s"] < found["fault_s"] + ADDED_S
        assert found["account"] == {
            "missing_bytes": 0, "missing_s": 0, "because": "it was planned, and waited until the new primary had all",
        }  # fmt: skip
        killed, row = forebay.console("show failovers", user="watcher")
        assert (killed["new"], killed["planned"]) == (row["old"], "0"), "the reload has not made it forget"
        assert ([*endpoints(standby, third)], "1") == ([row["old"], row["new"]], row["planned"])
        forebay.upgrade()
        assert [one["new"] for one in forebay.console("show failovers")] == [killed["new"], row["new"]]
        assert [line["text"].partition(":")[0] for line in found["lines"]][:2] == ["held", "ended"]
        admin(third, "select 1/(count(*) = 0)::int from pg_namespace where nspname = 'forebay_drill'", dbname="app")


def test_a_drill_whose_service_does_not_come_back_ends_all_the_same(
    authority: Authority, variant: Variant, tmp_path: Path
) -> None:
    """Nobody is promoted. Who drills at night finds the report, and not a terminal that waits."""
    with postgres.running(18, authority) as primary:
        database = {"endpoints": endpoints(primary), "topology": "poll", "poll_user": "app"}
        sections = configuration(primary, variant, databases={"app": database})
        with pooler.running(tmp_path, sections, variant) as forebay:
            until(lambda: [row["role"] for row in forebay.console("show endpoints")] == ["primary"],
                  within_s=15, what="it is known")  # fmt: skip
            # Far below query_wait_timeout, for which what is asked of nobody would wait.
            done = drill(forebay, "--how", "kill", "--within", "3", code=1)
    found = json.loads(done.stdout)
    assert "the schema is left" in done.stderr
    assert "DROP SCHEMA forebay_drill CASCADE" in done.stderr
    assert (found["is_back"], found["lost"], found["doubled"], found["risen"]) == (False, None, None, None)


def it_is_refused(forebay: Forebay, primary: Postgres) -> None:
    """And leaves nothing behind; a command that fails ends the drill."""
    with primary.target.connect(user="postgres", dbname="app"):
        production = drill(forebay, "--how", "kill", code=1).stderr
    assert "looks like production: 1 sessions of other users" in production
    failed = drill(forebay, "--how", "command", "--command", "false", "--yes", code=1).stderr
    assert "the command ended with status 1" in failed
    assert "Say what to run" in drill(forebay, "--how", "command", "--yes", code=2).stderr
    admin(primary, "select 1/(count(*) = 0)::int from pg_namespace where nspname = 'forebay_drill'", dbname="app")


@contextlib.contextmanager
def _beside(act: Callable[[], Any]) -> Iterator[None]:
    acting = threading.Thread(target=act)
    acting.start()
    yield
    acting.join(60)
