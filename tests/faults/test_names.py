"""Servers behind a name: its addresses change, it is not there, or nobody answers. Row 19 of the fault matrix."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Start
from tests.faults.test_hosts import black_hole
from tests.harness.deadline import until
from tests.harness.names import Names
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.toxi import Toxi
from tests.harness.wire import cancel, query, startup

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

FIRST, SECOND, NOBODY = "127.0.0.2", "127.0.0.3", "127.0.0.4"


def behind(server: Postgres, variant: Variant, port: int) -> dict[str, Any]:
    """A configuration whose database is behind a name."""
    hurried = {"server_connect_timeout": "2s", "server_backoff_max": "500ms"}
    databases = {"app": {"endpoints": [f"db.test:{port}"], "pool_size": 6, **hurried}}
    return configuration(server, variant, databases=databases, dns={"max_ttl": "1s", "nxdomain_ttl": "1s"})


def used(forebay: Forebay) -> Counter[str | None]:
    """How many servers of the pool are at which address."""
    shown = [one for one in forebay.console("show servers") if one["state"] not in ("login", "reading", "listening")]
    return Counter(one["addr"] for one in shown)


@contextlib.contextmanager
def asked_again(names: Names) -> Any:
    """What the block has set up has been met by two lookups at its end."""
    yield
    before = names.asked["db.test"]
    until(lambda: names.asked["db.test"] >= before + 2, within_s=15, what="the name is looked up again")


def test_addresses_of_a_name(start: Start, server: Postgres, variant: Variant, tmp_path: Path) -> None:
    """Each clause is a way to lose a pool to the name server."""
    with Names(tmp_path) as names, Toxi(server.port, host=FIRST) as first, Toxi(server.port, first.port, SECOND):
        names.answers["db.test"] = [FIRST]
        forebay = start(behind(server, variant, first.port), under=names.command)
        with contextlib.ExitStack() as stack:

            def hold(count: int) -> float:
                began = time.monotonic()
                for _ in range(count):
                    stack.enter_context(forebay.target.wire()).ask(query("begin"))
                return time.monotonic() - began

            hold(2)
            assert set(used(forebay)) == {FIRST}
            (host,) = forebay.console("show dns_hosts")
            assert (host["hostname"], host["addrs"]) == ("db.test", FIRST)
            (counted,) = [one["items"] for one in forebay.console("show lists") if one["list"] == "dns_names"]
            assert counted == "1"

            with asked_again(names):
                names.fails.set()
            hold(1)
            assert set(used(forebay)) == {FIRST}, "the last good addresses are kept"
            del names.answers["db.test"]
            with asked_again(names):
                names.fails.clear()
            hold(1)
            assert set(used(forebay)) == {FIRST}, "also when the name has none any more"
            names.is_silent.set()
            until(
                lambda: any(
                    one["list"] == "dns_queries" and one["items"] != "0" for one in forebay.console("show lists")
                ),
                within_s=10,
                what="a lookup is under way",
            )
            assert hold(2) < 1, "a lookup that takes long holds nobody up"
        names.answers["db.test"] = [SECOND]
        names.is_silent.clear()
        with forebay.target.wire() as working:
            working.ask(query("begin"))
            until(lambda: forebay.events("host_readdressed"), within_s=10, what="the change is noticed")
            until(lambda: used(forebay)[FIRST] <= 1, within_s=5, what="what is idle at the old address is closed")
            assert working.value("select 'goes on'") == "goes on"
        until(lambda: not used(forebay)[FIRST], within_s=5, what="the last one is closed when it comes free")
        with forebay.target.wire() as client:
            assert client.value("select 1") == "1"
            assert set(used(forebay)) == {SECOND}
        until(lambda: forebay.events("host_readdressed"), within_s=5, what="it is told")


def test_addresses_of_a_family_that_nobody_answers_for_are_kept(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path
) -> None:
    """Asked for both families, the system's resolver is content with one: servers that have the other would be lost."""
    with Names(tmp_path) as names, Toxi(server.port, host=FIRST) as first:
        names.answers["db.test"] = [FIRST, "::1"]
        forebay = start(behind(server, variant, first.port), under=names.command)

        def addresses() -> set[str]:
            (host,) = forebay.console("show dns_hosts")
            return set((host["addrs"] or "").split(","))

        with forebay.target.wire() as client:
            assert client.value("select 1") == "1"
        assert addresses() == {FIRST, "::1"}
        with asked_again(names):
            names.fails_at_v6.set()
        assert addresses() == {FIRST, "::1"}
        names.answers["db.test"] = [FIRST]
        names.fails_at_v6.clear()
        until(lambda: addresses() == {FIRST}, within_s=30, what="the name has no such address any more")


