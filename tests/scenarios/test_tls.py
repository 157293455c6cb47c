"""TLS, on both sides."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import psycopg
import pytest

from tests.conftest import Start
from tests.harness.certificates import Authority, Pair
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import PASSWORD, Postgres
from tests.harness.target import Target
from tests.harness.wire import SSL_REQUEST, query, startup

Tls = tuple[Pair, ssl.SSLContext]

pytestmark = pytest.mark.variants("uring-2", "epoll-1")


def listening(server: Postgres, variant: Variant, pair: Pair, **listen: Any) -> dict[str, Any]:
    """A configuration with TLS towards clients."""
    listen = {"tls.certificate": pair.certificate, "tls.key": pair.key, **listen}
    return configuration(server, variant, listen=listen, databases={"app": {"pool_size": 2}})


def encrypted(target: Target, **options: Any) -> bool:
    """Whether a libpq connection came about, and over TLS."""
    with target.connect(**options) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
        return connection.pgconn.ssl_in_use


def refused(target: Target, **options: Any) -> str:
    """The words of a refused connection."""
    with pytest.raises(psycopg.OperationalError) as raised:
        target.connect(**options).close()
    return str(raised.value)


def test_clients_with_and_without_tls(start: Start, server: Postgres, variant: Variant, tls: Tls) -> None:
    """mode = "prefer": as the client likes."""
    target = start(listening(server, variant, tls[0])).target
    assert encrypted(target, sslmode="require")
    assert not encrypted(target, sslmode="disable")


def test_a_client_verifies_the_certificate(
    start: Start, server: Postgres, variant: Variant, tls: Tls, authority: Authority
) -> None:
    """verify-full with the right authority passes, with another one fails."""
    target = start(listening(server, variant, tls[0])).target
    assert encrypted(target, sslmode="verify-full", sslrootcert=str(authority.certificate))
    assert "certificate" in refused(target, sslmode="verify-full", sslrootcert="/dev/null")


def test_direct_tls(start: Start, server: Postgres, variant: Variant, tls: Tls, authority: Authority) -> None:
    """sslnegotiation=direct: the handshake comes first, with ALPN."""
    target = start(listening(server, variant, tls[0])).target
    assert encrypted(target, sslmode="require", sslnegotiation="direct")


def test_direct_tls_needs_alpn(start: Start, server: Postgres, variant: Variant, tls: Tls) -> None:
    """Without it, what looks like a PostgreSQL client may be a browser under attack (ALPACA)."""
    target = start(listening(server, variant, tls[0])).target
    for protocols in (None, ["http/1.1"]):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if protocols:
            context.set_alpn_protocols(protocols)
        with target.dial() as wire:
            try:
                wire.start_tls(context)
                wire.send(startup(user="app", database="app"))
                frames = wire.rest()
            except (ssl.SSLError, ConnectionError):
                continue
            assert [frame.tag for frame in frames] in ([], ["E"])


def test_tls_can_be_required_of_clients(start: Start, server: Postgres, variant: Variant, tls: Tls) -> None:
    """28000 for a plain connection."""
    target = start(listening(server, variant, tls[0], **{"tls.mode": "require"})).target
    assert encrypted(target, sslmode="require")
    assert "FB604" in refused(target, sslmode="disable")


def test_plain_bytes_behind_sslrequest_are_refused(start: Start, server: Postgres, variant: Variant, tls: Tls) -> None:
    """CVE-2021-23214: what a man in the middle puts there must not count as the client's."""
    forebay = start(listening(server, variant, tls[0]))
    with forebay.target.dial() as wire:
        wire.send(SSL_REQUEST + startup(user="app", database="app") + query("select 1"))
        answer = b""
        try:
            while piece := wire.socket.recv(4096):
                answer += piece
        except ConnectionResetError:
            pass
        assert b"Z" not in answer[1:]
        assert len(answer) < 300
    assert encrypted(forebay.target, sslmode="require")


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\xff\xff" + b"x" * 500, b"x" * 600, b"\x15\x03\x01\x00\x02\x02\x28", b""],
    ids=["handshake", "text", "alert", "close"],
)  # fmt: skip
def test_garbage_for_a_handshake_ends_that_connection_only(
    garbage: bytes, start: Start, server: Postgres, variant: Variant, tls: Tls
) -> None:
    """Row 35."""
    forebay = start(listening(server, variant, tls[0]))
    with forebay.target.dial() as wire:
        wire.send(SSL_REQUEST)
        assert wire.take(1) == b"S"
        wire.send(garbage)
        wire.socket.shutdown(socket.SHUT_WR)
        try:
            while wire.socket.recv(4096):
                pass
        except ConnectionResetError:
            pass
    assert encrypted(forebay.target, sslmode="require")


