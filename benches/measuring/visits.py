"""A client that comes, logs in, asks one query and leaves, again and again, one connection after the other.

`visits.py PORT USER SECONDS [tls|resumed]`: over TLS, or over TLS with the session of the connection before, which
libpq never keeps. It answers SCRAM with a salted password that it computed once, as drivers do that keep it: what a
login costs is then what it costs the other side. Says `begun` when the first login is done, then what it did as one
line of JSON.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import socket
import ssl
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measuring.crowd import GOODBYE, QUERY, waits
from measuring.line import PATIENCE_S, message, startup
from measuring.workloads import PASSWORD

SSL_REQUEST = struct.pack("!II", 8, 80_877_103)
CHUNK_BYTES = 65_536
MECHANISM = "SCRAM-SHA-256"
# AuthenticationOk, -SASL, -SASLContinue, -SASLFinal.
OK, SASL, SASL_CONTINUE, SASL_FINAL = 0, 10, 11, 12
# On one open connection, for what a query alone takes.
ROUND_TRIPS = 20


class Session:
    """One connection, and the messages that come over it."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket, self._unread = sock, b""

    def next(self) -> tuple[bytes, bytes]:
        """Kind and body. Raises RuntimeError for an error or the end."""
        while len(self._unread) < 5 or len(self._unread) < 1 + int.from_bytes(self._unread[1:5]):
            came = self.socket.recv(CHUNK_BYTES)
            if not came:
                raise RuntimeError("the connection ended")
            self._unread += came
        size = 1 + int.from_bytes(self._unread[1:5])
        kind, body, self._unread = self._unread[:1], self._unread[5:size], self._unread[size:]
        if kind == b"E":
            raise RuntimeError(f"refused: {body!r}")
        return kind, body

    def wait_ready(self) -> None:
        """Up to ReadyForQuery."""
        while self.next()[0] != b"Z":
            pass


class Visitor:
    """Visits a port. resumed: handshakes that took a session up again."""

    def __init__(self, port: int, user: str, *, is_encrypted: bool, is_resuming: bool) -> None:
        self._port, self._user, self._is_resuming = port, user, is_resuming
        self._salted: dict[tuple[bytes, int], bytes] = {}
        self._kept: ssl.SSLSession | None = None
        self._context: ssl.SSLContext | None = None
        self.resumed = 0
        if is_encrypted:
            self._context = ssl.create_default_context()
            self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE
            self._context.minimum_version = ssl.TLSVersion.TLSv1_3

    def visit(self) -> Session:
        """Comes, and has one query answered."""
        session = self.log_in()
        session.socket.sendall(QUERY)
        session.wait_ready()
        return session

    def leave(self, session: Session) -> None:
        """Goes, with the TLS session."""
        if self._is_resuming and isinstance(session.socket, ssl.SSLSocket):
            # A ticket comes behind the handshake: with the first that is read.
            self._kept = session.socket.session
        session.socket.sendall(GOODBYE)
        session.socket.close()

    def log_in(self) -> Session:
        """A session that may ask."""
        sock = socket.create_connection(("127.0.0.1", self._port), PATIENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context:
            sock.sendall(SSL_REQUEST)
            if sock.recv(1) != b"S":
                raise RuntimeError("no TLS")
            encrypted = self._context.wrap_socket(sock, session=self._kept)
            self.resumed += bool(encrypted.session_reused)
            sock = encrypted
        session = Session(sock)
        sock.sendall(startup({"user": self._user, "application_name": "visits"}))
        self._authenticate(session)
        session.wait_ready()
        return session

    def _authenticate(self, session: Session) -> None:
        nonce = base64.b64encode(secrets.token_bytes(18)).decode()
        bare = f"n=,r={nonce}"
        while True:
            kind, body = session.next()
            code = int.from_bytes(body[:4])
            if kind != b"R" or code not in (OK, SASL, SASL_CONTINUE, SASL_FINAL):
                raise RuntimeError(f"cannot be answered: {kind!r} {code}")
            if code == OK:
                return
            if code == SASL:
                first = f"n,,{bare}".encode()
                session.socket.sendall(message("p", MECHANISM.encode() + b"\0" + struct.pack("!I", len(first)) + first))
            elif code == SASL_CONTINUE:
                session.socket.sendall(message("p", self._proof(bare, body[4:].decode()).encode()))

    def _proof(self, bare: str, server_first: str) -> str:
        """The client's final message. Source: RFC 5802, section 3."""
        words = dict(word.split("=", 1) for word in server_first.split(","))
        salt, iterations = base64.b64decode(words["s"]), int(words["i"])
        if (salt, iterations) not in self._salted:
            salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), salt, iterations)
            self._salted[salt, iterations] = hmac.digest(salted, b"Client Key", "sha256")
        client_key = self._salted[salt, iterations]
        final = f"c=biws,r={words['r']}"
        text = f"{bare},{server_first},{final}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), text, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        return f"{final},p={base64.b64encode(proof).decode()}"


def main() -> None:
    """Visits for so long."""
    port, user, seconds, how = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4:]
    visitor = Visitor(port, user, is_encrypted=bool(how), is_resuming=how == ["resumed"])
    session = visitor.visit()
    begin = time.time()
    for _ in range(ROUND_TRIPS):
        session.socket.sendall(QUERY)
        session.wait_ready()
    query_ms = (time.time() - begin) / ROUND_TRIPS * 1000
    visitor.leave(session)
    visitor.resumed = 0
    print("begun", flush=True)
    waited: list[float] = []
    start = time.time()
    while time.time() < start + seconds:
        begin = time.time()
        session = visitor.visit()
        waited.append(time.time() - begin)
        visitor.leave(session)
    said = {"n": len(waited), "seconds": time.time() - start, "resumed": visitor.resumed, "query_ms": query_ms}
    print(json.dumps({**said, **waits(waited)}), flush=True)


if __name__ == "__main__":
    main()
