"""A server on this host is reached through its Unix socket, once that is proved to lead to the same server."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.harness import postgres
from tests.harness.certificates import Authority
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.target import Target

IS_LOCAL = "select inet_client_addr() is null"
STARTED = "select pg_postmaster_start_time()::text"
BOTH = pytest.mark.variants("uring-1", "epoll-1")


@pytest.fixture(scope="module")
def usual(authority: Authority) -> Iterator[Postgres]:
    """A server with its socket where PostgreSQL itself puts it."""
    with postgres.running(18, authority, unix_socket_directories="/tmp") as running:
        yield running


def address(server: Postgres) -> Path:
    """Of the socket that forebay finds."""
    return Path("/tmp") / f".s.PGSQL.{server.port}"


def is_local(target: Target) -> bool:
    """Whether a client's server is reached through a Unix socket."""
    with target.wire() as wire:
        return wire.value(IS_LOCAL) == "t"


def causes(forebay: Forebay) -> list[str]:
    """Why the socket is not used."""
    return [event["cause"] for event in forebay.events("local_socket_not_used")]


@BOTH
def test_a_server_on_this_host_is_reached_through_its_socket(start: Start, usual: Postgres, variant: Variant) -> None:
    """All of a pool's servers, soon after the first of them; also with a pool of one, and by any loopback name."""
    for host, size in (("127.0.0.1", 4), ("localhost", 1)):
        databases = {"app": {"endpoints": [f"{host}:{usual.port}"], "pool_size": size}}
        forebay = start(configuration(usual, variant, databases=databases))
        until(lambda: is_local(forebay.target), within_s=10, what="a server is reached through the socket")  # noqa: B023
        with contextlib.ExitStack() as stack:
            wires = [stack.enter_context(forebay.target.wire()) for _ in range(size)]
            for wire in wires:
                wire.rows("begin")
            until(lambda: len(forebay.events("local_socket_used")) == 1, within_s=5, what="it is logged, once")  # noqa: B023
            for wire in wires:
                wire.rows("commit")
        until(
            lambda: {row["addr"] for row in forebay.console("show servers") if row["database"] == "app"} == {"unix"},  # noqa: B023
            within_s=10, what="those over TCP have left",
        )  # fmt: skip
        assert not causes(forebay)
        forebay.stop()


@BOTH
def test_a_cancel_goes_the_same_way(start: Start, usual: Postgres, variant: Variant) -> None:
    """It reaches the statement."""
    forebay = start(configuration(usual, variant))
    until(lambda: is_local(forebay.target), within_s=10, what="a server is reached through the socket")
    with forebay.target.connect(autocommit=True) as connection:
        timer = threading.Timer(0.3, connection.cancel)
        timer.start()
        with pytest.raises(Exception, match="canceling statement due to user request"):
            connection.execute("select pg_sleep(20)")


@BOTH
def test_it_can_be_switched_off(start: Start, usual: Postgres, variant: Variant) -> None:
    """And switched on by a reload, for servers opened from then on."""
    sections = configuration(usual, variant, server_defaults={"server_local_socket": False})
    forebay = start(sections)
    assert not any(is_local(forebay.target) for _ in range(5))
    assert {row["addr"] for row in forebay.console("show servers")} == {"127.0.0.1"}
    assert not forebay.events("local_socket_used")


@BOTH
def test_another_server_at_the_socket_is_no_servers_of_ours(
    start: Start, authority: Authority, usual: Postgres, variant: Variant
) -> None:
    """The same user, the same port, another cluster: its socket is found, and nobody is ever served by it."""
    with postgres.running(18, authority) as ours:
        stranger = dataclasses.replace(usual)
        path = address(ours)
        path.symlink_to(address(stranger))
        try:
            forebay = start(configuration(ours, variant))
            with ours.target.wire() as direct:
                started = direct.value(STARTED)
            with forebay.target.wire() as wire:
                for _ in range(20):
                    assert wire.value(STARTED) == started
            until(lambda: causes(forebay) == ["another server answers there"], within_s=5, what="it is logged")
            assert not is_local(forebay.target)
        finally:
            path.unlink()


@BOTH
def test_a_socket_of_another_user_gets_nothing(start: Start, server: Postgres, variant: Variant) -> None:
    """Anybody may make a socket in /tmp: whoever does not own the port hears no byte of a login."""
    path, heard = address(server), []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o777)
        listener.listen()

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        heard.append(client.recv(100))

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            forebay = start(configuration(server, variant))
            assert not is_local(forebay.target)
            until(lambda: len(causes(forebay)) == 1, within_s=5, what="it is logged")
            assert not any(is_local(forebay.target) for _ in range(5))
            if os.geteuid() == 0:
                # PostgreSQL runs as another user there.
                assert "another user listens there than at the port" in causes(forebay)[0]
                until(lambda: heard == [b""], within_s=5, what="it hears nothing")
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            path.unlink()


@BOTH
def test_a_server_that_lets_nobody_in_there_is_reached_over_tcp(
    start: Start, authority: Authority, variant: Variant
) -> None:
    """As with `local … peer` in pg_hba.conf; clients notice nothing."""
    with postgres.running(18, authority, unix_socket_directories="/tmp") as strict:
        hba = strict.folder / "data" / "pg_hba.conf"
        hba.write_text(hba.read_text().replace("local   all all                    trust", "local all all reject"))
        with strict.target.connect(user="postgres", autocommit=True) as admin:
            admin.execute("select pg_reload_conf()")
        forebay = start(configuration(strict, variant, databases={"app": {"pool_size": 1}}))
        with forebay.target.wire() as wire:

            def is_refused() -> bool:
                # The socket is tried when the server that was reached over TCP has gone and another one is wanted.
                assert wire.value(IS_LOCAL) == "f"
                return len(causes(forebay)) == 1

            until(is_refused, within_s=10, what="it is logged")
        assert causes(forebay)[0].startswith("28000")
        with forebay.target.wire() as wire:
            assert wire.value(IS_LOCAL) == "f"


@BOTH
def test_after_a_restart_it_is_proved_again(start: Start, authority: Authority, variant: Variant) -> None:
    """The server may be another one by then."""
    with postgres.running(18, authority, unix_socket_directories="/tmp") as restarted:
        forebay = start(configuration(restarted, variant))
        until(lambda: is_local(forebay.target), within_s=10, what="a server is reached through the socket")
        restarted.stop()
        restarted.start()

        def is_local_again() -> bool:
            with contextlib.suppress(AssertionError, OSError):
                return is_local(forebay.target)
            return False

        until(is_local_again, within_s=20, what="a server is reached through the socket again")
        until(lambda: len(forebay.events("local_socket_used")) == 2, within_s=5, what="it is logged twice")
