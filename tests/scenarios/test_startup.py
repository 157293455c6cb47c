"""The first bytes of a connection."""

from __future__ import annotations

import struct

import pytest

from tests.conftest import Start
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.target import Target
from tests.harness.wire import GSS_REQUEST, PROTOCOL_3_2, SSL_REQUEST, Frame, startup

GREASE = (3 << 16) | 9999


def summary(frames: list[Frame]) -> tuple[list[str], list[str]]:
    """Kinds and contents without the parameters, whose order is free; and the parameters in order of name."""
    others = [frame.line for frame in frames if frame.tag != "S"]
    return others, sorted(frame.line for frame in frames if frame.tag == "S")


@pytest.mark.parametrize("version", [3 << 16, PROTOCOL_3_2], ids=["3.0", "3.2"])
def test_a_login_reads_as_that_of_the_server(version: int, shared: Forebay, direct: Target) -> None:
    """3.2 has cancel keys of 32 bytes."""
    packet = startup(version, user="app", database="app")
    assert summary(shared.target.first(packet)) == summary(direct.first(packet))


@pytest.mark.parametrize("version", [GREASE, (3 << 16) | 1, (3 << 16) | 3], ids=["3.9999", "3.1", "3.3"])
def test_an_unknown_minor_version_is_negotiated(version: int, shared: Forebay, direct: Target) -> None:
    """libpq asks for a version that nobody has, to see that servers negotiate."""
    packet = startup(version, user="app", database="app", __first="1", __second="2")
    assert summary(shared.target.first(packet)) == summary(direct.first(packet))


def test_an_unknown_protocol_option_is_named(shared: Forebay, direct: Target) -> None:
    """NegotiateProtocolVersion lists it, also when the version is known."""
    packet = startup(3 << 16, user="app", database="app", __new_thing="on")
    frames = shared.target.first(packet)
    assert [frame.tag for frame in frames][:1] == ["v"]
    assert summary(frames) == summary(direct.first(packet))


@pytest.mark.variants("uring-1", "epoll-2")
def test_an_old_server_serves_a_new_client(server_15: Postgres, start: Start, variant: Variant) -> None:
    """PostgreSQL 15 knows neither 3.2 nor long keys: forebay speaks 3.2 with its clients all the same."""
    target = start(configuration(server_15, variant)).target
    frames = target.first(startup(PROTOCOL_3_2, user="app", database="app"))
    assert [frame.tag for frame in frames if frame.tag in "vKZE"] == ["K", "Z"]
    assert len(next(frame for frame in frames if frame.tag == "K").body) == 4 + 32
    with target.wire() as wire:
        assert (wire.value("show server_version") or "").startswith("15.")


@pytest.mark.parametrize("major", [0, 1, 2, 4, 1000])
def test_another_major_version_is_refused(major: int, shared: Forebay) -> None:
    """A client of another protocol gets a sentence, not a hang."""
    frames = shared.target.first(startup(major << 16, user="app"))
    assert (frames[-1].fields["S"], frames[-1].fields["C"]) == ("FATAL", "0A000")


def test_tls_that_is_not_offered_is_declined(shared: Forebay) -> None:
    """N, and the client may go on in plain text."""
    with shared.target.dial() as wire:
        wire.send(SSL_REQUEST)
        assert wire.take(1) == b"N"
        wire.log_in(user="app", database="app")
        assert wire.value("select 1") == "1"


def test_gss_encryption_is_declined(shared: Forebay) -> None:
    """libpq asks when it finds a Kerberos ticket; after N it asks for TLS, or goes on."""
    with shared.target.dial() as wire:
        wire.send(GSS_REQUEST)
        assert wire.take(1) == b"N"
        wire.send(SSL_REQUEST)
        assert wire.take(1) == b"N"
        wire.log_in(user="app", database="app")
        assert wire.value("select 1") == "1"


@pytest.mark.parametrize(
    "packet",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 64,
        struct.pack("!II", 7, 196608),
        struct.pack("!II", 4, 196608),
        struct.pack("!II", 10_005, 196608),
        struct.pack("!II", 0xFFFFFFFF, 196608),
        struct.pack("!II", 8, 196608),
        startup(user="app")[:-1] + b"x",
        struct.pack("!II", 13, 196608) + b"user\0",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 32,
    ],
    ids=["http", "zeros", "length_7", "length_4", "length_10005", "length_max", "no_parameters", "unterminated",
         "value_missing", "tls_hello_without_tls"],
)  # fmt: skip
def test_a_first_packet_that_makes_no_sense_ends_the_connection(packet: bytes, shared: Forebay) -> None:
    """Scanners find every port; one of them must not cost others anything."""
    with shared.target.dial() as wire:
        wire.send(packet)
        frames = wire.rest()
        assert [frame.tag for frame in frames] in ([], ["E"]), frames
        if frames:
            assert frames[0].fields["S"] == "FATAL"
    with shared.target.wire() as other:
        assert other.value("select 1") == "1"


def test_a_user_must_be_named(shared: Forebay, direct: Target) -> None:
    """28000, as PostgreSQL says."""
    for target in (direct, shared.target):
        frames = target.first(startup(database="app"))
        assert (frames[-1].fields["S"], frames[-1].fields["C"]) == ("FATAL", "28000")


def test_a_database_that_is_not_named_is_that_of_the_user(start: Start, server: Postgres, variant: Variant) -> None:
    """The rule of libpq and of the server."""
    forebay = start(configuration(server, variant, databases={"other": {"dbname": "elsewhere"}}))
    with forebay.target.dial() as wire:
        wire.log_in(user="other")
        assert wire.value("select current_database()") == "elsewhere"


def test_an_unknown_database_is_refused(shared: Forebay) -> None:
    """3D000, before any server is opened."""
    frames = shared.target.first(startup(user="app", database="no_such_database"))
    assert (frames[-1].fields["S"], frames[-1].fields["C"]) == ("FATAL", "3D000")


def test_a_startup_packet_in_single_bytes(shared: Forebay) -> None:
    """A slow network cuts anywhere."""
    with shared.target.dial() as wire:
        wire.piece_bytes = 1
        wire.log_in(user="app", database="app", application_name="slow")
        assert wire.value("show application_name") == "slow"


def test_a_query_sent_behind_the_startup_packet_is_answered(shared: Forebay, direct: Target) -> None:
    """Some clients do not wait for ReadyForQuery."""
    for target in (direct, shared.target):
        with target.dial() as wire:
            wire.send(startup(user="app", database="app"), b"Q\x00\x00\x00\x0dselect 1\x00")
            wire.ready(2)
            assert wire.seen[-2].startswith("CommandComplete")