def test_several_addresses_are_used_in_turn_and_a_cancel_goes_to_the_one_in_use(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path
) -> None:
    """A cancel by name would reach another server, and stop nothing."""
    with Names(tmp_path) as names, Toxi(server.port, host=FIRST) as first, Toxi(server.port, first.port, SECOND):
        names.answers["db.test"] = [FIRST, SECOND]
        forebay = start(behind(server, variant, first.port), under=names.command)
        with contextlib.ExitStack() as stack:
            wires = [stack.enter_context(forebay.target.wire()) for _ in range(4)]
            for wire in wires:
                wire.ask(query("begin"))
            assert set(used(forebay)) == {FIRST, SECOND}
            names.answers["db.test"] = [NOBODY]
            until(lambda: forebay.events("host_readdressed"), within_s=10, what="the change is noticed")
            for wire in wires:
                wire.send(query("select pg_sleep(60)"))
            asleep = "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active'"
            admin = stack.enter_context(server.target.at(user="postgres").wire())
            until(lambda: admin.value(asleep) == "4", within_s=5, what="all are at work")
            for wire in wires:
                with forebay.target.dial() as canceller:
                    canceller.send(cancel(*wire.key))
                (error,) = [frame.fields["C"] for frame in wire.ready() if frame.tag == "E"]
                assert error == "57014"


def test_an_address_that_is_silent_leaves_time_for_the_next(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path
) -> None:
    """A server on several networks, one of which swallows everything: each opening gets through within its limit."""
    with Names(tmp_path) as names, Toxi(server.port, host=SECOND) as alive, black_hole(FIRST, alive.port):
        names.answers["db.test"] = [FIRST, SECOND]
        forebay = start(behind(server, variant, alive.port), under=names.command)
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(forebay.target.wire()).ask(query("begin"))
            # A worker may have begun another one before the first that came free was lent to it.
            assert set(used(forebay)) == {SECOND}
            assert used(forebay)[SECOND] >= 4
        assert forebay.events("server_open_failed") == []


def test_a_name_that_is_not_there_costs_its_own_clients_alone(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path
) -> None:
    """They are told why; and served as soon as there is one."""
    with Names(tmp_path) as names:
        sections = behind(server, variant, server.port)
        sections["databases.other"] = {"endpoints": [f"127.0.0.1:{server.port}"], "dbname": "app"}
        forebay = start(sections, under=names.command)
        with forebay.target.dial() as client, forebay.target.at(dbname="other").wire() as other:
            client.send(startup(user="app", database="app"))
            assert other.value("select 1") == "1"
            (error,) = [frame.fields for frame in client.rest() if frame.tag == "E"]
            assert "name not resolved" in error["D"], error
        names.answers["db.test"] = ["127.0.0.1"]
        with forebay.target.wire() as client:
            assert client.value("select 1") == "1"


def test_a_peer_is_found_by_its_name_and_again_elsewhere(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path
) -> None:
    """Pods come back with other addresses: a cancel request for one follows its name."""
    key = (0x11_02_00_22, b"abc\x42")
    with Names(tmp_path) as names, contextlib.ExitStack() as stack:
        first = stack.enter_context(socket.create_server((FIRST, 0)))
        second = stack.enter_context(socket.create_server((SECOND, first.getsockname()[1])))
        sections = configuration(server, variant, listen={"peer_id": 1}, dns={"max_ttl": "1s", "nxdomain_ttl": "1s"})
        sections["peers.2"] = {"endpoint": f"pooler.test:{first.getsockname()[1]}"}
        forebay = start(sections, under=names.command)
        with forebay.target.dial() as early:
            early.send(cancel(*key))
            assert early.ends(), "a name that is not there holds nobody up"
        for address, listener in ((FIRST, first), (SECOND, second)):
            names.answers["pooler.test"] = [address]
            listener.settimeout(0.2)

            def arrives() -> bool:
                with forebay.target.dial() as client:
                    client.send(cancel(*key))
                    try:
                        passed, _ = listener.accept()  # noqa: B023  (called here)
                    except TimeoutError:
                        return False
                    with passed:
                        assert passed.recv(1024) == cancel(key[0], b"abc\x41")
                return True

            until(arrives, within_s=10, what=f"it is passed on to {address}")
