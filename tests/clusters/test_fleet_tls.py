"""A fleet whose etcd speaks TLS and demands certificates of its clients; and what is told where one is wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness import etcd, pooler
from tests.harness.certificates import Authority, Pair
from tests.harness.deadline import until
from tests.harness.etcd import Etcd, Secured
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres, free_port

pytestmark = pytest.mark.timeout(300)
VARIANT = Variant("epoll", 1)
BUDGET = 6
WITHIN_S = 60
PASSWORD = "hunter2"


@dataclass(frozen=True, slots=True)
class World:
    """An etcd with certificates of `ours`; `others` is an authority that it knows nothing of."""

    store: Etcd
    ours: Authority
    others: Authority
    client: Pair
    folder: Path
    server: Postgres
    standby: Postgres

    def address(self, *, ca: Authority | None = None, client: Pair | None = None, host: str = "127.0.0.1") -> str:
        """As [fleet] has it."""
        files = f"&certificate={client.certificate}&key={client.key}" if client else ""
        return f"etcd+https://{host}:{self.store.port}?ca={(ca or self.ours).certificate}{files}"

    def sections(self, node: str, address: str, **fleet: Any) -> dict[str, Any]:
        """A node's configuration."""
        endpoints = [f"127.0.0.1:{one.port}" for one in (self.server, self.standby)]
        database = {"endpoints": endpoints, "topology": "poll", "poll_user": "app", "server_budget": BUDGET}
        fleet = {"name": "test", "node": node, "etcd": address, "lease_ttl": "3s", **fleet}
        listen = {"port": free_port(), "address": ["127.0.0.1"]}
        return configuration(self.server, VARIANT, databases={"app": database}, fleet=fleet, listen=listen)

    @contextlib.contextmanager
    def node(self, node: str, address: str, **fleet: Any) -> Iterator[Forebay]:
        """One that runs."""
        with pooler.running(self.folder / node, self.sections(node, address, **fleet), VARIANT,
                            environment={"ETCD_PASSWORD": PASSWORD}) as running:  # fmt: skip
            yield running


@pytest.fixture
def world(server: Postgres, standby: Postgres, tmp_path: Path) -> Iterator[World]:
    """No node runs yet."""
    ours, others = Authority(tmp_path, "ours"), Authority(tmp_path, "others")
    secured = Secured(ours.issue("etcd", "127.0.0.1"), ours, ours.issue("tests", "tests"), ours)
    with etcd.running(tmp_path, secured) as store:
        yield World(store, ours, others, ours.issue("forebay", "forebay"), tmp_path, server, standby)


def are(node: Forebay, *expected: str) -> None:
    """Waits until these are the roles of the servers."""
    until(lambda: [row["role"] for row in node.console("show endpoints")] == [*expected], within_s=WITHIN_S,
          what=f"the servers are {expected}")  # fmt: skip


def parts(node: Forebay) -> dict[str, int]:
    """What each node was lent."""
    return {str(row["node"]): int(row["lent"] or 0) for row in node.console("show budgets")}


def test_a_fleet_meets_in_an_etcd_that_demands_certificates(world: World) -> None:
    """Keys of a fleet say who may write: nobody else may be able to change them."""
    address = world.address(client=world.client)
    with world.node("a", address) as a, world.node("b", address) as b:
        for node in (a, b):
            are(node, "primary", "replica")
            until(lambda node=node: parts(node) == {"a": 3, "b": 3}, within_s=WITHIN_S, what="the budget is divided")
            with node.target.connect(user="app", autocommit=True) as client:
                assert client.execute("select pg_is_in_recovery()").fetchone() == (False,)
        # Its watch goes over TLS as well: it hears of a change at once, and etcd comes back to it.
        world.store.stop()
        until(lambda: a.events("fleet_away"), within_s=WITHIN_S, what="a says that etcd is away")
        world.store.start()
        until(lambda: a.events("fleet_back"), within_s=WITHIN_S, what="a says that it is back")
        # Certificates that were renewed are read by the process that takes over; the old ones are worth nothing.
        renewed = world.ours.issue("forebay", "forebay")
        assert renewed.certificate == world.client.certificate
        a.upgrade()
        are(a, "primary", "replica")
        assert {row["state"] for row in a.console("show fleet")} == {"this", "here"}
        assert a.events("fleet_failed") == b.events("fleet_failed") == []


