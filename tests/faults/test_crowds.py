"""Row 12: who connects and says nothing, or next to nothing. All of them together, and each address, may be so many."""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import time
from collections.abc import Iterator

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import PASSWORD, Postgres
from tests.harness.target import Target
from tests.harness.wire import startup

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

# What a machine that others use as well may add to a p99: the tests' own clients need its processors too.
NOISE_S = 0.7
# A quarter of `limits.max_client_conn`, which is 10,000 by default.
OWING_MAX = 2500
# Descriptors of forebay's own, and of clients that are in the tests all the while.
OWN_FILES = 100
HALF = startup(user="scram_user", database="app")
EARLY = {"defer_accept": False}
# Longer than a test takes: who goes is turned away, and has not run out of time.
PATIENT = {"client_login_timeout": "200s"}


@pytest.fixture
def many_files() -> Iterator[int]:
    """As many descriptors as this process may have; how many those are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def crowd() -> Iterator[list[socket.socket]]:
    """Sockets that are closed at the end."""
    sockets: list[socket.socket] = []
    try:
        yield sockets
    finally:
        for one in sockets:
            one.close()


def connect(forebay: Forebay, source: str) -> socket.socket:
    """Says nothing."""
    return socket.create_connection(("127.0.0.1", forebay.port), timeout=20, source_address=(source, 0))


def p99(target: Target, *, rounds: int = 3) -> tuple[float, float]:
    """Of statements of a session that is there, and of logins with a statement each, in seconds: of the best round, as
    other programs use the machine too."""
    statements, logins = zip(*(p99_once(target, 100) for _ in range(rounds)), strict=True)
    return min(statements), min(logins)


def p99_once(target: Target, count: int) -> tuple[float, float]:
    """The same of one round."""
    statements, logins = [], []
    with target.connect(autocommit=True) as stays:
        for number in range(count):
            began = time.monotonic()
            assert stays.execute(f"select {number}").fetchone() == (number,)
            statements.append(time.monotonic() - began)
            began = time.monotonic()
            with target.connect(autocommit=True) as fresh:
                assert fresh.execute("select 'in'").fetchone() == ("in",)
            logins.append(time.monotonic() - began)
    return sorted(statements)[count * 99 // 100], sorted(logins)[count * 99 // 100]


def gauge(forebay: Forebay, name: str) -> int:
    """A metric without labels."""
    (line,) = [line for line in forebay.metrics().splitlines() if line.startswith(f"{name} ")]
    return int(line.split()[1])


def is_over(one: socket.socket) -> bool:
    """Whether the other side has closed, or said something."""
    one.setblocking(False)
    try:
        one.recv(100)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    return True


@pytest.mark.timeout(240)
def test_ten_thousand_silent_connections_hold_a_quarter_of_the_places(
    start: Start, server: Postgres, variant: Variant, many_files: int
) -> None:
    """And a crowd that goes on coming is in nobody's way: the one that has been silent for longest goes."""
    count = 10_000
    assert many_files > count + OWN_FILES, f"hard limit of open files: {many_files}"
    auth, listen = {"type": "scram-sha-256"}, {"backlog": 4096}
    forebay = start(configuration(server, variant, auth=auth, tcp=EARLY, listen=listen, limits=PATIENT))
    good = forebay.target.at(user="scram_user", password=PASSWORD.format("scram_user"))
    calm = p99(good)
    with crowd() as sockets:
        for number in range(count):
            sockets.append(connect(forebay, "127.0.0.2"))
            if number % 5 == 0:
                sockets[-1].sendall(HALF[:9])
        turned_away = "forebay_logins_turned_away_total"
        until(lambda: gauge(forebay, turned_away) >= count - OWING_MAX, within_s=60, what="the rest is turned away")
        assert gauge(forebay, "forebay_clients_arriving") <= OWING_MAX
        assert forebay.files() <= OWING_MAX + OWN_FILES
        busy = p99(good)
        assert sum(not is_over(one) for one in sockets) <= OWING_MAX
        # Those that came last are there: who is served in a few turns is never turned away.
        assert not any(is_over(one) for one in sockets[-OWING_MAX // 2 :])
        assert forebay.rss_kb() < 200_000
    print(f"{variant}: p99 of statements and logins {calm} s, beside the crowd {busy} s")
    for quiet, loud in zip(calm, busy, strict=True):
        assert loud < quiet * 1.1 + NOISE_S
    told = forebay.events("logins_turned_away")
    assert sum(int(line["count"]) for line in told) > 0
    assert {line["source"] for line in told} == {"127.0.0.2"}
    assert {line["limit"] for line in told} == {OWING_MAX}
    assert gauge(forebay, turned_away) >= sum(int(line["count"]) for line in told)
    until(lambda: gauge(forebay, "forebay_clients_arriving") == 0, within_s=30, what="all of them are gone")


def test_a_startup_of_a_byte_a_second_ends_at_the_time_for_a_login(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """Each byte shows that somebody is there, and puts nothing off."""
    limits = {"client_login_timeout": "4s", "logins_max": 100}
    forebay = start(configuration(server, variant, limits=limits, tcp=EARLY))
    calm = p99(forebay.target)
    with crowd() as sockets, selectors.DefaultSelector() as selector:
        ends: dict[int, float] = {}
        for number in range(300):
            sockets.append(connect(forebay, "127.0.0.2"))
            selector.register(sockets[-1], selectors.EVENT_READ, number)
        began = time.monotonic()
        busy = p99(forebay.target, rounds=1)
        for turn in range(40):
            for number, one in enumerate(sockets):
                if number not in ends:
                    with contextlib.suppress(OSError):
                        one.sendall(HALF[turn : turn + 1])
            for key, _ in selector.select(timeout=0.5):
                with contextlib.suppress(OSError):
                    key.fileobj.recv(4096)  # type: ignore[union-attr]
                ends[key.data] = time.monotonic() - began
                selector.unregister(key.fileobj)
            if len(ends) == len(sockets):
                break
            until(lambda t=turn: time.monotonic() - began > (t + 1) * 0.5, within_s=5, what="half a second")
        assert len(ends) == len(sockets)
        assert max(ends.values()) < 4 + 4 * NOISE_S
    print(f"{variant}: p99 {calm} s, beside them {busy} s; last end {max(ends.values())} s")
    for quiet, loud in zip(calm, busy, strict=True):
        assert loud < quiet * 1.1 + NOISE_S
    assert gauge(forebay, "forebay_logins_turned_away_total") >= 200


def test_an_address_may_owe_so_many_logins(start: Start, server: Postgres, variant: Variant) -> None:
    """That of the client, where a load balancer says it; whose own, with the header still to come, are free."""
    limits = {**PATIENT, "address_logins_max": 20}
    forebay = start(configuration(server, variant, limits=limits, tcp=EARLY, listen={"proxy_from": ["127.0.0.0/8"]}))

    def header(address: str) -> bytes:
        return f"PROXY TCP4 {address} 127.0.0.1 4711 6432\r\n".encode()

    def logs_in(address: str) -> bool:
        with forebay.target.dial() as wire:
            wire.send(header(address) + startup(user="app", database="app"))
            return bool(wire.read_until("Z"))

    with crowd() as sockets:
        for _ in range(15):
            sockets.append(connect(forebay, "127.0.0.2"))
            sockets[-1].sendall(header("192.0.2.7"))
        beside = list(sockets)
        for number in range(300):
            sockets.append(connect(forebay, "127.0.0.2"))
            sockets[-1].sendall(header("192.0.2.66") + HALF[: number % 20])
        loud = sockets[len(beside) :]
        # One worker may have none of its own to turn away when another has brought one too many.
        most = 20 + variant.workers
        until(lambda: sum(not is_over(one) for one in loud) <= most, within_s=30, what="the others are turned away")
        assert logs_in("192.0.2.66"), "who is served has never been there for longest"
        assert logs_in("192.0.2.7")
        assert not any(is_over(one) for one in beside)
        headless = [connect(forebay, "127.0.0.3") for _ in range(60)]
        sockets.extend(headless)
        until(lambda: gauge(forebay, "forebay_clients_arriving") >= 75, within_s=30, what="all of them are accepted")
        assert not any(is_over(one) for one in headless)
    until(lambda: forebay.events("logins_turned_away"), within_s=10, what="it is told")
    told = forebay.events("logins_turned_away")
    assert {(line["source"], line["limit"]) for line in told} == {("192.0.2.66", 20)}


def test_programs_of_the_same_host_are_not_counted_by_address(start: Start, server: Postgres, variant: Variant) -> None:
    """A proxy beside forebay stands for all its clients; all together they have a limit still."""
    limits = {**PATIENT, "address_logins_max": 5, "logins_max": 120}
    forebay = start(configuration(server, variant, limits=limits, tcp=EARLY))
    with crowd() as sockets:
        for _ in range(100):
            sockets.append(connect(forebay, "127.0.0.2"))
        until(lambda: gauge(forebay, "forebay_clients_arriving") == 100, within_s=30, what="all are accepted")
        assert not any(is_over(one) for one in sockets)
        # The few of another address stay, though they are older than most: it is the many that are turned away.
        few = [connect(forebay, "127.0.0.3") for _ in range(10)]
        sockets.extend(few)
        many = [connect(forebay, "127.0.0.2") for _ in range(100)]
        sockets.extend(many)
        until(lambda: gauge(forebay, "forebay_logins_turned_away_total") >= 90, within_s=30, what="the rest goes")
        assert not any(is_over(one) for one in few)
        assert gauge(forebay, "forebay_clients_arriving") <= 120
