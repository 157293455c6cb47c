"""Forebays that agree on who is primary through a real etcd, before a real primary and its standbys."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.conftest import Pair
from tests.clusters.test_failover import promote
from tests.harness import etcd, pooler, postgres
from tests.harness.deadline import until
from tests.harness.etcd import Etcd
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.standby import caught_up
from tests.harness.toxi import Toxi

pytestmark = pytest.mark.timeout(400)
VARIANT = Variant("epoll", 1)
TTL_S = 3


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Etcd]:
    """An etcd of the test's own."""
    with etcd.running(tmp_path) as server:
        yield server


class Fleet:
    """Nodes before a pair, each with its own way to etcd."""

    def __init__(self, pair: Pair, store: Etcd, folder: Path, stack: contextlib.ExitStack) -> None:
        self.pair, self.store, self.folder, self.stack = pair, store, folder, stack
        self.ways: dict[str, Toxi] = {}

    def sections(self, name: str) -> dict[str, Any]:
        """A node's configuration."""
        database = {"endpoints": [endpoint(one) for one in self.pair], "topology": "poll", "poll_user": "app",
                    "server_check_delay": "0s"}  # fmt: skip
        fleet = {"name": "test", "node": name, "etcd": f"etcd://127.0.0.1:{self.ways[name].port}"}
        return configuration(
            self.pair[0], VARIANT, databases={"app": database}, fleet={**fleet, "lease_ttl": f"{TTL_S}s"}
        )

    def begin(self, name: str) -> Forebay:
        """Starts a node."""
        self.ways[name] = self.stack.enter_context(Toxi(self.store.port))
        return self.stack.enter_context(pooler.running(self.folder / name, self.sections(name), VARIANT))

    def cut_off(self, node: Forebay, name: str) -> None:
        """It reaches etcd no more; returns when it says so."""
        self.ways[name].holds_replies.set()
        self.ways[name].holds_requests.set()
        until(lambda: node.events("fleet_away"), within_s=30, what=f"{name} says that etcd is away")

    def heal(self, name: str) -> None:
        """It reaches it again."""
        self.ways[name].holds_replies.clear()
        self.ways[name].holds_requests.clear()
        self.ways[name].cut()

    def record(self) -> dict[str, Any]:
        """What the fleet has written down of the only system."""
        below = {"key": etcd.encoded("/forebay/test/primaries/"), "range_end": etcd.encoded("/forebay/test/primaries0")}
        found = self.store.call("kv/range", below)["kvs"]
        assert len(found) == 1
        return dict(etcd.decoded(found[0]["value"]))


@pytest.fixture
def fleet(pair: Pair, store: Etcd, tmp_path: Path) -> Iterator[Fleet]:
    """No node runs yet."""
    with contextlib.ExitStack() as stack:
        yield Fleet(pair, store, tmp_path, stack)


def endpoint(server: Postgres) -> str:
    """As configurations name it."""
    return f"127.0.0.1:{server.port}"


def roles(node: Forebay) -> list[str | None]:
    """Of the pair, by a node's account."""
    return [row["role"] for row in node.console("show endpoints")]


def are(node: Forebay, *expected: str) -> None:
    """Waits until these are the roles."""
    until(lambda: roles(node) == list(expected), within_s=30, what=f"the servers are {expected}")


def write(node: Forebay, key: int) -> None:
    """One row, through a node."""
    with node.target.connect(user="app", autocommit=True) as client:
        client.execute("insert into ledger values (%s, 1)", (key,))


def keys(server: Postgres) -> set[int]:
    """What is in a server's ledger."""
    with server.target.connect(user="postgres", dbname="app", autocommit=True) as asked:
        return {key for (key,) in asked.execute("select key from ledger")}


def test_all_nodes_go_to_the_new_primary_and_write_down_which_it_is(fleet: Fleet) -> None:
    """And a node that starts later knows of it, though all that it can reach is the old one."""
    primary, standby = fleet.pair
    a, b = fleet.begin("a"), fleet.begin("b")
    for number, node in enumerate((a, b)):
        are(node, "primary", "replica")
        write(node, number)
    assert fleet.record() == {"timeline": 1, "endpoint": endpoint(primary)}
    held = lambda: {row["node"]: row["holds"] for row in a.console("show fleet")}  # noqa: E731
    both = {"a": endpoint(primary), "b": endpoint(primary)}
    until(lambda: held() == both, within_s=30, what="both have told what they hold")
    caught_up(primary, standby)

    # The old primary is left as it is: it goes on taking writes, if anybody sends it some.
    promote(standby)
    for number, node in enumerate((a, b)):
        are(node, "deposed", "primary")
        write(node, 10 + number)
    assert fleet.record() == {"timeline": 2, "endpoint": endpoint(standby)}
    assert keys(primary) == {0, 1}

    standby.kill()
    c = fleet.begin("c")
    are(c, "deposed", "down")
    assert keys(primary) == {0, 1}