def test_certificates_that_were_renewed_are_read_at_a_reload(world: World) -> None:
    """They end after months: whoever renews them reloads, as for those of [listen]. Their authority may be another."""
    store, ours, theirs = world.store, world.client, world.others
    address = world.address(client=ours)
    sections = world.sections("a", address)
    app = sections['databases."app"']
    told = address.replace("?", "/shop?")
    sections['databases."shop"'] = {**app, "topology": "etcd", "topology_source": told, "server_budget": 0}
    for name, one in (("one", world.server), ("two", world.standby)):
        url = f"postgres://127.0.0.1:{one.port}/postgres"
        store.put(f"/service/shop/members/{name}", {"conn_url": url, "state": "running"})
    store.put("/service/shop/leader", "one")
    with pooler.running(world.folder / "a", sections, VARIANT) as node:
        are(node, *["primary", "replica"] * 2)
        store.stop()
        store.secured = Secured(theirs.issue("etcd", "127.0.0.1"), theirs, theirs.issue("tests", "tests"), theirs)
        store.start()
        for event in ("fleet_away", "topology_source_away"):
            until(lambda event=event: node.events(event), within_s=WITHIN_S, what="etcd is another one to it")
        renewed = theirs.issue("renewed", "forebay")
        ours.certificate.write_bytes(renewed.certificate.read_bytes())
        world.ours.certificate.write_bytes(theirs.certificate.read_bytes())
        # The key is the old one still.
        refused = node.reload()
        assert refused["event"] == "reload_refused"
        assert 'of the option "certificate" holds nothing that can be used' in refused["because"]
        assert not node.events("fleet_back")
        ours.key.write_bytes(renewed.key.read_bytes())
        assert node.reload()["event"] == "reload"
        for event in ("fleet_back", "topology_source_back"):
            until(lambda event=event: node.events(event), within_s=WITHIN_S, what=f"there is a {event}")
        are(node, *["primary", "replica"] * 2)
        assert node.events("fleet_failed") == []


@pytest.mark.parametrize(
    ("case", "told", "hint"),
    [
        ("an authority that has not issued etcd's", "its certificate is not accepted: ", "with the option ca"),
        (
            "a name that is not etcd's",
            "its certificate is not accepted: Hostname mismatch",
            "the address that is asked",
        ),
        ("a certificate of another authority", "it does not accept our certificate", "certificate and key"),
        ("no certificate", "certificate", "certificate and key"),
        ("no TLS", "the connection failed", "write +https"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_told(world: World, case: str, told: str, hint: str) -> None:
    """Whoever sets TLS up meets all of these, at night as likely as not: one line of the log says what to change."""
    address = {
        "an authority that has not issued etcd's": world.address(ca=world.others, client=world.client),
        "a name that is not etcd's": world.address(client=world.client, host="localhost"),
        "a certificate of another authority": world.address(client=world.others.issue("theirs", "forebay")),
        "no certificate": world.address(),
        "no TLS": f"etcd://{world.store.host}",
    }[case]
    with world.node("a", address) as node:
        (away,) = until(lambda: node.events("fleet_away"), within_s=WITHIN_S, what="it says that etcd is away")
        print(away)
        assert told in away["error"]
        assert hint in away["hint"]
        assert [row["state"] for row in node.console("show fleet")] == ["cut off"]
        assert node.events("fleet_failed") == []


def test_a_login_beside_a_certificate(world: World) -> None:
    """etcd's gateway takes no certificate with a common name while it has users, which nobody would guess."""
    store, folder = world.store, "/forebay/test"
    store.call("auth/user/add", {"name": "root", "password": "root"})
    store.call("auth/user/grant", {"user": "root", "role": "root"})
    may = {"permType": "READWRITE", "key": etcd.encoded(f"{folder}/"), "range_end": etcd.encoded(f"{folder}0")}
    store.call("auth/role/add", {"name": "fleet"})
    store.call("auth/role/grant", {"name": "fleet", "perm": may})
    store.call("auth/user/add", {"name": "forebay", "password": PASSWORD})
    store.call("auth/user/grant", {"user": "forebay", "role": "fleet"})
    store.call("auth/enable", {})
    login = {"user": "forebay", "secret": {"env": "ETCD_PASSWORD"}}
    with world.node("a", world.address(client=world.client), **login) as node:
        are(node, "primary", "replica")
        until(lambda: parts(node) == {"a": BUDGET}, within_s=WITHIN_S, what="it has the budget")
    named = world.ours.issue("named", "forebay", common_name="forebay")
    wrong = (
        (world.address(client=named), login, "(it has a common name)", "without a common name (CN)"),
        (world.address(client=world.client), {}, "user name is empty", "set fleet.user and fleet.secret"),
        (world.address(client=world.client), {**login, "name": "other"}, "permission denied", "below /forebay/other/"),
    )
    for number, (address, more, told, hint) in enumerate(wrong):
        with world.node(f"wrong-{number}", address, **more) as node:
            (away,) = until(lambda node=node: node.events("fleet_away"), within_s=WITHIN_S, what="it says so")
            print(away)
            assert told in away["error"]
            assert hint in away["hint"]
            assert PASSWORD not in node.log_path.read_text()
