"""What `forebay-pgbouncer` tells the system of its sockets: where it listens, and how connections are kept."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator

import psycopg
import pytest

from tests.harness import account, drop_in
from tests.harness.drop_in import DropIn, Make
from tests.harness.postgres import Postgres
from tests.harness.processes import sockets_of

# TCP_USER_TIMEOUT of Linux, which the module does not name everywhere.
TCP_USER_TIMEOUT = 18
ONE_WORKER = {"FOREBAY_ENGINE_WORKERS": "1"}

needs_root = pytest.mark.skipif(not account.is_root(), reason="needs root, to look at another process's sockets")


@pytest.fixture
def make(server: Postgres) -> Iterator[Make]:
    with drop_in.maker(server) as make:
        yield make


def listens_at(running: DropIn) -> set[str]:
    """The addresses of its listeners for clients, but the Unix socket's."""
    assert running.process is not None
    with sockets_of(running.process.pid) as sockets:
        own = [one for one in sockets if one.family != socket.AF_UNIX]
        listening = [one for one in own if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)]
        return {one.getsockname()[0] for one in listening if one.getsockname()[1] == running.port}


@needs_root
@pytest.mark.parametrize(
    ("written", "addresses"),
    [("127.0.0.2,127.0.0.3", {"127.0.0.2", "127.0.0.3"}), ("", set()), ("*", {"0.0.0.0", "::"})],
    ids=["list", "none", "all"],
)
def test_it_listens_where_it_is_told_and_nowhere_else(written: str, addresses: set[str], make: Make) -> None:
    """A port that is open on an address too many is an invitation."""
    # Whoever can be reached from elsewhere asks for a proof.
    running = make(listen_addr=written, auth_type="scram-sha-256")
    running.start(environment=ONE_WORKER)
    assert listens_at(running) == addresses
    local = running.target.at(host=str(running.folder), password=drop_in.PASSWORD.format("app"))
    with local.connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    if "127.0.0.2" in addresses:
        with local.at(host="127.0.0.3").connect() as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="refused"):
            local.at(host="127.0.0.1").connect()


def test_an_abstract_unix_socket_is_reached_by_its_name(make: Make, server: Postgres) -> None:
    """Without a file there is nothing left of it when the process is killed, and nothing to remove."""
    name = f"@forebay-{server.port}"
    running = make(unix_socket_dir=name)
    running.start()
    psql = [server.programs.path("psql"), "-X", "-w", "-At", "-c", "select 1", f"host={name} port={running.port}"]

    def served() -> str:
        # libpq knows such names, which psycopg would have resolved.
        command = [*psql[:-1], f"{psql[-1]} user=app dbname=app"]
        environment = server.programs.environment
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, env=environment).stdout

    assert served() == "1\n"
    second = make(unix_socket_dir=name)
    second.port = running.port
    second.write(listen_addr="")
    done = second.run()
    assert (done.returncode, "cannot listen on @forebay-" in done.stderr) == (1, True), done.stderr
    assert running.process is not None
    running.process.kill()
    running.process.wait()
    running.start()
    assert served() == "1\n"


def options(one: socket.socket) -> dict[str, int]:
    """What the system does with a connection, by the names of the settings."""
    kept = {
        "tcp_keepalive": (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        "tcp_keepidle": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        "tcp_keepintvl": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
        "tcp_keepcnt": (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
        "tcp_user_timeout": (socket.IPPROTO_TCP, TCP_USER_TIMEOUT),
    }
    found = {name: one.getsockopt(*option) for name, option in kept.items()}
    # The system doubles what it is told.
    sizes = {one.getsockopt(socket.SOL_SOCKET, size) // 2 for size in (socket.SO_RCVBUF, socket.SO_SNDBUF)}
    return {**found, "tcp_socket_buffer": sizes.pop() if len(sizes) == 1 else -1}


@needs_root
@pytest.mark.parametrize("is_kept", [True, False])
def test_connections_of_both_sides_are_kept_as_is_set(is_kept: bool, make: Make, server: Postgres) -> None:
    """Through a firewall that forgets silent connections after a minute, these decide what survives."""
    wanted = {
        "tcp_keepalive": 1, "tcp_keepidle": 71, "tcp_keepintvl": 17, "tcp_keepcnt": 7, "tcp_user_timeout": 31_000,
        "tcp_socket_buffer": 20_480,
    }  # fmt: skip
    if not is_kept:
        wanted["tcp_keepalive"] = 0
    running = make(**{name: str(value) for name, value in wanted.items()})
    # What of a server's times is forebay's own is left to the settings.
    running.start(environment={**ONE_WORKER, "FOREBAY_TCP_SERVER_DEAD_AFTER": "0s"})
    assert running.process is not None
    with running.target.wire() as wire:
        assert wire.value("select 1") == "1"
        found = {}
        with sockets_of(running.process.pid) as sockets:
            for one in sockets:
                if one.family != socket.AF_INET:
                    continue
                with contextlib.suppress(OSError):
                    if one.getsockname()[1] == running.port:
                        found["client", one.getpeername()] = options(one)
                    elif one.getpeername()[1] == server.port:
                        found["server", one.getsockname()] = options(one)
    assert {side for side, _ in found} == {"client", "server"}
    assert set(map(str, found.values())) == {str(wanted)}, found


@needs_root
@pytest.mark.parametrize("written", ["0", "1"])
def test_who_has_said_nothing_is_accepted_later_where_that_is_wanted(written: str, make: Make) -> None:
    """A wake-up less for each client; and a scanner that says nothing costs the process nothing."""
    running = make(tcp_defer_accept=written)
    running.start(environment=ONE_WORKER)
    assert running.process is not None
    with sockets_of(running.process.pid) as sockets:
        listening = [one for one in sockets if one.family == socket.AF_INET and one.getsockname()[1] == running.port]
        waits_s = {one.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) for one in listening}
    assert len(waits_s) == 1
    assert (waits_s.pop() > 0) == (written == "1")
