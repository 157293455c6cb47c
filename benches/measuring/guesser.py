"""Logins by SCRAM from one process: one thread, sockets that never block.

`guesser.py guess PORT USER RATE SECONDS`: so many a second, from 127.0.0.2 to 127.0.0.50 in turn, each with a proof of
random bytes. `guesser.py prove PORT USER RATE SECONDS`: from 127.0.0.1, with the proof of the bench's password. Each
says what became of them as one line of JSON, with how long they took from the connect to the verdict; the first line
is `begun`. `probe` is `guess` at the priority of others, for the time that a refusal takes.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import hmac
import json
import os
import select
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measuring.crowd import waits
from measuring.line import message, refusal, startup
from measuring.processes import raise_nofile
from measuring.workloads import PASSWORD

SOURCES = [f"127.0.0.{number}" for number in range(2, 51)]
CHUNK_BYTES = 8192
EVENTS_MAX = 512
PATIENCE_S = 5.0
SASL, SASL_CONTINUE = 10, 11
FIRST = "n=,r=MDEyMzQ1Njc4OTAxMjM0NTY3"
BEGIN = message("p", b"SCRAM-SHA-256\0" + len(f"n,,{FIRST}").to_bytes(4) + f"n,,{FIRST}".encode())


@dataclass(slots=True)
class Login:
    """One under way. since: when it was due."""

    socket: socket.socket
    since: float
    is_begun: bool = False


class Logins:
    """Those under way, and what became of those before them. is_right: with the password's proof."""

    def __init__(self, port: int, user: str, *, is_right: bool) -> None:
        self._port, self._is_right = port, is_right
        self._hello = startup({"user": user, "application_name": "guesser"})
        self._poll = select.epoll()
        self._keys: dict[tuple[str, int], tuple[bytes, bytes]] = {}
        self._count = 0
        self.under_way: dict[int, Login] = {}
        self.ends: Counter[str] = Counter()
        self.took: list[float] = []

    def come(self, since: float) -> None:
        """One more."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._count += 1
        if not self._is_right:
            sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            sock.bind((SOURCES[self._count % len(SOURCES)], 0))
        refused = sock.connect_ex(("127.0.0.1", self._port))
        if refused not in (0, errno.EINPROGRESS):
            self.ends[os.strerror(refused)] += 1
            sock.close()
            return
        self.under_way[sock.fileno()] = Login(sock, since)
        self._poll.register(sock, select.EPOLLOUT)

    def turn(self, wait_s: float) -> None:
        """Does what can be done; waits so long for the first of it."""
        for fd, _ in self._poll.poll(wait_s, EVENTS_MAX):
            login = self.under_way[fd]
            try:
                end = self._step(login)
            except OSError as error:
                end = error.strerror or str(error)
            if end:
                self.ends[end] += 1
                if end in ("let in", "refused"):
                    self.took.append(time.time() - login.since)
                self._poll.unregister(fd)
                del self.under_way[fd]
                # Without a TIME_WAIT for each: ports are few.
                login.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                login.socket.close()

    def _step(self, login: Login) -> str:
        """One goes on. Returns its end, if it has come to that."""
        if not login.is_begun:
            if failed := login.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                return os.strerror(failed)
            login.socket.send(self._hello)
            login.is_begun = True
            self._poll.modify(login.socket, select.EPOLLIN)
            return ""
        came = login.socket.recv(CHUNK_BYTES)
        if not came:
            return "closed"
        if why := refusal(came):
            return "refused" if "authentication failed" in why else why
        kind = int.from_bytes(came[5:9]) if came[:1] == b"R" else -1
        if kind == SASL:
            login.socket.send(BEGIN)
        elif kind == SASL_CONTINUE:
            login.socket.send(self._final(came[9 : 1 + int.from_bytes(came[1:5])].decode()))
        elif b"Z\0\0\0\5" in came:
            return "let in"
        return ""

    def _final(self, challenge: str) -> bytes:
        nonce, salt, rounds = (part[2:] for part in challenge.split(","))
        bare = f"c=biws,r={nonce}"
        proof = os.urandom(32)
        if self._is_right:
            client_key, stored_key = self._derived(salt, int(rounds))
            signature = hmac.digest(stored_key, f"{FIRST},{challenge},{bare}".encode(), "sha256")
            proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        return message("p", f"{bare},p={base64.b64encode(proof).decode()}".encode())

    def _derived(self, salt: str, rounds: int) -> tuple[bytes, bytes]:
        """ClientKey and StoredKey; the salt of a stored verifier is always the same."""
        if (salt, rounds) not in self._keys:
            salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), base64.b64decode(salt), rounds)
            client_key = hmac.digest(salted, b"Client Key", "sha256")
            self._keys[salt, rounds] = client_key, hashlib.sha256(client_key).digest()
        return self._keys[salt, rounds]


def main() -> None:
    """Does what the arguments say."""
    kind, port, user, rate, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4]), float(sys.argv[5])
    raise_nofile()
    if kind == "guess":
        # Those who guess have machines of their own: what they need of this one must not be what others miss.
        os.nice(19)
    logins = Logins(port, user, is_right=kind == "prove")
    print("begun", flush=True)
    start, sent = time.time(), 0
    while time.time() < start + seconds:
        due = int((time.time() - start) * rate)
        # What it is late with is asked for at once, up to a tenth of a second of it: the rest is not made up for.
        sent = max(sent, due - int(rate / 10))
        for number in range(sent, due):
            logins.come(start + (number + 1) / rate)
        sent = max(sent, due)
        logins.turn(min(0.002, 1 / rate))
    asked = logins._count
    with contextlib.suppress(KeyboardInterrupt):
        while logins.under_way and time.time() < start + seconds + PATIENCE_S:
            logins.turn(0.05)
    figures = {"a_second": asked / seconds, "ends": logins.ends, "unserved": len(logins.under_way)}
    print(json.dumps({**figures, **waits(logins.took)}), flush=True)


if __name__ == "__main__":
    main()
