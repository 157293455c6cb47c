"""Online restart of connections with TLS, towards clients and servers: they move as any other."""

from __future__ import annotations

import contextlib
import ssl
import threading

import psycopg
import pytest

from tests.conftest import Start
from tests.harness.certificates import Authority, Pair
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres, free_port
from tests.harness.target import Target
from tests.harness.wire import SSL_REQUEST, Wire, query
from tests.scenarios.test_upgrade import KINDS

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

Tls = tuple[Pair, ssl.SSLContext]


@pytest.fixture
def forebay(server: Postgres, variant: Variant, start: Start, tls: Tls) -> Forebay:
    """One with TLS on both sides, that can be upgraded: its port is known beforehand."""
    pair, _ = tls
    listen = {
        "port": free_port(),
        "address": ["127.0.0.1"],
        "tls": {"certificate": pair.certificate, "key": pair.key, "mode": "prefer"},
    }
    defaults = {"tls.mode": "require"}
    sections = configuration(server, variant, listen=listen, databases={"app": {"pool_size": 12, **defaults}})
    return start(sections)


def contexts(authority: Authority) -> list[ssl.SSLContext]:
    """TLS 1.3, and 1.2 with each kind of record that it has."""
    made = []
    for ciphers in (None, "ECDHE+AESGCM", "ECDHE+CHACHA20"):
        context = ssl.create_default_context(cafile=str(authority.certificate))
        if ciphers:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(ciphers)
        made.append(context)
    return made


def log_in(wire: Wire, context: ssl.SSLContext) -> None:
    """A client with TLS."""
    wire.send(SSL_REQUEST)
    assert wire.take(1) == b"S"
    wire.start_tls(context)
    wire.log_in(user="app", database="app")


def shown(forebay: Forebay, what: str) -> dict[str, str]:
    """The TLS of each connection, by its number. A server that is being opened may not have its own yet."""
    rows = [row for row in forebay.console(f"show {what}") if row["database"] == "app" and row["state"] != "login"]
    return {str(row["ptr"]): str(row["tls"]) for row in rows}


def test_connections_with_tls_move_in_whatever_they_are_in_the_middle_of(
    forebay: Forebay, direct: Target, authority: Authority
) -> None:
    """Three times in a row, both versions, each cipher: nobody notices, and the console says of each what it said."""
    with direct.wire() as watcher:
        watcher.ask(query("create schema if not exists audit"))
    made = contexts(authority)
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(forebay.target.dial()) for _ in KINDS]
        for number, wire in enumerate(wires):
            log_in(wire, made[number % len(made)])
        go_on_over_upgrades(forebay, wires, made[0])


def go_on_over_upgrades(forebay: Forebay, wires: list[Wire], context: ssl.SSLContext) -> None:
    """Each does something of its own."""
    later = [kind(wire) for kind, wire in zip(KINDS, wires, strict=True)]
    clients, servers = shown(forebay, "clients"), shown(forebay, "servers")
    assert len(set(clients.values())) >= 3, clients
    assert all(words.startswith("TLSv1.") for words in [*clients.values(), *servers.values()])
    for _ in range(3):
        said = forebay.upgrade()
        assert f"{len(KINDS)} clients moved" in said, said
        assert "can't move" not in said, said
        assert shown(forebay, "clients") == clients
        # Those that clients held by then are the same; others may have been opened for their next transactions.
        after = shown(forebay, "servers")
        assert after.items() >= {key: words for key, words in servers.items() if key in after}.items()
        for goes_on in later:
            goes_on()
        with forebay.target.dial() as new:
            log_in(new, context)
            assert new.value("select 'new'") == "new"
        servers = shown(forebay, "servers")


def test_libpq_goes_on_in_its_transaction_and_can_cancel_over_three_upgrades(forebay: Forebay, direct: Target) -> None:
    """Its key is that of the first process, and goes over TLS too."""
    sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and usename = 'app'"
    with forebay.target.connect(sslmode="require") as client, direct.wire() as watcher:
        client.execute("create temp table mine (n int) on commit drop")
        for number in range(3):
            client.execute("insert into mine values (%s)", [number])
            forebay.upgrade()
            assert client.execute("select count(*) from mine").fetchone() == (number + 1,)
            client.execute("savepoint here")

            def cancel() -> None:
                until(lambda: watcher.value(sleeping) == "1", within_s=10, what="the query runs")
                client.cancel_safe()

            canceller = threading.Thread(target=cancel)
            canceller.start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                client.execute("select pg_sleep(30)")
            canceller.join()
            client.execute("rollback to savepoint here")
        # A server is kept for its transaction only, where its encryption is not what is asked for any more.
        encrypted = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
        forebay.path.write_text(forebay.path.read_text().replace('tls.mode = "require"', 'tls.mode = "disable"'))
        forebay.upgrade()
        assert client.execute(encrypted).fetchone() == (True,)
        client.commit()
        assert client.execute(encrypted).fetchone() == (False,)
        assert client.pgconn.ssl_in_use
