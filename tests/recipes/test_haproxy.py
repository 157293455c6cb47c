"""docs/howto/load-balancer.md: two forebays behind HAProxy, with the files of examples/haproxy, a host each."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from tests.harness import debian, hosts, island
from tests.harness.hosts import Host, Network, Program
from tests.harness.postgres import Postgres
from tests.harness.target import Target
from tests.recipes import fleet
from tests.recipes.fleet import (
    CLIENT,
    EXAMPLES,
    METRICS_PORT,
    Database,
    Forebay,
    Newcomers,
    eventually,
    on,
    stayer,
    stayers,
)

pytestmark = [
    pytest.mark.skipif(not island.is_possible(), reason="needs root and iproute2"),
    pytest.mark.timeout(300),
]

HAPROXY = "10.0.0.7"
CONFIGURATION = EXAMPLES / "haproxy/haproxy.cfg"
ADDRESSES = {1: "10.0.0.21", 2: "10.0.0.22"}
# In HAProxy's log, of a client that its server's being marked down ended before it was connected.
CUT_BY_MARK_DOWN = " D- "


@dataclass
class Recipe:
    """All that runs. target: where clients connect; client: from where."""

    network: Network
    one: Forebay
    two: Forebay
    haproxy: Program
    database: Database
    server: Postgres
    client: Host
    target: Target

    def newcomers(self) -> Newcomers:
        """Clients that come and go."""
        return Newcomers(self.client, self.target)

    def is_open(self) -> bool:
        """Whether HAProxy takes connections."""
        assert self.haproxy.process.poll() is None, self.haproxy.log()[-3000:]
        with contextlib.suppress(OSError):
            self.client.within(lambda: socket.create_connection((HAPROXY, fleet.PORT), timeout=5)).close()
            return True
        return False

    def said(self, words: str) -> int:
        """How often HAProxy's log has some words."""
        return self.haproxy.log().count(words)

    def has_both(self) -> bool:
        """Whether each gets clients: as many connect as would all go to one by chance once in a thousand times."""
        with stayers(10, self.client, self.target) as all_of_them:
            return bool(on(self.one, all_of_them)) and bool(on(self.two, all_of_them))


@pytest.fixture(scope="module")
def recipe(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipe]:
    """Made once; a test puts right what it has broken."""
    haproxy = debian.package("haproxy")
    folder = tmp_path_factory.mktemp("haproxy")
    with hosts.network(folder) as network, fleet.postgresql(network, server) as database:
        both = [
            Forebay(
                network, network.host(address), folder / f"forebay-{number}",
                EXAMPLES / f"haproxy/forebay-{number}.toml", f"{address}:{METRICS_PORT}",
            )
            for number, address in ADDRESSES.items()
        ]  # fmt: skip
        with contextlib.ExitStack() as stack:
            for each in both:
                each.start()
                stack.callback(each.stop, signal.SIGQUIT)
            at = network.host(HAPROXY)
            command = [haproxy.path("usr/sbin/haproxy"), "-db", "-f", str(CONFIGURATION)]
            running = network.start(at, "haproxy", command, environment=haproxy.environment)
            target = fleet.target_at(HAPROXY)
            made = Recipe(network, *both, running, database, server, network.host(CLIENT), target)
            eventually(made.is_open, "HAProxy listens")
            yield made
            assert running.process.poll() is None, running.log()[-3000:]


@pytest.fixture
def settled(recipe: Recipe) -> Recipe:
    """Both serve."""
    eventually(recipe.has_both, "both forebays get clients")
    return recipe


def test_clients_are_seen_by_their_own_addresses(settled: Recipe) -> None:
    """Limits, access rules and the log would be about the load balancer."""
    with stayers(10, settled.client, settled.target) as clients:
        seen = {**settled.one.clients(), **settled.two.clients()}
        assert {one.name: seen.get(one.name) for one in clients} == {one.name: CLIENT for one in clients}
        assert on(settled.one, clients)
        assert on(settled.two, clients)


def test_a_cancel_reaches_its_client_through_either(settled: Recipe) -> None:
    """The load balancer sends every other cancel to the wrong forebay, which passes it on to its peer."""
    both = (settled.one, settled.two)
    before = sum(each.total("forebay_cancels_passed_total") for each in both)
    for number in range(8):
        assert isinstance(cancelled(settled, number), psycopg.errors.QueryCanceled)
    assert sum(each.total("forebay_cancels_passed_total") for each in both) > before


def cancelled(recipe: Recipe, number: int) -> psycopg.Error | None:
    """What a client that sleeps hears when it is cancelled."""
    client = stayer(f"cancelled-{number}", recipe.client, recipe.target)
    outcome: list[psycopg.Error] = []

    def sleep() -> None:
        try:
            client.connection.execute("select pg_sleep(30)")
        except psycopg.Error as error:
            outcome.append(error)

    thread = threading.Thread(target=sleep)
    thread.start()
    asleep = "select 1 from pg_stat_activity where wait_event = 'PgSleep' and datname = 'shop'"
    with recipe.server.target.connect(user="postgres", autocommit=True) as admin:
        eventually(lambda: admin.execute(asleep).fetchone(), "it sleeps")
    # The connection of the request is made here, on the client's host, and not in the thread that waits.
    recipe.client.within(client.connection.cancel)
    thread.join(fleet.PATIENCE_S)
    client.rest()
    return outcome[0] if outcome else None


