"""A client that speaks frames: what drivers hide, it sends and sees.

Everything received is kept as lines (`Wire.seen`), in a form that is equal for two servers that behave alike.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PROTOCOL_3_0 = 3 << 16
PROTOCOL_3_2 = (3 << 16) | 2
SSL_REQUEST = struct.pack("!II", 8, 80877103)
GSS_REQUEST = struct.pack("!II", 8, 80877104)

NAMES = {
    "R": "Authentication", "K": "BackendKeyData", "S": "ParameterStatus", "Z": "ReadyForQuery", "T": "RowDescription",
    "D": "DataRow", "C": "CommandComplete", "E": "ErrorResponse", "N": "NoticeResponse", "1": "ParseComplete",
    "2": "BindComplete", "3": "CloseComplete", "n": "NoData", "t": "ParameterDescription", "s": "PortalSuspended",
    "I": "EmptyQueryResponse", "G": "CopyInResponse", "H": "CopyOutResponse", "W": "CopyBothResponse",
    "d": "CopyData", "c": "CopyDone", "V": "FunctionCallResponse", "A": "NotificationResponse",
    "v": "NegotiateProtocolVersion",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Frame:
    """A message of a server's."""

    tag: str
    body: bytes

    @property
    def fields(self) -> dict[str, str]:
        """Of an ErrorResponse or NoticeResponse, by their letters."""
        parts = self.body.split(b"\0")
        return {part[:1].decode(): part[1:].decode() for part in parts if part}

    @property
    def line(self) -> str:
        """What it says, without what differs between any two connections: process ids and keys."""
        name = NAMES.get(self.tag, self.tag)
        if self.tag == "K":
            return f"{name} of {len(self.body)} bytes"
        if self.tag == "A":
            return f"{name} {self.body[4:]!r}"
        if self.tag in "EN":
            return f"{name} {self.fields}"
        return f"{name} {self.body!r}"


def message(tag: str, *parts: bytes) -> bytes:
    """A frame."""
    body = b"".join(parts)
    return tag.encode() + struct.pack("!I", len(body) + 4) + body


def text(value: str) -> bytes:
    """A string with its end."""
    return value.encode() + b"\0"


def query(sql: str) -> bytes:
    """Query."""
    return message("Q", text(sql))


def parse(name: str, sql: str, types: Sequence[int] = ()) -> bytes:
    """Parse."""
    return message("P", text(name), text(sql), struct.pack(f"!H{len(types)}I", len(types), *types))


def bind(
    portal: str = "",
    statement: str = "",
    values: Iterable[bytes | None] = (),
    result: Sequence[int] = (),
    given_as: Sequence[int] = (),
) -> bytes:
    """Bind; result, given_as: format codes of columns and of parameters. Without them all is text."""
    given = list(values)
    packed = b"".join(struct.pack("!i", -1) if v is None else struct.pack("!i", len(v)) + v for v in given)
    formats = struct.pack(f"!H{len(result)}H", len(result), *result)
    codes = struct.pack(f"!H{len(given_as)}HH", len(given_as), *given_as, len(given))
    return message("B", text(portal), text(statement), codes, packed, formats)


def execute(portal: str = "", rows: int = 0) -> bytes:
    """Execute; rows: 0 is all."""
    return message("E", text(portal), struct.pack("!I", rows))


def describe(kind: str, name: str = "") -> bytes:
    """Describe of a statement (S) or portal (P)."""
    return message("D", kind.encode(), text(name))


def close(kind: str, name: str = "") -> bytes:
    """Close of a statement (S) or portal (P)."""
    return message("C", kind.encode(), text(name))


def sync() -> bytes:
    """Sync."""
    return message("S")


def flush() -> bytes:
    """Flush."""
    return message("H")


def copy_data(data: bytes) -> bytes:
    """CopyData."""
    return message("d", data)


def copy_done() -> bytes:
    """CopyDone."""
    return message("c")


def copy_fail(reason: str) -> bytes:
    """CopyFail."""
    return message("f", text(reason))


def function_call(oid: int, *arguments: bytes) -> bytes:
    """FunctionCall with text arguments and a text result."""
    packed = b"".join(struct.pack("!I", len(a)) + a for a in arguments)
    return message("F", struct.pack("!IHH", oid, 0, len(arguments)), packed, struct.pack("!H", 0))


def terminate() -> bytes:
    """Terminate."""
    return message("X")


def startup(version: int = PROTOCOL_3_0, **parameters: str) -> bytes:
    """StartupMessage; a parameter's double underscore at the start is `_pq_.`."""
    named = {("_pq_." + k[2:] if k.startswith("__") else k): v for k, v in parameters.items()}
    body = struct.pack("!I", version) + b"".join(text(k) + text(v) for k, v in named.items()) + b"\0"
    return struct.pack("!I", len(body) + 4) + body


