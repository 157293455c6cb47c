"""Row 35: clients that use TLS as none should: renegotiation, 0-RTT, names that are none. OpenSSL's client, and bytes.

Each is ended in order or served as if it had not asked; whoever is connected beside it notices nothing, and nothing
panics.
"""

from __future__ import annotations

import base64
import contextlib
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.harness.certificates import Pair
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.wire import SSL_REQUEST, flush, query, startup, terminate

Tls = tuple[Pair, ssl.SSLContext]

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

READY = b"Z\0\0\0\x05I"
LOGIN = startup(user="app", database="app")
HOST = "bad-name.example"


class OpenSSL:
    """`openssl s_client`: what is written to it goes out, but what begins with R, K or Q is a command."""

    def __init__(self, port: int, *options: str) -> None:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-starttls", "postgres", *options]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
        self.said = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        while piece := self._process.stdout.read(65536):
            self.said += piece

    def say(self, data: bytes) -> None:
        """Writes to it."""
        assert self._process.stdin
        self._process.stdin.write(data)

    def hears(self, data: bytes, *, times: int = 1) -> None:
        """Waits until it has said that, so many times."""
        what = f"s_client says {data!r}; before, it had said {self.said[-2000:]!r}"
        until(lambda: self.said.count(data) >= times, within_s=30, what=what)

    def ends(self) -> bytes:
        """Waits until it has ended by itself; returns all that it said."""
        self._process.wait(30)
        self._reader.join()
        return self.said

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


@contextlib.contextmanager
def openssl(port: int, *options: str) -> Iterator[OpenSSL]:
    """One for the block."""
    client = OpenSSL(port, *options)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def forebay(start: Start, server: Postgres, variant: Variant, tls: Tls) -> Forebay:
    """One with TLS towards clients."""
    listen = {"tls.certificate": tls[0].certificate, "tls.key": tls[0].key}
    return start(configuration(server, variant, listen=listen, databases={"app": {"pool_size": 2}}))


@pytest.fixture
def others(forebay: Forebay) -> Iterator[Callable[[], None]]:
    """Two clients that are there all the while, one over TLS, and one that comes anew: each is served when called."""
    with forebay.target.wire() as plain, forebay.target.connect(sslmode="require", autocommit=True) as encrypted:

        def are_served() -> None:
            assert plain.value("select 'plain'") == "plain"
            assert encrypted.execute("select 'encrypted'").fetchone() == ("encrypted",)
            with forebay.target.connect(sslmode="require") as fresh:
                assert fresh.execute("select 'fresh'").fetchone() == ("fresh",)
            forebay.assert_log_is_clean()

        are_served()
        yield are_served


def clients(forebay: Forebay) -> int:
    """How many are connected to `app`."""
    return sum(row["database"] == "app" for row in forebay.console("show clients"))


def test_renegotiation_is_declined(forebay: Forebay, others: Callable[[], None]) -> None:
    """TLS 1.2 lets a client begin anew within a session (CVE-2009-3555), which costs us more than it (CVE-2011-1473).

    It is told so by the alert `no_renegotiation`, upon which OpenSSL's client gives up.
    """
    with openssl(forebay.port, "-tls1_2") as client:
        client.hears(b"Verify return code")
        client.say(LOGIN)
        client.hears(READY)
        client.say(b"R\n")
        said = client.ends()
    assert b"RENEGOTIATING" in said
    assert b"no renegotiation" in said, said[-2000:]
    others()
    until(lambda: clients(forebay) == 2, within_s=20, what="it is gone")


def test_renegotiation_in_a_transaction_leaves_nothing(forebay: Forebay, others: Callable[[], None]) -> None:
    """What it had begun is rolled back with the end of its connection."""
    with openssl(forebay.port, "-tls1_2") as client:
        client.hears(b"Verify return code")
        client.say(LOGIN)
        client.hears(READY)
        client.say(flush() + query("begin; insert into scratch values (3501, 'half')"))
        client.hears(b"Z\0\0\0\x05T")
        client.say(b"R\n")
        client.ends()
    until(lambda: clients(forebay) == 2, within_s=20, what="it is gone")
    others()
    with forebay.target.wire() as wire:
        assert wire.value("select count(*) from scratch where a = 3501") == "0"


def test_new_keys_are_no_renegotiation(forebay: Forebay, others: Callable[[], None]) -> None:
    """TLS 1.3 has key updates in its place: asked for, and answered."""
    with openssl(forebay.port, "-tls1_3") as client:
        client.hears(b"Verify return code")
        client.say(LOGIN)
        client.hears(READY)
        for number in range(3):
            client.say(b"K\n")
            client.hears(b"KEYUPDATE", times=number + 1)
            client.say(flush() + query(f"select 'updated-{number}'"))
            client.hears(b"updated-%d" % number)
        client.say(terminate())
    others()


def with_early_data(session: str) -> str:
    """A session that says that the server takes data before the handshake is over, which ours has not said.

    max_early_data is element 15 of OpenSSL's SSL_SESSION_ASN1 (ssl/ssl_asn1.c), left out where it is 0.
    """
    _, head, rest = session.partition("-----BEGIN SSL SESSION PARAMETERS-----\n")
    body, end, _ = rest.partition("-----END SSL SESSION PARAMETERS-----")
    elements, left = [], element(base64.b64decode(body))[1]
    while left:
        elements.append(element(left)[0])
        left = left[len(elements[-1]) :]
    assert all(one[0] != 0xAF for one in elements), "the server offers 0-RTT"
    at = next((i for i, one in enumerate(elements) if one[0] > 0xAF and one[0] & 0xE0 == 0xA0), len(elements))
    elements.insert(at, b"\xaf\x04\x02\x02\x40\x00")
    inner = b"".join(elements)
    encoded = base64.encodebytes(b"\x30\x82" + struct.pack("!H", len(inner)) + inner).decode()
    return head + encoded + end + "\n"


