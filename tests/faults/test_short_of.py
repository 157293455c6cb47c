"""Short of an answer or of memory: rows 14, 18, 28, 34 and 38 of the fault matrix."""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.conftest import Start
from tests.harness import account
from tests.harness.certificates import Pair
from tests.harness.deadline import until
from tests.harness.pooler import Variant, configuration
from tests.harness.postgres import PASSWORD, Postgres
from tests.harness.toxi import Toxi
from tests.harness.wire import SSL_REQUEST, Gone, Wire, cancel, query

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

CGROUPS = Path("/sys/fs/cgroup/memory")
MEMORY_MAX = 128 << 20

QUERY = "select rolname::text, rolpassword from pg_authid where rolname = $1 and rolcanlogin"


def test_a_lookup_that_gets_no_answer_fails_its_own_login_only(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """Row 38: the server that knows the secrets hangs. Whoever was let in lately still is, all others at once."""
    with Toxi(server.port) as toxi:
        lookups = {"endpoints": [f"127.0.0.1:{toxi.port}"], "pool_size": 1}
        sections = configuration(
            server, variant, databases={"app": {}, "lookups": lookups},
            auth={"type": "scram-sha-256", "user": "lookup", "dbname": "lookups", "ask_timeout": "1s",
                  "cache_for": "5m", "query": QUERY},
            **{"users.lookup": {"secret": {"env": "SECRET_lookup"}}, "users.scram_user": {"_absent": True},
               "users.other": {"_absent": True}},
        )  # fmt: skip
        forebay = start(sections)
        kept = forebay.target.at(user="scram_user", password=PASSWORD.format("scram_user"))
        listed = forebay.target.at(user="app", password=PASSWORD.format("app"))
        # Each worker keeps its own.
        for _ in range(8):
            kept.connect().close()
        toxi.holds_replies.set()
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError):
            forebay.target.at(user="other", password=PASSWORD.format("other")).connect().close()
        assert 0.9 <= time.monotonic() - began < 3
        for target in (listed, kept):
            began = time.monotonic()
            with target.connect() as connection:
                assert connection.execute("select 1").fetchone() == (1,)
            assert time.monotonic() - began < 1
        toxi.holds_replies.clear()


def test_a_rotated_password_of_a_server_costs_no_connection(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path
) -> None:
    """Row 18: servers that are open serve on, the next ones log in with the new password, after a reload."""
    path = tmp_path / "secret"
    with server.target.at(user="postgres").wire() as admin:
        admin.rows("create role rotating login password 'first'")
        try:
            path.write_text("first")
            path.chmod(0o600)
            databases = {"app": {"pool_size": 2, "user": "rotating", "secret": {"file": str(path)}}}
            hba = server.folder / "data" / "pg_hba.conf"
            before = hba.read_text()
            hba.write_text("host all rotating all scram-sha-256\n" + before)
            admin.rows("select pg_reload_conf()")
            forebay = start(configuration(server, variant, databases=databases))
            with forebay.target.wire() as one, forebay.target.wire() as two:
                pid = one.value("select pg_backend_pid()")
                one.ask(query("begin"))
                admin.rows("alter role rotating password 'second'")
                path.write_text("second")
                assert forebay.reload()["event"] == "reload"
                assert one.value("select pg_backend_pid()") == pid, "its server serves on"
                # The other needs a second server.
                assert two.value("select current_user") == "rotating"
                one.ask(query("commit"))
            assert forebay.events("server_open_failed") == []
        finally:
            hba.write_text(before)
            admin.rows("select pg_reload_conf()")
            admin.rows("drop owned by rotating")
            admin.rows("drop role rotating")