def test_client_certificates_are_checked(
    start: Start, server: Postgres, variant: Variant, tls: Tls, authority: Authority, tmp_path: Any
) -> None:
    """verify-full towards clients: a certificate of ours, with the user's name in it."""
    listen = {"tls.mode": "verify-full", "tls.ca": authority.certificate}
    target = start(listening(server, variant, tls[0], **listen)).target
    mine = authority.issue("client-app", "app.example", common_name="app")
    foreign = Authority(tmp_path, "foreign").issue("client-foreign", "app.example", common_name="app")

    def certificate(pair: Pair) -> dict[str, str]:
        return {"sslmode": "require", "sslcert": str(pair.certificate), "sslkey": str(pair.key)}

    assert encrypted(target, **certificate(mine))
    refused(target, sslmode="require")
    refused(target, **certificate(foreign))
    refused(target.at(user="other", password=PASSWORD.format("other")), **certificate(mine))


def test_a_renewed_certificate_is_shown_after_hup(
    start: Start, server: Postgres, variant: Variant, authority: Authority
) -> None:
    """Certificates end every 90 days: sessions live on, new handshakes get the new one."""
    pair = authority.issue("renewed", "localhost")
    forebay = start(listening(server, variant, pair))
    context = ssl.create_default_context(cafile=str(authority.certificate))

    def serial() -> str:
        with forebay.target.dial() as wire:
            wire.send(SSL_REQUEST)
            assert wire.take(1) == b"S"
            wire.start_tls(context)
            assert isinstance(wire.socket, ssl.SSLSocket)
            certificate = wire.socket.getpeercert()
            assert certificate is not None
            return str(certificate["serialNumber"])

    before = serial()
    with forebay.target.connect(sslmode="require", autocommit=True) as connection:
        authority.issue("renewed", "localhost")
        assert forebay.reload()["event"] == "reload"
        until(lambda: serial() != before, within_s=5, what="the new certificate is shown")
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_broken_certificate_changes_nothing(
    start: Start, server: Postgres, variant: Variant, authority: Authority
) -> None:
    """Row 32: a half-written file must not take the listener down."""
    pair = authority.issue("breaking", "localhost")
    forebay = start(listening(server, variant, pair))
    pair.certificate.write_text("-----BEGIN CERTIFICATE-----\nbroken\n")
    assert forebay.reload()["event"] == "reload_refused"
    assert encrypted(forebay.target, sslmode="require")


def behind(server: Postgres, variant: Variant, **tls: Any) -> dict[str, Any]:
    """A configuration with TLS towards the server, whose user gets in over TLS only."""
    settings = {f"tls.{name}": value for name, value in tls.items()}
    databases = {"app": {"endpoints": [f"localhost:{server.port}"], "query_wait_timeout": "3s", **settings}}
    return configuration(server, variant, databases=databases, **{"users.tls_user": {"secret": {"env": "TLS_USER"}}})


def uses_tls(forebay: Forebay) -> bool:
    """Whether the server says that forebay came over TLS."""
    with forebay.target.at(user="tls_user").wire() as wire:
        return wire.value("select ssl from pg_stat_ssl where pid = pg_backend_pid()") == "t"


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
def test_tls_towards_the_server(
    mode: str, start: Start, server: Postgres, variant: Variant, authority: Authority
) -> None:
    """libpq's words, with the right authority. SCRAM is bound to the channel."""
    sections = behind(server, variant, mode=mode, ca=authority.certificate)
    assert uses_tls(start(sections, environment={"TLS_USER": PASSWORD.format("tls_user")}))


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_server_of_another_authority_is_not_trusted(
    mode: str, start: Start, server: Postgres, variant: Variant, tmp_path: Any
) -> None:
    """No byte of a password goes to it, and the log says why."""
    foreign = Authority(tmp_path, "foreign")
    sections = behind(server, variant, mode=mode, ca=foreign.certificate)
    forebay = start(sections, environment={"TLS_USER": PASSWORD.format("tls_user")})
    with forebay.target.dial() as wire:
        wire.send(startup(user="tls_user", database="app"))
        assert [frame.fields["S"] for frame in wire.rest() if frame.tag == "E"] == ["FATAL"]
    assert "certificate" in forebay.log_path.read_text().lower()