def element(der: bytes) -> tuple[bytes, bytes]:
    """The first element of DER, whole and its content."""
    length, at = der[1], 2
    if length & 0x80:
        at += length & 0x7F
        length = int.from_bytes(der[2:at], "big")
    return der[: at + length], der[at : at + length]


def test_data_before_the_handshake_is_over_is_not_read(
    forebay: Forebay, others: Callable[[], None], tmp_path: Path
) -> None:
    """0-RTT can be recorded and sent again by anybody: what comes that way is not even decrypted."""
    saved, patched, early = tmp_path / "saved.pem", tmp_path / "patched.pem", tmp_path / "early"
    with openssl(forebay.port, "-tls1_3", "-sess_out", str(saved)) as client:
        client.hears(b"Verify return code")
        client.say(LOGIN)
        client.hears(READY)
        until(lambda: saved.exists() and b"END SSL" in saved.read_bytes(), within_s=20, what="it has a ticket")
    patched.write_text(with_early_data(saved.read_text()))
    early.write_bytes(LOGIN + query("insert into scratch values (3502, 'early')"))
    for _ in range(3):
        options = ("-tls1_3", "-sess_in", str(patched), "-early_data", str(early))
        with openssl(forebay.port, *options) as client:
            client.hears(b"Early data was rejected")
            client.say(LOGIN)
            client.hears(READY)
            client.say(flush() + query("select 'after'"))
            client.hears(b"after")
            client.say(terminate())
    others()
    with forebay.target.wire() as wire:
        assert wire.value("select count(*) from scratch where a = 3502") == "0"


def hello(name: str = HOST) -> bytes:
    """A ClientHello for that host, as a record."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def named(name: bytes) -> bytes:
    """A ClientHello for that host, which is as long as HOST."""
    assert len(name) == len(HOST)
    return hello().replace(HOST.encode(), name)


def with_list_head(head: bytes) -> bytes:
    """A ClientHello whose list of names begins otherwise: length of the list, kind of name, length of the name."""
    length = len(HOST)
    right = struct.pack("!HBH", length + 3, 0, length) + HOST.encode()
    found = hello()
    assert right in found
    return found.replace(right, head + HOST.encode())


def refused_hello(forebay: Forebay, packet: bytes) -> bytes:
    """What is said to it, up to the end of the connection, which comes in order."""
    with forebay.target.dial() as wire:
        wire.send(SSL_REQUEST)
        assert wire.take(1) == b"S"
        wire.send(packet)
        answer = b""
        while piece := wire.socket.recv(4096):
            answer += piece
        return answer


LENGTH = len(HOST)
FAULTY: dict[str, Callable[[], bytes]] = {
    "zeros": lambda: named(bytes(LENGTH)),
    "not-ascii": lambda: named(b"\xff" * LENGTH),
    "blanks": lambda: named(b"bad name .exampl"),
    "dots": lambda: named(b"." * LENGTH),
    "long-list": lambda: with_list_head(struct.pack("!HBH", 0xFFFF, 0, LENGTH)),
    "short-list": lambda: with_list_head(struct.pack("!HBH", 1, 0, LENGTH)),
    "long-name": lambda: with_list_head(struct.pack("!HBH", LENGTH + 3, 0, 0xFFFF)),
    "empty-list": lambda: with_list_head(struct.pack("!HBH", 0, 0, LENGTH)),
}


def test_a_name_that_is_none_ends_the_handshake(forebay: Forebay, others: Callable[[], None]) -> None:
    """By an alert that says so, and nothing else."""
    for what, packet in FAULTY.items():
        answer = refused_hello(forebay, packet())
        assert answer[:1] == b"\x15", (what, answer)
        assert answer[5] == 2, (what, "it is fatal")
        assert len(answer) == 7, (what, "nothing is sent behind it")
    others()


@pytest.mark.parametrize("name", [HOST, "localhost", "x" * 63 + ".example", None])
def test_a_name_that_is_not_ours_is_served(
    name: str | None, forebay: Forebay, others: Callable[[], None], tls: Tls
) -> None:
    """There is one certificate; whether it will do is for the client to judge, which finds out here."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with forebay.target.dial() as wire:
        wire.send(SSL_REQUEST)
        assert wire.take(1) == b"S"
        wire.socket = context.wrap_socket(wire.socket, server_hostname=name)
        wire.send(LOGIN)
        assert wire.read_until("Z")
        assert wire.value("select 35") == "35"
    with forebay.target.dial() as wire:
        wire.send(SSL_REQUEST)
        assert wire.take(1) == b"S"
        with pytest.raises(ssl.SSLCertVerificationError):
            tls[1].wrap_socket(wire.socket, server_hostname=f"not.{HOST}")
    others()


def test_an_address_for_a_name_is_no_name(forebay: Forebay, others: Callable[[], None]) -> None:
    """RFC 6066 forbids it and clients send it: the handshake goes on as if there were none."""
    with forebay.target.dial() as wire:
        wire.send(SSL_REQUEST)
        assert wire.take(1) == b"S"
        wire.send(hello("abcd.efgh").replace(b"abcd.efgh", b"127.0.0.1"))
        assert wire.take(1) == b"\x16"
    others()
