"""A name server that says what a test wants, for a process whose system resolver asks it alone."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.harness.deadline import until

# A loopback address of its own: resolv.conf names no port.
ADDRESS = "127.0.53.53"
_A, _AAAA = 1, 28
_NO_ERROR, _SERVER_FAILURE, _NO_SUCH_NAME = 0, 2, 3


class Names:
    """answers: addresses by name, of both families; names that are not there do not exist. fails, fails_at_v6: with all
    questions, with those for IPv6. What it does may change any time."""

    def __init__(self, folder: Path) -> None:
        self.answers: dict[str, list[str]] = {}
        self.fails = threading.Event()
        self.fails_at_v6 = threading.Event()
        self.is_silent = threading.Event()
        self.asked: Counter[str] = Counter()
        (folder / "resolv.conf").write_text(f"nameserver {ADDRESS}\noptions timeout:2 attempts:1\n")
        (folder / "nsswitch.conf").write_text("hosts: files dns\npasswd: files\ngroup: files\n")
        mounts = [f"mount --bind '{folder / name}' /etc/{name}" for name in ("resolv.conf", "nsswitch.conf")]
        # A command in front of another, which sees these files in the place of the system's.
        self.command = (
            "unshare", "--mount", "--propagation", "private", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh",
        )  # fmt: skip
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def __enter__(self) -> Names:
        try:
            # There is one for all: another process's test has it for as long as it runs.
            until(self._is_bound, within_s=90, what="the name server's address is free")
        except PermissionError as error:
            self._socket.close()
            pytest.skip(f"{ADDRESS}:53 can't be bound: {error}")
        self._socket.settimeout(0.1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def _is_bound(self) -> bool:
        try:
            self._socket.bind((ADDRESS, 53))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        return True

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                question, asker = self._socket.recvfrom(512)
                if (answer := self._answer(question)) is not None:
                    self._socket.sendto(answer, asker)

    def _answer(self, message: bytes) -> bytes | None:
        number, at, labels = message[:2], 12, []
        while length := message[at]:
            labels.append(message[at + 1 : at + 1 + length].decode())
            at += 1 + length
        question = message[12 : at + 5]
        (kind,) = struct.unpack("!H", message[at + 1 : at + 3])
        name = ".".join(labels)
        self.asked[name] += kind == _A
        if self.is_silent.is_set():
            return None
        has_failed = self.fails.is_set() or (kind == _AAAA and self.fails_at_v6.is_set())
        code = _SERVER_FAILURE if has_failed else _NO_ERROR if name in self.answers else _NO_SUCH_NAME
        known = self.answers.get(name, []) if code == _NO_ERROR else []
        found = [ipaddress.ip_address(one).packed for one in known]
        found = [one for one in found if len(one) == {_A: 4, _AAAA: 16}.get(kind)]
        # A pointer to the question's name; its type, class IN, no time to live, so many bytes.
        records = [struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(one)) + one for one in found]
        head = number + struct.pack("!HHHHH", 0x8180 | code, 1, len(records), 0, 0)
        return head + question + b"".join(records)
