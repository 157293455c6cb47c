"""Clients behind a load balancer that says by the PROXY protocol where they come from."""

from __future__ import annotations

import ipaddress
import ssl
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Start
from tests.harness.certificates import Authority, Pair
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.wire import SSL_REQUEST, Wire, cancel, query, startup

# A driver each, as one thread reads headers like another.
pytestmark = pytest.mark.variants("uring-1", "epoll-2")
V2 = b"\r\n\r\n\0\r\nQUIT\n"


def v1(address: str, port: int) -> bytes:
    """A header as text."""
    family, ours = ("TCP6", "::1") if ":" in address else ("TCP4", "127.0.0.1")
    return f"PROXY {family} {address} {ours} {port} 6432\r\n".encode()


def v2(address: str, port: int, *, command: int = 1, more: bytes = b"") -> bytes:
    """A header in binary form; more: what stands behind the addresses."""
    ip = ipaddress.ip_address(address)
    body = ip.packed + ip.packed + struct.pack("!HH", port, 6432) + more
    return V2 + struct.pack("!BBH", 0x20 | command, 0x11 if ip.version == 4 else 0x21, len(body)) + body


def begin(start: Start, server: Postgres, variant: Variant, **sections: Any) -> Forebay:
    """One that takes headers from 127.0.0.1."""
    listen = {"proxy_from": ["127.0.0.1"], **sections.pop("listen", {})}
    return start(configuration(server, variant, listen=listen, log={"connections": True}, **sections))


def log_in(forebay: Forebay, header: bytes, *, piece_bytes: int = 1 << 30) -> Wire:
    """A client whose first bytes are these."""
    wire = forebay.target.dial()
    wire.piece_bytes = piece_bytes
    wire.send(header + startup(user="app", database="app"))
    assert wire.read_until("Z")
    return wire


def shown(forebay: Forebay) -> list[tuple[str | None, str | None]]:
    """Addresses of clients of `app`, as the console shows them to one who comes by a header too."""
    from tests.harness.pooler import asked

    with forebay.target.dial() as wire:
        wire.send(v2("198.51.100.1", 1, command=0) + startup(user="ops", database="forebay"))
        wire.read_until("Z")
        return sorted((row["addr"], row["port"]) for row in asked(wire, "show clients") if row["database"] == "app")


def test_a_client_has_the_address_of_its_header(start: Start, server: Postgres, variant: Variant) -> None:
    """In SHOW CLIENTS and in the log, for either version, cut anywhere; without an address it is the socket's."""
    forebay = begin(start, server, variant)
    wires = [
        log_in(forebay, v1("192.0.2.1", 50_001)),
        log_in(forebay, v1("2001:db8::5", 50_002), piece_bytes=1),
        log_in(forebay, v2("192.0.2.3", 50_003, more=b"\x04\x00\x02ab"), piece_bytes=7),
        log_in(forebay, v2("::ffff:192.0.2.4", 50_004)),
    ]
    expected = [("192.0.2.1", "50001"), ("192.0.2.3", "50003"), ("192.0.2.4", "50004"), ("2001:db8::5", "50002")]
    assert shown(forebay) == expected
    told = [(line["address"], str(line["port"])) for line in forebay.events("client_connected")]
    assert sorted(told) == expected
    for header in (b"PROXY UNKNOWN\r\n", v2("192.0.2.9", 9, command=0)):
        with log_in(forebay, header) as local:
            ours = local.socket.getsockname()
            assert ("127.0.0.1", str(ours[1])) in shown(forebay)
    for wire in wires:
        assert wire.value("select 1") == "1"
        wire.close()


def test_a_header_that_must_be_there_must_be_right(start: Start, server: Postgres, variant: Variant) -> None:
    """Else a client behind a load balancer that adds none could write its own."""
    forebay = begin(start, server, variant)
    packet = startup(user="app", database="app")
    refused = [
        (packet, "it is missing"),
        (SSL_REQUEST, "it is missing"),
        (b"PROXY TCP4 192.0.2.1 127.0.0.1 1\r\n" + packet, "its text is malformed"),
        (b"PROXY TCP4 " + b"1" * 200, "its text is malformed"),
        (V2 + b"\x11\x11\x00\x0c" + bytes(12), "its version is 1"),
        (V2 + b"\x21\x12\x00\x0c" + bytes(12), "its address family is 0x12"),
        (V2 + b"\x21\x11\x00\x04" + bytes(4), "its length is 20 bytes"),
        (V2 + b"\x21\x11\xff\xff", "its length is 65551 bytes"),
        (v1("192.0.2.1", 1) + v1("10.0.0.1", 1) + packet, "none is expected here"),
    ]
    for data, cause in refused:
        with forebay.target.dial() as wire:
            wire.send(data)
            (error,) = [frame.fields for frame in wire.rest() if frame.tag == "E"]
            assert (error["C"], cause in error["M"]) == ("08P01", True), (data, error)
    until(lambda: len(forebay.events("proxy_header_refused")) == len(refused), within_s=10, what="each is told")
    told = [(line["address"], line["reason"]) for line in forebay.events("proxy_header_refused")]
    assert told[:-1] == [("127.0.0.1", cause) for _, cause in refused[:-1]]
    assert told[-1] == ("192.0.2.1", "none is expected here")