def test_a_drained_forebay_gets_nobody_and_loses_nobody(settled: Recipe) -> None:
    """Before work on a host; and DRAIN OFF brings it back."""
    one, two = settled.one, settled.two
    with stayers(6, settled.client, settled.target) as clients, settled.newcomers() as newcomers:
        stayed = on(one, clients)
        assert stayed
        before = settled.said("Server forebay/one is stopping")
        assert one.console("drain") == []
        assert (one.status("/readyz"), one.status("/readyz?unready=404"), one.status("/livez")) == (503, 404, 200)
        eventually(lambda: settled.said("Server forebay/one is stopping") > before, "HAProxy has noticed")
        with stayers(6, settled.client, settled.target) as later:
            assert [one.name for one in on(two, later)] == [one.name for one in later]
        for each in stayed:
            each.ask()
        assert one.console("drain off") == []
        assert one.status("/readyz") == 200
        eventually(settled.has_both, "it gets clients again")
        newcomers.more(10)
        for each in clients:
            each.ask()
    assert newcomers.failed == []


def test_a_stop_costs_newcomers_nothing_and_lets_transactions_end(settled: Recipe) -> None:
    """SIGTERM to one of them: limits.drain_notice is for the load balancer, limits.drain_timeout for its clients."""
    with stayers(6, settled.client, settled.target) as clients, settled.newcomers() as newcomers:
        in_block = on(settled.one, clients)[0]
        with in_block.connection.transaction():
            in_block.connection.execute("select 1")
            assert settled.one.program is not None
            process = settled.one.program.process
            process.send_signal(signal.SIGTERM)
            eventually(lambda: settled.one.status("/readyz") != 200, "it says that it drains")
            eventually(lambda: not accepts(settled.two.host, settled.one), "it has closed its door")
            # Still in its transaction, of which forebay waits for the end.
            assert in_block.connection.execute("select 1").fetchone() == (1,)
        assert process.wait(timeout=fleet.PATIENCE_S) == 0
        with pytest.raises(psycopg.OperationalError):
            in_block.connection.execute("select 1")
        newcomers.more(10)
        settled.one.start()
        eventually(settled.has_both, "it gets clients again")
    assert newcomers.failed == []


def accepts(host: Host, forebay: Forebay) -> bool:
    """Whether somebody on a host is let in at a forebay's door, if only to be reset: that is one listener, not all."""
    with contextlib.suppress(ConnectionRefusedError):
        with contextlib.suppress(ConnectionResetError):
            host.within(lambda: socket.create_connection((forebay.host.address, fleet.PORT), timeout=5)).close()
        return True
    return False


def test_a_killed_forebay_costs_its_own_clients_alone(settled: Recipe) -> None:
    """kill -9: the others go on, and whoever connects from then on is served."""
    with stayers(6, settled.client, settled.target) as clients, settled.newcomers() as newcomers:
        lost, kept = on(settled.one, clients), on(settled.two, clients)
        assert lost
        assert kept
        for each in clients:
            each.work()
        newcomers.more(5)
        cut_before = settled.said(CUT_BY_MARK_DOWN)
        settled.one.kill()
        # Until the kernel has closed its listener, who connects is let in and reset: HAProxy does not try that again.
        # With io_uring this is after the process has ended; 8 ms were seen.
        eventually(lambda: not accepts(settled.two.host, settled.one), "its door is closed")
        closed_at = time.monotonic()
        eventually(lambda: all(each.error for each in lost), "its clients know")
        newcomers.more(20)
        eventually(lambda: settled.said("Server forebay/one is DOWN"), "HAProxy has noticed")
        newcomers.more(20)
        settled.one.start()
        eventually(settled.has_both, "it gets clients again")
        assert {each.name: each.error for each in kept} == dict.fromkeys((each.name for each in kept), None)
    # Who came before may have been with the killed one. Who was just being connected to it when HAProxy marked it down
    # is ended by that: of those who come one by one, at most one.
    late = [why for began, why in newcomers.failed if began > closed_at]
    assert len(late) <= min(settled.said(CUT_BY_MARK_DOWN) - cut_before, 1), late


def test_an_upgrade_of_each_costs_nobody_anything(settled: Recipe) -> None:
    """`forebay upgrade` on one host after the other: connections stay, through the load balancer too."""
    with stayers(6, settled.client, settled.target) as clients, settled.newcomers() as newcomers:
        for each in clients:
            each.work()
        for forebay in (settled.one, settled.two):
            before = forebay.pid
            forebay.upgrade()
            assert forebay.pid != before
            eventually(lambda forebay=forebay: forebay.status("/readyz") == 200, "the new process is ready")
            newcomers.more(10)
        done = [each.done for each in clients]
        eventually(lambda: all(each.done > was for each, was in zip(clients, done, strict=True)), "all go on")
        assert [each.error for each in clients] == [None] * len(clients)
    assert newcomers.failed == []


def test_without_postgresql_clients_are_kept_and_newcomers_wait(settled: Recipe) -> None:
    """A failover of the database must not look like one of forebay's: nobody is cut, nobody is refused."""
    with stayers(4, settled.client, settled.target) as clients:
        settled.database.go()
        for each in clients:
            each.work()
        eventually(
            lambda: all(each.status("/readyz?unready=404") == 404 for each in (settled.one, settled.two)),
            "both say that they reach no server",
        )
        assert [each.status("/readyz?exclude=servers") for each in (settled.one, settled.two)] == [200, 200]
        eventually(lambda: settled.said("backend forebay has no server available"), "HAProxy has noticed")
        came: list[fleet.Stayer] = []
        coming = threading.Thread(target=lambda: came.append(stayer("newcomer", settled.client, settled.target)))
        coming.start()
        settled.database.come()
        coming.join(fleet.PATIENCE_S)
        assert [each.name for each in came] == ["newcomer"]
        came[0].ask()
        came[0].rest()
        eventually(lambda: settled.said("shop waiting/"), "its end is logged, and that it was let in to wait")
        # What was with a server when it was lost is told so, and the session goes on.
        for each in clients:
            assert not each.connection.closed
