"""One connection to a directory: requests one after the other, each with its answer."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from typing import Final, Self

from forebay.control.ldap import ber
from forebay.control.ldap.ber import BadMessage

MESSAGE_BYTES_MAX: Final = 1 << 20
# Entries that a search may return: one is wanted, and two are too many.
ENTRIES_MAX: Final = 2

_BIND, _BIND_ANSWER = 0x60, 0x61
_SEARCH, _ENTRY, _SEARCH_DONE, _REFERENCE = 0x63, 0x64, 0x65, 0x73
_EXTENDED, _EXTENDED_ANSWER = 0x77, 0x78
_UNBIND = 0x42
_STARTTLS: Final = "1.3.6.1.4.1.1466.20037"
_SCOPES: Final = {"base": 0, "one": 1, "sub": 2}
_READ_BYTES: Final = 16 * 1024

SUCCESS: Final = 0
SIZE_LIMIT: Final = 4


class DirectoryFailed(Exception):
    """It can't be reached, or answers what can't be used. The text holds no secret."""


class Connection:
    """Opened by `open`; a context manager closes it. Every step ends by the deadline, or raises DirectoryFailed."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._socket = sock
        self._deadline = deadline
        self._received = bytearray()
        self._last = 0

    @classmethod
    def open(cls, host: str, port: int, *, tls: ssl.SSLContext | None, deadline: float) -> Self:
        """Connects, and begins TLS if `tls` is given. deadline: of time.monotonic()."""
        try:
            sock = socket.create_connection((host, port), timeout=_left(deadline))
        except OSError as error:
            raise DirectoryFailed(f"{host}:{port} can't be reached: {error.strerror or error}") from error
        except UnicodeError as error:
            # Of the encoding of names of hosts: a part of it is empty, or too long.
            raise DirectoryFailed(f"{host} is no name of a host") from error
        connection = cls(sock, deadline)
        if tls is not None:
            connection.encrypt(tls, host)
        return connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._socket.settimeout(0.1)
            self._send(ber.element(_UNBIND))
        except (OSError, DirectoryFailed):
            pass
        finally:
            self._socket.close()

    def encrypt(self, tls: ssl.SSLContext, host: str) -> None:
        """The handshake; the certificate must be one of the host, of a known authority."""
        try:
            self._socket.settimeout(_left(self._deadline))
            self._socket = tls.wrap_socket(self._socket, server_hostname=host)
        except (OSError, ValueError) as error:
            self._socket.close()
            reason = getattr(error, "verify_message", None) or getattr(error, "reason", None) or error
            raise DirectoryFailed(f"TLS with {host} failed: {reason}") from error

    def start_tls(self, tls: ssl.SSLContext, host: str) -> None:
        """Asks for TLS, and begins it."""
        self._send(ber.element(_EXTENDED, ber.text(_STARTTLS, 0x80)))
        code = _result(self._answer(_EXTENDED_ANSWER))
        # Plain bytes behind the answer may have been put there by someone in the middle.
        if code != SUCCESS or self._received:
            raise DirectoryFailed(f"it does not begin TLS (LDAP result {code})")
        self.encrypt(tls, host)

    def bind(self, dn: str, password: str) -> int:
        """The result of a simple bind; 0 is success."""
        self._send(ber.element(_BIND, ber.integer(3), ber.text(dn), ber.text(password, 0x80)))
        return _result(self._answer(_BIND_ANSWER))

    def search(self, base: str, scope: str, search_filter: bytes) -> list[str]:
        """The names of entries; at most two, and none where the directory would not give all that there are."""
        request = (
            ber.text(base), ber.integer(_SCOPES[scope], ber.ENUMERATED), ber.integer(0, ber.ENUMERATED),
            ber.integer(ENTRIES_MAX), ber.integer(max(1, int(_left(self._deadline)))), ber.element(ber.BOOLEAN, b"\0"),
            search_filter, ber.element(ber.SEQUENCE, ber.text("1.1")),
        )  # fmt: skip
        self._send(ber.element(_SEARCH, *request))
        names: list[str] = []
        for tag, contents in self._answers():
            if tag == _ENTRY and len(names) < ENTRIES_MAX:
                names.append(_first_text(contents))
            elif tag == _SEARCH_DONE:
                code = _result(contents)
                if code not in (SUCCESS, SIZE_LIMIT):
                    raise DirectoryFailed(f"the search failed (LDAP result {code})")
                return names if code == SUCCESS else []
            elif tag not in (_ENTRY, _REFERENCE):
                raise DirectoryFailed("it answered a search with something else")
        raise DirectoryFailed("it ended the connection")

    def _send(self, operation: bytes) -> None:
        self._last += 1
        try:
            self._socket.settimeout(_left(self._deadline))
            self._socket.sendall(ber.element(ber.SEQUENCE, ber.integer(self._last), operation))
        except OSError as error:
            raise DirectoryFailed(f"it does not take a request: {error.strerror or error}") from error

    def _answer(self, wanted: int) -> bytes:
        for tag, contents in self._answers():
            if tag != wanted:
                raise DirectoryFailed("it answered with something else")
            return contents
        raise DirectoryFailed("it ended the connection")

    def _answers(self) -> Iterator[tuple[int, bytes]]:
        """Answers to the last request: the tag and the contents of each."""
        while (message := self._message()) is not None:
            try:
                (_, identifier), (tag, contents), *_ = list(ber.elements(message))
                if ber.number(identifier) != self._last:
                    raise DirectoryFailed("it answered another request, or none")
            except (BadMessage, ValueError) as error:
                raise DirectoryFailed(f"it sent a message that can't be read: {error}") from error
            yield tag, contents

    def _message(self) -> bytes | None:
        """The contents of the next message; None at the end of the connection."""
        while True:
            try:
                found = ber.head(bytes(self._received[:8]))
            except BadMessage as error:
                raise DirectoryFailed(f"it sent a message that can't be read: {error}") from error
            if found is not None:
                tag, begin, size = found
                if tag != ber.SEQUENCE or size > MESSAGE_BYTES_MAX:
                    raise DirectoryFailed("it sent something that is not LDAP, or too long")
                if len(self._received) >= begin + size:
                    message = bytes(self._received[begin : begin + size])
                    del self._received[: begin + size]
                    return message
            try:
                self._socket.settimeout(_left(self._deadline))
                more = self._socket.recv(_READ_BYTES)
            except OSError as error:
                raise DirectoryFailed(f"it does not answer: {error.strerror or error}") from error
            if not more:
                return None
            self._received += more


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise DirectoryFailed("it takes too long")
    return left


def _result(contents: bytes) -> int:
    try:
        tag, code = next(ber.elements(contents))
        if tag != ber.ENUMERATED:
            raise BadMessage("there is no result")
        return ber.number(code)
    except (BadMessage, StopIteration) as error:
        raise DirectoryFailed(f"it sent a result that can't be read: {error}") from error


def _first_text(contents: bytes) -> str:
    try:
        _, name = next(ber.elements(contents))
        return name.decode()
    except (BadMessage, StopIteration, UnicodeDecodeError) as error:
        raise DirectoryFailed(f"it sent an entry that can't be read: {error}") from error