def test_a_header_from_anybody_else_is_refused(start: Start, server: Postgres, variant: Variant) -> None:
    """Who may send one could pass for an address that is let in."""
    forebay = start(configuration(server, variant, listen={"proxy_from": ["192.0.2.0/24"]}))
    for header in (v1("10.0.0.1", 1), v2("10.0.0.1", 1)):
        with forebay.target.dial() as wire:
            wire.send(header + startup(user="app", database="app"))
            (error,) = [frame.fields for frame in wire.rest() if frame.tag == "E"]
            assert "none is expected here" in error["M"]
    with forebay.target.wire() as plain:
        assert plain.value("select 1") == "1"


def test_tls_begins_behind_the_header(
    start: Start, server: Postgres, variant: Variant, tls: tuple[Pair, ssl.SSLContext], authority: Authority
) -> None:
    """Asked for, and direct; a header within it is none."""
    pair, context = tls
    forebay = begin(start, server, variant, listen={"tls.certificate": pair.certificate, "tls.key": pair.key})
    header = v2("192.0.2.7", 777)
    with forebay.target.dial() as wire:
        wire.send(header + SSL_REQUEST)
        assert wire.take(1) == b"S"
        wire.start_tls(context)
        wire.log_in(user="app", database="app")
        assert shown(forebay) == [("192.0.2.7", "777")]
    direct = ssl.create_default_context(cafile=str(authority.certificate))
    direct.set_alpn_protocols(["postgresql"])
    with forebay.target.dial() as wire:
        wire.send(header)
        wire.start_tls(direct)
        wire.log_in(user="app", database="app")
        assert wire.value("select 1") == "1"
    with forebay.target.dial() as wire:
        wire.send(header + SSL_REQUEST)
        assert wire.take(1) == b"S"
        wire.start_tls(context)
        wire.send(v1("10.0.0.1", 1) + startup(user="app", database="app"))
        assert [frame.fields["C"] for frame in wire.rest() if frame.tag == "E"] == ["08P01"]


def test_limits_by_address_are_the_headers(start: Start, server: Postgres, variant: Variant) -> None:
    """One client that guesses keys must not have all others behind its load balancer refused."""
    forebay = begin(start, server, variant, limits={"cancel_misses_max": 2})

    def guess(address: str) -> None:
        with forebay.target.dial() as wire:
            wire.send(v1(address, 1) + cancel(1 << 28, b"\0\0\0\0"))
            assert wire.ends()

    for _ in range(4):
        guess("192.0.2.66")
    with log_in(forebay, v1("192.0.2.67", 1)) as client, forebay.target.dial() as canceller:
        client.send(query("select pg_sleep(20)"))
        until(lambda: forebay.servers_active() == 1, within_s=10, what="it runs")
        canceller.send(v1("192.0.2.67", 2) + cancel(*client.key))
        assert [frame.fields["C"] for frame in client.ready() if frame.tag == "E"] == ["57014"]
    assert {line["source"] for line in forebay.events("cancels_refused")} == {"192.0.2.66"}


def test_networks_follow_a_reload(start: Start, server: Postgres, variant: Variant) -> None:
    """Who is connected stays what it is."""
    sections = configuration(server, variant)
    forebay = start(sections)
    with forebay.target.wire() as early:
        forebay.reload({**sections, "listen": {**sections["listen"], "proxy_from": ["127.0.0.0/8"]}})
        with log_in(forebay, v1("192.0.2.1", 5)) as late:
            assert (late.value("select 1"), early.value("select 2")) == ("1", "2")
        bad = {**sections, "listen": {**sections["listen"], "proxy_from": ["127.0.0.1/8"]}}
        assert forebay.reload(bad)["event"] == "reload_refused"


def test_rules_by_address_are_judged_by_the_header(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path
) -> None:
    """Else all clients behind a load balancer would have its rights, or none of them."""
    hba = tmp_path / "hba.conf"
    hba.write_text(
        "host all all 192.0.2.1/32 trust\n"
        "host all all 192.0.2.0/24 reject\n"
        "host all all 2001:db8::/32 trust\n"
        "host all all 127.0.0.1/32 password\n"
    )
    forebay = begin(start, server, variant, auth={"type": "hba", "hba_file": hba})
    for header, told in (
        (v1("192.0.2.1", 1), "R"),
        (v2("2001:db8::7", 1), "R"),
        (v1("192.0.2.2", 1), "E"),
        (v2("198.51.100.1", 1), "E"),
    ):
        with forebay.target.dial() as wire:
            first = wire.first(header + startup(user="app", database="app"))
            assert (first[-1].tag == "Z") == (told == "R"), (header, first)
    # Who comes for itself is asked for a password, as who is at the load balancer's own address.
    for header in (b"PROXY UNKNOWN\r\n", v1("127.0.0.1", 1)):
        with forebay.target.dial() as wire:
            wire.send(header + startup(user="app", database="app"))
            assert wire.read().body == b"\0\0\0\3"