def cancel(pid: int, key: bytes) -> bytes:
    """CancelRequest."""
    return struct.pack("!III", 12 + len(key), 80877102, pid) + key


class Gone(Exception):
    """The other side closed the connection."""


class Wire:
    """A connection, and all that came over it."""

    def __init__(self, host: str, port: int, *, timeout_s: float) -> None:
        if host.startswith("/"):
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.settimeout(timeout_s)
            self.socket.connect(str(Path(host) / f".s.PGSQL.{port}"))
        else:
            self.socket = socket.create_connection((host, port), timeout=timeout_s)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.seen: list[str] = []
        self.status = ""
        self.key: tuple[int, bytes] = (0, b"")
        self.parameters: dict[str, str] = {}
        # The longest piece that is written at once; 1 makes every byte a segment of its own.
        self.piece_bytes = 1 << 30
        self._kept = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, *messages: bytes) -> None:
        """Writes messages in one go."""
        data = b"".join(messages)
        for start in range(0, len(data), self.piece_bytes):
            self.socket.sendall(data[start : start + self.piece_bytes])

    def take(self, count: int) -> bytes:
        """The next bytes. Raises Gone when the connection ends before."""
        while len(self._kept) < count:
            try:
                more = self.socket.recv(max(65536, count - len(self._kept)))
            except ConnectionResetError:
                more = b""
            if not more:
                raise Gone(f"closed after {self.seen[-3:]}")
            self._kept += more
        taken, self._kept = self._kept[:count], self._kept[count:]
        return taken

    def read(self) -> Frame:
        """The next message."""
        tag = self.take(1).decode("latin-1")
        (length,) = struct.unpack("!I", self.take(4))
        frame = Frame(tag, self.take(length - 4))
        self.seen.append(frame.line)
        if tag == "Z":
            self.status = frame.body.decode()
        elif tag == "K":
            self.key = (struct.unpack("!I", frame.body[:4])[0], frame.body[4:])
        elif tag == "S":
            name, value, _ = frame.body.split(b"\0")
            self.parameters[name.decode()] = value.decode()
        return frame

    def read_until(self, tag: str) -> list[Frame]:
        """Messages up to and with the first of this kind."""
        frames = [self.read()]
        while frames[-1].tag != tag:
            frames.append(self.read())
        return frames

    def ready(self, count: int = 1) -> list[Frame]:
        """Messages up to the `count`th ReadyForQuery."""
        return [frame for _ in range(count) for frame in self.read_until("Z")]

    def ask(self, *messages: bytes) -> list[Frame]:
        """Sends, and reads up to one ReadyForQuery."""
        self.send(*messages)
        return self.ready()

    def rows(self, sql: str) -> list[list[str | None]]:
        """What a simple query returns. Raises AssertionError for an error."""
        frames = self.ask(query(sql))
        errors = [frame.fields for frame in frames if frame.tag == "E"]
        assert not errors, errors
        return [row(frame) for frame in frames if frame.tag == "D"]

    def value(self, sql: str) -> str | None:
        """The first column of the first row."""
        return self.rows(sql)[0][0]

    def rest(self) -> list[Frame]:
        """All that comes until the other side closes."""
        frames = []
        with contextlib.suppress(Gone):
            while True:
                frames.append(self.read())
        return frames

    def ends(self) -> bool:
        """Whether the other side closes without another word."""
        return self.rest() == []

    def first(self, packet: bytes, *, password: str | None = None) -> list[Frame]:
        """What is said to a startup packet, up to ReadyForQuery or an error; a plain password is given if asked for."""
        self.send(packet)
        frames = []
        while not frames or frames[-1].tag not in "ZE":
            frames.append(self.read())
            if frames[-1] == Frame("R", struct.pack("!I", 3)):
                self.send(message("p", text(password or "")))
        return frames

    def log_in(self, *, password: str | None = None, version: int = PROTOCOL_3_0, **parameters: str) -> list[Frame]:
        """Startup up to ReadyForQuery; answers a request for a plain password only.

        Raises AssertionError if refused.
        """
        frames = self.first(startup(version, **parameters), password=password)
        assert frames[-1].tag == "Z", frames[-1].fields
        return frames

    def start_tls(self, context: ssl.SSLContext, name: str = "localhost") -> None:
        """Begins TLS on the connection as it is."""
        self.socket = context.wrap_socket(self.socket, server_hostname=name)

    def close(self) -> None:
        """Leaves without a word, as a killed process does."""
        self.socket.close()

    def reset(self) -> None:
        """Leaves with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def row(frame: Frame) -> list[str | None]:
    """The values of a DataRow in text form."""
    (count,) = struct.unpack("!H", frame.body[:2])
    values: list[str | None] = []
    at = 2
    for _ in range(count):
        (length,) = struct.unpack("!i", frame.body[at : at + 4])
        at += 4
        if length < 0:
            values.append(None)
        else:
            values.append(frame.body[at : at + length].decode())
            at += length
    return values