def test_large_rows_pass_over_tls_in_bounded_memory(
    start: Start, server: Postgres, variant: Variant, tls: tuple[Pair, ssl.SSLContext]
) -> None:
    """Row 14: rows of 40 MB, encrypted on both sides; what is sealed is no more than what is on its way."""
    listen = {"tls.certificate": tls[0].certificate, "tls.key": tls[0].key}
    databases = {"app": {"tls.mode": "require", "server_local_socket": False}}
    forebay = start(configuration(server, variant, listen=listen, databases=databases, engine={"buffers": 128}))
    with forebay.target.dial() as wire:
        wire.send(SSL_REQUEST)
        assert wire.take(1) == b"S"
        wire.start_tls(tls[1])
        wire.log_in(user="app", database="app")
        most = []
        for rows in (1, 1, 4):
            wire.send(query(f"select repeat('x', 40000000) from generate_series(1, {rows})"))
            peak, tail, buffer = 0, b"", bytearray(1 << 20)
            while not tail.endswith(b"Z\0\0\0\x05I"):
                got = wire.socket.recv_into(buffer)
                assert got
                tail = (tail + buffer[max(0, got - 6) : got])[-6:]
                peak = max(peak, forebay.rss_kb()) if got < 4096 or not peak else peak
            most.append(max(peak, forebay.rss_kb()))
        assert most[2] - most[1] < 4096


@contextlib.contextmanager
def group(name: str) -> Iterator[Path]:
    """A cgroup with a limit."""
    path = CGROUPS / name
    path.mkdir()
    try:
        (path / "memory.limit_in_bytes").write_text(str(MEMORY_MAX))
        yield path
    finally:
        path.rmdir()


@pytest.mark.skipif(not account.is_root() or not CGROUPS.is_dir(), reason="needs root and cgroups of version 1")
def test_thousands_of_clients_fit_into_little_memory(start: Start, server: Postgres, variant: Variant) -> None:
    """Row 28: 5,000 clients in 128 MiB, and nobody is killed for it."""
    count = 5000
    limits = {"max_client_conn": count}
    with group(f"forebay-{os.getpid()}-{variant}") as path:
        forebay = start(configuration(server, variant, limits=limits, listen={"backlog": 4096}), files_max=12_000)
        (path / "cgroup.procs").write_text(str(forebay.pid))
        wires: list[Wire] = []
        try:
            for _ in range(count):
                wires.append(forebay.target.wire())
            with pytest.raises(AssertionError, match="53300"):
                forebay.target.wire()
            for wire in wires:
                wire.send(query("select repeat('x', 2000)"))
            for wire in wires:
                wire.ready()
        finally:
            for wire in wires:
                wire.close()
        until(lambda: len(forebay.console("show clients")) == 1, within_s=20, what="all have left")
        assert "oom_kill 0" in (path / "memory.oom_control").read_text()
        forebay.stop()


def test_a_storm_of_cancels_ends_only_what_was_meant(start: Start, server: Postgres, variant: Variant) -> None:
    """Row 34: thousands with keys of nobody, and many of one client's own: a server is asked one at a time."""
    forebay = start(configuration(server, variant, limits={"cancel_misses_max": 0}))
    stop = threading.Event()

    def forge() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError, Gone), forebay.target.dial() as wire:
                wire.send(cancel(1 << 28, os.urandom(4)))
                wire.rest()

    with forebay.target.wire() as meant, forebay.target.wire() as other:
        threads = [threading.Thread(target=forge) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            other.send(query("select pg_sleep(1.5), 'whole'"))
            meant.send(query("select pg_sleep(60)"))
            until(lambda: forebay.servers_active() == 2, within_s=5, what="both run")
            for _ in range(50):
                with forebay.target.dial() as wire:
                    wire.send(cancel(*meant.key))
            assert [frame.fields["C"] for frame in meant.ready() if frame.tag == "E"] == ["57014"]
            assert meant.value("select 'next'") == "next"
            assert [frame.tag for frame in other.ready()] == ["T", "D", "C", "Z"]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    counts = dict(line.rsplit(" ", 1) for line in forebay.metrics().splitlines() if line.startswith("forebay_cancels"))
    assert int(counts["forebay_cancels_total"]) > 200
    assert 1 <= int(counts["forebay_cancels_forwarded_total"]) <= 3
