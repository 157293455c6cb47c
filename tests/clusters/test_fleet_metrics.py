"""What two nodes of a fleet tell on /metrics, over a real etcd that goes away, and when one of them is killed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import etcd, pooler
from tests.harness.deadline import until
from tests.harness.etcd import Etcd
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres

pytestmark = pytest.mark.timeout(300)
VARIANT = Variant("epoll", 1)
TTL_S = 3
BUDGET = 10
WITHIN_S = 60
PREFIX = "forebay_fleet_"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Etcd]:
    """An etcd of the test's own."""
    with etcd.running(tmp_path) as server:
        yield server


def sections(server: Postgres, standby: Postgres, store: Etcd, node: str) -> dict[str, Any]:
    """A node's configuration."""
    endpoints = [f"127.0.0.1:{one.port}" for one in (server, standby)]
    database = {"endpoints": endpoints, "topology": "poll", "poll_user": "app", "server_budget": BUDGET}
    fleet = {"name": "test", "node": node, "etcd": f"etcd://{store.host}", "lease_ttl": f"{TTL_S}s"}
    return configuration(server, VARIANT, databases={"app": database}, fleet=fleet)


def told(node: Forebay) -> dict[str, float]:
    """The fleet's figures, with their labels, without the common beginning."""
    lines = re.findall(rf"^{PREFIX}(\S+) (\S+)$", node.metrics(), re.MULTILINE)
    return {name: float(value) for name, value in lines}


def shows(node: Forebay, **expected: float) -> dict[str, float]:
    """Waits for figures; `name__value` is `name` with that value of its last label."""

    def matches(found: dict[str, float], name: str, value: float) -> bool:
        name, _, label = name.partition("__")
        return any(
            figure == value for key, figure in found.items()
            if key.partition("{")[0] == name and (not label or key.endswith(f'="{label}"}}'))
        )  # fmt: skip

    def all_of_them() -> dict[str, float] | None:
        found = told(node)
        return found if all(matches(found, name, value) for name, value in expected.items()) else None

    try:
        found = until(all_of_them, within_s=WITHIN_S, what=f"it tells {expected}")
    except AssertionError as late:
        raise AssertionError(f"{late}: {told(node)}") from None
    assert found is not None
    return found


def test_an_operator_sees_who_is_there_who_is_primary_and_who_has_the_servers(
    server: Postgres, standby: Postgres, store: Etcd, tmp_path: Path
) -> None:
    """A node that is cut off goes on serving with a part of a budget: without figures nobody knows."""
    with contextlib.ExitStack() as stack:
        nodes = {
            name: stack.enter_context(
                pooler.running(tmp_path / name, sections(server, standby, store, name), VARIANT)
            )
            for name in "ab"
        }  # fmt: skip
        a, b = nodes["a"], nodes["b"]
        for node in (a, b):
            found = shows(node, member=1, nodes__here=2, nodes__absent=0, budget_servers=BUDGET, lent_servers__this=5,
                          lent_servers__others=5, lent_servers__absent=0, kept_servers=5)  # fmt: skip
            primary = f'primary_timeline{{database="app",endpoint="127.0.0.1:{server.port}"}}'
            until(lambda node=node, key=primary: told(node).get(key) == 1, within_s=WITHIN_S, what="it tells of it")
            assert 0 < found["lease_seconds_left"] <= TTL_S * 2 / 3
            assert found["seconds_since_look"] < WITHIN_S
            assert (found["registrations_total"], found["primaries_refused_total"]) == (1, 0)
        assert told(a)["primaries_written_total"] + told(b)["primaries_written_total"] == 1
        with a.target.connect(user="app", autocommit=True) as client:
            client.execute("select 1")
            shows(a, open_servers=1)
        changes = 'budget_changes_total{database="app"}'
        assert told(a)[changes] > 0 < told(b)[changes]

        b.kill()
        found = shows(a, nodes__here=1, nodes__absent=1, lent_servers__this=5, lent_servers__absent=5)
        failures = found["failures_total"]
        store.stop()
        found = shows(a, member=0, lease_seconds_left=0, nodes__here=1)
        assert found["failures_total"] > failures
        age_s = found["seconds_since_look"]
        until(lambda: told(a)["seconds_since_look"] > age_s, within_s=WITHIN_S, what="what it tells grows old")
        store.start()
        shows(a, member=1, registrations_total=1)
        for lease in store.call("lease/leases", {})["leases"]:
            store.call("lease/revoke", {"ID": lease["ID"]})
        shows(a, member=1, registrations_total=2)