def test_who_is_cut_off_goes_to_no_other_primary(fleet: Fleet) -> None:
    """Else it goes where the others will not, and what it was told was written is lost: two primaries, both served."""
    primary, standby = fleet.pair
    a, b = fleet.begin("a"), fleet.begin("b")
    are(a, "primary", "replica")
    are(b, "primary", "replica")
    fleet.cut_off(b, "b")
    # It goes on where it was, also when its lease has ended.
    until(lambda: {row["node"] for row in a.console("show fleet")} == {"a"}, within_s=30, what="b's lease has ended")
    write(b, 1)
    assert keys(primary) == {1}
    caught_up(primary, standby)

    promote(standby)
    are(a, "deposed", "primary")
    write(a, 2)
    are(b, "deposed", "unnamed")
    said = [row["reason"] for row in b.console("show endpoints") if row["role"] == "unnamed"]
    assert said == ["can write, and the fleet has not agreed that it may"]
    waiting = threading.Thread(target=write, args=(b, 3), daemon=True)
    waiting.start()
    until(lambda: b.total("forebay_pool_waiters") == 1, within_s=30, what="its request waits")
    assert keys(standby) == {1, 2}
    fleet.heal("b")
    waiting.join(30)
    are(b, "deposed", "primary")
    assert keys(standby) == {1, 2, 3}
    assert keys(primary) == {1}


def test_who_was_stopped_goes_nowhere_else_before_it_is_there_again(fleet: Fleet) -> None:
    """It wakes to a world in which its lease has ended: what it sees of servers is no leave to write to them."""
    _primary, standby = fleet.pair
    a, b = fleet.begin("a"), fleet.begin("b")
    are(a, "primary", "replica")
    are(b, "primary", "replica")
    b.send_signal(signal.SIGSTOP)
    try:
        promote(standby)
        # As long as its lease holds the others wait for it: it might still write to the old one.
        are(a, "deposed", "primary")
        write(a, 1)
        fleet.ways["b"].holds_requests.set()
    finally:
        b.send_signal(signal.SIGCONT)
    are(b, "deposed", "unnamed")
    fleet.heal("b")
    are(b, "deposed", "primary")
    write(b, 2)
    assert keys(standby) == {1, 2}


def test_without_etcd_a_new_node_writes_to_nobody(fleet: Fleet) -> None:
    """What it can reach may be a primary of yesterday."""
    fleet.store.stop()
    a = fleet.begin("a")
    are(a, "unnamed", "replica")
    fleet.store.start()
    are(a, "primary", "replica")
    write(a, 1)
    # Alone it decides as it would without a fleet.
    fleet.store.stop()
    until(lambda: a.events("fleet_away"), within_s=30, what="it says that etcd is away")
    promote(fleet.pair[1])
    are(a, "deposed", "primary")
    write(a, 2)
    fleet.store.start()
    until(lambda: fleet.record()["timeline"] == 2, within_s=30, what="it writes down what it did")
    write(a, 3)


def test_a_name_that_is_taken_waits(fleet: Fleet) -> None:
    """Two nodes of one name would take each other's servers for their own."""
    a = fleet.begin("a")
    are(a, "primary", "replica")
    fleet.ways["b"] = fleet.stack.enter_context(Toxi(fleet.store.port))
    sections = fleet.sections("b")
    sections["fleet"]["node"] = "a"
    second = fleet.stack.enter_context(pooler.running(fleet.folder / "second", sections, VARIANT))
    until(lambda: second.events("fleet_node_taken"), within_s=30, what="it says that the name is taken")
    are(second, "unnamed", "replica")
    a.stop()
    are(second, "primary", "replica")


def test_an_upgrade_goes_on_as_the_same_node(fleet: Fleet) -> None:
    """Else writes wait for as long as a lease takes to end, at each upgrade."""
    fleet.ways["a"] = fleet.stack.enter_context(Toxi(fleet.store.port))
    sections = fleet.sections("a")
    sections["listen"]["port"] = postgres.free_port()
    a = fleet.stack.enter_context(pooler.running(fleet.folder / "a", sections, VARIANT))
    are(a, "primary", "replica")
    with a.target.connect(user="app", autocommit=True) as client:
        client.execute("insert into ledger values (1, 1)")
        a.upgrade()
        client.execute("insert into ledger values (2, 1)")
    are(a, "primary", "replica")
    assert not a.events("fleet_node_taken")
    assert [row["state"] for row in a.console("show fleet")] == ["this"]
    write(a, 3)
    assert keys(fleet.pair[0]) == {1, 2, 3}
