"""Servers beyond a pool's size for those who wait, which of the idle ones serves next, and servers that go fast."""

from __future__ import annotations

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.wire import query


def servers(forebay: Forebay) -> int:
    """Servers that serve the pool's clients, or could."""
    rows = [row for row in forebay.console("show pools") if row["database"] == "app"]
    return sum(int(row[state] or 0) for row in rows for state in ("sv_active", "sv_idle", "sv_used", "sv_tested"))


def test_the_reserve_serves_who_has_waited_long_enough(start: Start, server: Postgres, variant: Variant) -> None:
    """A burst is served by a few servers more, and the next one too, until they have been idle for long."""
    pool = {"pool_size": 1, "reserve_pool_size": 1, "reserve_pool_timeout": "300ms", "server_idle_timeout": "3s"}
    forebay = start(configuration(server, variant, databases={"app": pool}))
    with forebay.target.wire() as first, forebay.target.wire() as second, forebay.target.wire() as third:
        for wire in (first, second, third):
            assert wire.value("select 1") == "1"
        first.ask(query("begin"))
        second.send(query("begin"))
        until(lambda: any(r["cl_waiting"] == "1" for r in forebay.console("show pools")), within_s=5, what="it waits")
        assert servers(forebay) == 1
        second.ready()
        assert servers(forebay) == 2
        third.send(query("select 3"))
        until(lambda: any(int(r["maxwait_us"] or 0) > 600_000 for r in forebay.console("show pools")),
              within_s=5, what="it waits in vain: the reserve is used up")  # fmt: skip
        assert servers(forebay) == 2
        second.ask(query("commit"))
        third.ready()
        second.ask(query("begin"))
        assert servers(forebay) == 2
        second.ask(query("commit"))
        first.ask(query("commit"))
        until(lambda: servers(forebay) == 0, within_s=10, what="idle servers are closed")
    shown = next(row for row in forebay.console("show databases") if row["name"] == "app")
    assert shown["reserve_pool_size"] == "1"
    assert len(forebay.events("reserve_taken")) == 1


@pytest.mark.parametrize("is_round", [True, False])
@pytest.mark.variants("uring-1", "epoll-1")
def test_idle_servers_are_used_in_turn_where_that_is_wanted(
    start: Start, server: Postgres, variant: Variant, is_round: bool
) -> None:
    """Behind a load balancer all servers are to be used alike; otherwise the fewest."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 3, "server_round_robin": is_round}}))
    wires = [forebay.target.wire() for _ in range(3)]
    for wire in wires:
        wire.ask(query("begin"))
    for wire in wires:
        wire.ask(query("commit"))
    served = [wires[0].value("select pg_backend_pid()") for _ in range(6)]
    assert len(set(served)) == (3 if is_round else 1)
    for wire in wires:
        wire.close()


@pytest.mark.parametrize("moment", ["idle", "in a transaction"])
def test_a_marked_server_takes_its_session_along_where_that_is_wanted(
    start: Start, server: Postgres, variant: Variant, moment: str
) -> None:
    """After a failover a session that lasts for days would stay with the old server."""
    pool = {"pool_mode": "session", "server_fast_close": True}
    forebay = start(configuration(server, variant, databases={"app": pool, "slow": {"pool_mode": "session"}}))
    with forebay.target.wire() as wire, forebay.target.at(dbname="slow").wire() as slow:
        for one in (wire, slow):
            assert one.value("select 1") == "1"
        if moment != "idle":
            wire.ask(query("begin"))
        forebay.console("reconnect")
        if moment != "idle":
            assert wire.value("select 2") == "2"
            wire.ask(query("commit"))
        assert [frame.fields["C"] for frame in wire.rest() if frame.tag == "E"] == ["57P01"]
        assert slow.value("select 3") == "3", "without it a session keeps its server"
