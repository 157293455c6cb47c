"""`forebay-pgbouncer` and what is around it: what sockets are told, names, syslog, and certificates for servers."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.harness import account, drop_in, island
from tests.harness.certificates import Authority
from tests.harness.deadline import until
from tests.harness.drop_in import DropIn, Make
from tests.harness.names import Names
from tests.harness.postgres import PASSWORD, Postgres
from tests.harness.target import Target
from tests.harness.toxi import Toxi
from tests.harness.wire import query, startup

BOTH = pytest.mark.parametrize("io", ["uring", "epoll"])
ONE_WORKER = {"FOREBAY_ENGINE_WORKERS": "1"}
# What a machine with other work adds.
LATE_S = 3.0


@pytest.fixture
def make(server: Postgres) -> Iterator[Make]:
    with drop_in.maker(server) as make:
        yield make


def told(target: Target) -> list[str]:
    """The errors of a login, and of a query if it comes to that."""
    with target.dial() as wire:
        wire.send(startup(user=target.user, database=target.dbname) + query("select 1"))
        frames = [wire.read()]
        while frames[-1].tag not in "EC":
            frames.append(wire.read())
        return [frame.fields["M"] for frame in frames if frame.tag == "E"]


def test_the_queue_of_a_listener_is_as_long_as_is_set(make: Make) -> None:
    """A burst of clients longer than the queue is turned away by the system, in silence."""
    running = make(listen_backlog="77")
    running.start()
    listed = subprocess.run(
        ["ss", "-Hltn", f"sport = :{running.port}"], capture_output=True, text=True, check=True, timeout=10
    ).stdout
    assert {line.split()[2] for line in listed.splitlines()} == {"77"}, listed


@pytest.mark.skipif(not island.is_possible(), reason="needs root and iproute2")
@BOTH
def test_who_acknowledges_nothing_is_gone_after_tcp_user_timeout(io: str, make: Make, server: Postgres) -> None:
    """A client and a server behind a cable that was cut; without the setting, it takes the system minutes to tell."""
    with island.island() as apart, Toxi(server.port, listener=apart.listener()) as far:
        databases = {"far": f"host={apart.inside} port={far.port} dbname=app"}
        running = make(
            databases, listen_addr=f"127.0.0.1,{apart.shore}", auth_type="plain",
            tcp_keepalive="0", tcp_user_timeout="1000",
        )  # fmt: skip
        running.start(environment={"FOREBAY_ENGINE_IO": io})
        outside = Target("outside", apart.shore, running.port, password=PASSWORD.format("app"))
        near = outside.at(host="127.0.0.1")
        with apart.within(outside.wire) as swallowed, near.at(dbname="far").wire() as client:
            client.ask(query("begin"))
            swallowed.ask(query("begin"))
            swallowed.send(query("select pg_sleep(0.5), repeat('x', 1000000)"))
            until(lambda: held(running) == 2, within_s=5, what="both have a server")
            apart.cut()
            began = time.monotonic()
            client.send(query("select 1"))
            error = next(frame.fields for frame in client.ready() if frame.tag == "E")
            assert (error["S"], error["C"]) == ("ERROR", "57P01")
            until(lambda: held(running) == 0, within_s=10, what="the server of the client that is gone is free")
            assert time.monotonic() - began < 2 + LATE_S


def held(running: DropIn) -> int:
    """Servers that clients hold."""
    return sum(int(row["sv_active"] or 0) for row in running.console("show pools"))


@BOTH
def test_a_server_that_does_not_let_in_is_given_up_after_server_connect_timeout(io: str, make: Make) -> None:
    """It takes the connection and says nothing: who waits is told, and the log has PgBouncer's line."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        databases = {"deaf": f"host=127.0.0.1 port={deaf.getsockname()[1]} dbname=app"}
        running = make(databases, server_connect_timeout="1", server_login_retry="0.1")
        running.start(environment={"FOREBAY_ENGINE_IO": io})
        began = time.monotonic()
        (error,) = told(running.target.at(dbname="deaf"))
        assert 1 <= time.monotonic() - began < 2 + LATE_S
        assert error
        running.says("closing because: connect timeout (age=1s)")


def test_suspend_waits_no_longer_than_suspend_timeout_for_who_takes_nothing(make: Make) -> None:
    running = make(suspend_timeout="1", tcp_socket_buffer="4096")
    running.start()
    with running.target.dial() as slow:
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.log_in(user="app", database="app")
        slow.send(query("select repeat('x', 1000) from generate_series(1, 100000)"))
        slow.read_until("T")
        unread: list[int] = []

        def takes_no_more() -> bool:
            unread.append(len(slow.socket.recv(1 << 20, socket.MSG_PEEK)))
            return len(unread) > 20 and len(set(unread[-20:])) == 1

        until(takes_no_more, within_s=10, what="all buffers on the way to it are full")
        began = time.monotonic()
        running.console("suspend")
        assert 1 <= time.monotonic() - began < 1 + LATE_S
        assert [row for row in running.console("show clients") if row["database"] == "app"] == []
        running.console("resume")


