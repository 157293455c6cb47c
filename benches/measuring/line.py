"""A client of PostgreSQL's protocol that measures nothing but what it sends, and a relay that records what passes."""

from __future__ import annotations

import re
import socket
import struct
import threading
from dataclasses import dataclass

from measuring.workloads import DB, USER

CHUNK_BYTES = 65536
PROTOCOL_3_0 = 196_608
# Severity, code and text, each behind its letter; the data that the benches read holds nothing of the kind.
ERROR = re.compile(rb"S(?:ERROR|FATAL|PANIC)\0(?:V\w+\0)?C(\w{5}\0M[^\0]*)\0")
# Something that never answers is a failure, and no hang.
PATIENCE_S = 20.0


def message(kind: str, body: bytes) -> bytes:
    """A message of either protocol."""
    return kind.encode() + struct.pack("!I", len(body) + 4) + body


def query(sql: str) -> bytes:
    """A simple query."""
    return message("Q", sql.encode() + b"\0")


def startup(words: dict[str, str]) -> bytes:
    """The StartupMessage of the bench's user."""
    words = {"user": USER, "database": DB, **words}
    body = b"".join(f"{name}\0{value}\0".encode() for name, value in words.items()) + b"\0"
    return struct.pack("!II", len(body) + 8, PROTOCOL_3_0) + body


def refusal(data: bytes) -> str:
    """The text of an ErrorResponse in what came, wherever in it; empty: there is none."""
    found = ERROR.search(data)
    return found[1].decode(errors="replace") if found else ""


def messages(data: bytes) -> list[tuple[str, bytes]]:
    """Kinds and bodies of the messages behind a StartupMessage."""
    found = []
    at = int.from_bytes(data[:4])
    while at + 5 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 5])
        found.append((chr(data[at]), data[at + 5 : at + 1 + size]))
        at += 1 + size
    return found


@dataclass(frozen=True, slots=True)
class Step:
    """A statement of the extended protocol as it was sent to be run. parse: what gave it its name before."""

    text: str
    data: bytes
    parse: bytes = b""


def steps(data: bytes) -> list[Step]:
    """What was run by the extended protocol: a Parse, where it has no name, a Bind and an Execute each."""
    found: list[Step] = []
    named: dict[bytes, tuple[str, bytes]] = {}
    step = Step("", b"")
    for kind, body in messages(data):
        whole = message(kind, body)
        if kind == "P":
            name, text = body.split(b"\0")[:2]
            named[name] = (text.decode(), b"" if name == b"" else whole)
            step = Step("", whole if name == b"" else b"")
        elif kind == "B":
            text, parse = named[body.split(b"\0")[1]]
            step = Step(text, step.data + whole, parse)
        elif kind == "E":
            found.append(Step(step.text, step.data + whole, step.parse))
            step = Step("", b"")
    return found


REQUEST = query("SELECT 1")


class Line:
    """A session of the bench's user. pid: the process that serves it, as it was told."""

    def __init__(self, port: int, options: str = "") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""
        self.pid = 0
        self.send(startup({"options": options} if options else {}))
        self.wait(1)

    def send(self, data: bytes) -> None:
        """Sends it."""
        self.socket.sendall(data)

    def ask(self, data: bytes, readies: int) -> None:
        """Sends it, and waits for as many ReadyForQuery."""
        self.send(data)
        self.wait(readies)

    def wait(self, readies: int) -> None:
        """Reads up to so many ReadyForQuery. Raises RuntimeError where an error comes first, or the end."""
        while readies:
            at, held = 0, self._unread
            while len(held) >= at + 5 and len(held) > at + int.from_bytes(held[at + 1 : at + 5]):
                kind, size = held[at : at + 1], int.from_bytes(held[at + 1 : at + 5])
                if kind == b"E":
                    raise RuntimeError(f"refused: {held[at + 5 : at + 1 + size]!r}")
                if kind == b"K":
                    self.pid = int.from_bytes(held[at + 5 : at + 9])
                readies -= kind == b"Z"
                at += 1 + size
            self._unread = held[at:]
            if readies:
                came = self.socket.recv(CHUNK_BYTES)
                if not came:
                    raise RuntimeError("the connection ended")
                self._unread += came

    def close(self) -> None:
        """Says goodbye."""
        self.send(message("X", b""))
        self.socket.close()


class Relay:
    """Passes connections on to a server, and records what goes to it and who it says serves the last one."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        # What each connection sent, and what it was told first.
        self._sent: list[bytearray] = []
        self._heard: list[bytearray] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            server = socket.create_connection(("127.0.0.1", self._server_port))
            sent, heard = bytearray(), bytearray()
            self._sent.append(sent)
            self._heard.append(heard)
            for source, sink, record in ((client, server, sent), (server, client, heard)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=_pump, args=(source, sink, record), daemon=True).start()

    def _of_pool(self) -> int:
        """The connection with the clients' requests; another reads the catalogue."""
        return max(range(len(self._sent)), key=lambda i: self._sent[i].count(REQUEST))

    def recorded(self) -> bytes:
        """What the pool's server was sent."""
        return bytes(self._sent[self._of_pool()])

    def pid(self) -> int:
        """The pool's server's process."""
        heard = bytes(self._heard[self._of_pool()])
        at = heard.index(b"K\0\0\0")
        return int.from_bytes(heard[at + 5 : at + 9])

    def close(self) -> None:
        """Takes no more."""
        self._listener.close()


def _pump(source: socket.socket, sink: socket.socket, record: bytearray) -> None:
    try:
        while data := source.recv(CHUNK_BYTES):
            record += data
            sink.sendall(data)
    except OSError:
        pass  # the other side has gone
    finally:
        sink.close()