def test_verify_full_checks_the_name(start: Start, server: Postgres, variant: Variant, authority: Authority) -> None:
    """The certificate of another host is refused, though its authority is known."""
    sections = behind(server, variant, mode="verify-full", ca=authority.certificate)
    database = dict(sections['databases."app"'])
    database["endpoints"] = [f"127.0.0.2:{server.port}"]
    sections['databases."app"'] = database
    with pytest.raises(AssertionError):
        uses_tls(start(sections, environment={"TLS_USER": PASSWORD.format("tls_user")}))


def test_without_tls_the_server_refuses(start: Start, server: Postgres, variant: Variant) -> None:
    """The test's own check: hostssl means hostssl."""
    with pytest.raises(AssertionError):
        uses_tls(start(behind(server, variant, mode="disable"), environment={"TLS_USER": PASSWORD.format("tls_user")}))


def negotiated(forebay: Forebay, context: ssl.SSLContext) -> tuple[str, ...]:
    """Version and suite of a client's connection; empty: none came about."""
    try:
        with forebay.target.dial() as wire:
            wire.send(SSL_REQUEST)
            assert wire.take(1) == b"S"
            wire.start_tls(context)
            found = wire.socket.cipher()  # type: ignore[attr-defined]
            return (found[1], found[0])
    except (ssl.SSLError, ConnectionError):
        return ()


def speaking(version: ssl.TLSVersion) -> ssl.SSLContext:
    """A client of one version that trusts anybody."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    return context


def test_versions_suites_and_groups_towards_clients_are_settings(
    start: Start, server: Postgres, variant: Variant, tls: Tls
) -> None:
    """Taken over by a reload; a list of which nothing is left refuses it, and what was offered stays."""
    old, new = speaking(ssl.TLSVersion.TLSv1_2), speaking(ssl.TLSVersion.TLSv1_3)
    forebay = start(listening(server, variant, tls[0], **{"tls.protocols": "tlsv1.3"}))
    # A client's own order has AES-256 first.
    assert (negotiated(forebay, old), negotiated(forebay, new)) == ((), ("TLSv1.3", "TLS_AES_128_GCM_SHA256"))
    small = {"tls.ciphers": "ECDHE-ECDSA-AES128-GCM-SHA256:AES256-SHA", "tls.suites": "TLS_CHACHA20_POLY1305_SHA256"}
    sections = listening(server, variant, tls[0], **small, **{"tls.curve": "secp384r1"})
    assert forebay.reload(sections)["event"] == "reload"
    wanted = (("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"), ("TLSv1.3", "TLS_CHACHA20_POLY1305_SHA256"))
    assert (negotiated(forebay, old), negotiated(forebay, new)) == wanted
    other_curve = speaking(ssl.TLSVersion.TLSv1_2)
    other_curve.set_ecdh_curve("prime256v1")
    assert negotiated(forebay, other_curve) == ()
    other_suite = speaking(ssl.TLSVersion.TLSv1_2)
    other_suite.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    assert negotiated(forebay, other_suite) == ()
    for nothing in ({"tls.ciphers": "AES256-SHA", "tls.protocols": "tlsv1.2"}, {"tls.suites": "TLS_NONE"}):
        refused_by = forebay.reload(listening(server, variant, tls[0], **nothing))
        assert refused_by["event"] == "reload_refused"
        assert (negotiated(forebay, old), negotiated(forebay, new)) == wanted
    assert any("AES256-SHA" in str(one["message"]) for one in forebay.events("config_finding"))


def test_versions_and_suites_towards_servers_are_a_database_s_own(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """Two servers of different age behind one forebay."""
    databases = {
        "app": {"tls.protocols": "tlsv1.2", "tls.ciphers": "ECDHE+AESGCM:!AES256"},
        "wide": {"tls.suites": "TLS_CHACHA20_POLY1305_SHA256"},
        "old": {"tls.protocols": "tlsv1.0"},
    }
    forebay = start(configuration(server, variant, databases=databases, server_defaults={"tls.mode": "require"}))
    for name in databases:
        with forebay.target.at(dbname=name).connect() as connection:
            connection.execute("select 1")
    found = {row["database"]: row["tls"] for row in forebay.console("show servers")}
    assert found["app"] == "TLSv1.2/ECDHE-ECDSA-AES128-GCM-SHA256"
    assert found["wide"] == "TLSv1.3/TLS_CHACHA20_POLY1305_SHA256"
    assert str(found["old"]).startswith("TLSv1.3/"), "nothing older is there, and this is stronger"