def test_names_are_looked_up_again_after_their_times(make: Make, server: Postgres, tmp_path: Path) -> None:
    """dns_max_ttl for one that is there, dns_nxdomain_ttl for one that is not; the other setting is a minute long."""
    with Names(tmp_path) as names, contextlib.ExitStack() as stack:
        names.answers["db.test"] = ["127.0.0.1"]
        databases = {name: f"host={name}.test port={server.port} dbname=app" for name in ("db", "late")}
        for settings in (
            {"dns_max_ttl": "1", "dns_nxdomain_ttl": "60"},
            {"dns_max_ttl": "60", "dns_nxdomain_ttl": "1"},
        ):
            running = make(databases, server_login_retry="0.1", query_wait_timeout="0.3", **settings)
            running.under = names.command
            running.start(environment=ONE_WORKER)
            stack.callback(running.close)
            db, late = running.target.at(dbname="db"), running.target.at(dbname="late")
            assert told(db) == []
            assert told(late) != []
            before = names.asked.copy()
            short, long = ("db", "late") if settings["dns_max_ttl"] == "1" else ("late", "db")

            def is_asked() -> bool:
                told(late)  # noqa: B023  (called here)
                return names.asked[f"{short}.test"] >= before[f"{short}.test"] + 2  # noqa: B023  (called here)

            until(is_asked, within_s=10, what=f"{short} is looked up again")
            assert names.asked[f"{long}.test"] == before[f"{long}.test"]
            running.close()


@contextlib.contextmanager
def system_log(path: Path) -> Iterator[list[str]]:
    """A syslog daemon at a socket of its own: what it was told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(path))
        account.give(path)
        lines: list[str] = []

        def listen() -> None:
            while line := daemon.recv(65536):
                lines.append(line.decode())

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield lines
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(path))
        thread.join(5)
    path.unlink()


def test_the_log_goes_to_syslog_as_it_is_set(make: Make) -> None:
    """Its lines have the name, the facility and the level; and a daemon that is away costs lines, not the service."""
    running = make(syslog="1", syslog_ident="bouncy", syslog_facility="local3", stats_period="0.2")
    place = running.folder / "syslog"
    redirected = f"import forebay.observe.log as log; log.Syslog.__init__.__defaults__ = ({str(place)!r},); "
    command = [redirected + part if part == drop_in.PROGRAM else part for part in running.command()]
    running.command = lambda *_: command  # type: ignore[method-assign]
    running.start()
    running.says("stats: ")
    with system_log(place) as lines:
        assert running.process is not None
        until(lambda: any("stats: " in line for line in lines), within_s=10, what="it is told once it is there")
        with pytest.raises(psycopg.OperationalError, match="no such database"):
            running.target.at(dbname="nowhere").connect()
        until(lambda: any("pooler error" in line for line in lines), within_s=5, what="a warning")
        levels = {text: number for line in lines for number, text in re.findall(r"^<(\d+)>(bouncy\[\d+\]): ", line)}
        assert set(levels) == {f"bouncy[{running.process.pid}]"}, lines
        # local3 is 19; informational is 6, and a warning 4.
        wanted = {19 * 8 + 6: "stats: ", 19 * 8 + 4: "pooler error: no such database: nowhere"}
        for number, text in wanted.items():
            assert any(line.startswith(f"<{number}>") and text in line for line in lines), (number, lines)
    with system_log(place) as later:
        until(lambda: any("stats: " in line for line in later), within_s=10, what="a daemon that was started again")


def test_certificates_towards_servers(make: Make, server: Postgres, authority: Authority, tmp_path: Path) -> None:
    """Ours, which PostgreSQL asks for, and the authority that must have signed the server's."""
    mine = authority.issue("forebay-as-client", "forebay.example", common_name="cert_user")
    foreign = Authority(tmp_path, "foreign")
    other = foreign.issue("forebay-as-other", "forebay.example", common_name="cert_user")
    databases = {"certain": f"host=localhost port={server.port} dbname=app user=cert_user"}

    def outcome(**settings: str) -> list[str]:
        running = make(databases, server_tls_sslmode="verify-full", query_wait_timeout="3", **settings)
        for name, value in settings.items():
            copy = running.folder / name
            copy.touch(mode=0o600)
            copy.write_bytes(Path(value).read_bytes())
            account.give(copy)
            running.write(**{name: str(copy)})
        running.start(environment=ONE_WORKER)
        try:
            return told(running.target.at(dbname="certain"))
        finally:
            running.close()

    ca = str(authority.certificate)
    pair = {"server_tls_cert_file": str(mine.certificate), "server_tls_key_file": str(mine.key)}
    assert outcome(server_tls_ca_file=ca, **pair) == []
    assert "certificate" in outcome(server_tls_ca_file=ca)[0]
    foreigners = {"server_tls_cert_file": str(other.certificate), "server_tls_key_file": str(other.key)}
    assert outcome(server_tls_ca_file=ca, **foreigners) != []
    assert outcome(server_tls_ca_file=str(foreign.certificate), **pair) != []
