"""A process of many clients that come together: one thread, sockets that never block.

`crowd.py storm PORT COUNT PATIENCE_S`: all connect at once, ask one query each, and stay until a line comes on the
standard input. `crowd.py busy PORT COUNT SECONDS`: so they come, and at that line all ask for so long, each again as
soon as it was answered. `crowd.py churn PORT RATE SECONDS`: so many a second connect, ask and leave, whether or not
those before them were served. Each says what became of them as one line of JSON.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measuring.line import message, query, refusal, startup
from measuring.processes import raise_nofile

HELLO = startup({"application_name": "crowd"})
QUERY = query("SELECT abalance FROM pgbench_accounts WHERE aid = 1")
GOODBYE = message("X", b"")
READY = b"Z\0\0\0\5"
CHUNK_BYTES = 65_536
EVENTS_MAX = 512
WAIT_S = 0.1
# Those that came last are waited for this long, and those that asked last.
CHURN_PATIENCE_S = 5.0
# By then all that will ever be let in are.
BUSY_PATIENCE_S = 40.0


@dataclass(slots=True)
class Client:
    """One of them. next: what it sends once it may, its StartupMessage, then its query; empty: it asked."""

    socket: socket.socket
    since: float
    next: bytes = HELLO


class Crowd:
    """Clients under way, and what became of those before them."""

    def __init__(self, port: int, leave: Callable[[Client], None]) -> None:
        self._port, self._leave = port, leave
        self._poll = select.epoll()
        self.under_way: dict[int, Client] = {}
        self.failures: Counter[str] = Counter()
        # Seconds from the connect to the answer.
        self.served: list[float] = []

    def come(self, since: float) -> None:
        """One more. since: when it was due."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        refused = sock.connect_ex(("127.0.0.1", self._port))
        if refused not in (0, errno.EINPROGRESS):
            self.failures[os.strerror(refused)] += 1
            sock.close()
            return
        self.under_way[sock.fileno()] = Client(sock, since)
        self._poll.register(sock, select.EPOLLOUT)

    def turn(self, wait_s: float) -> None:
        """Does what can be done; waits so long for the first of it."""
        for fd, _ in self._poll.poll(wait_s, EVENTS_MAX):
            client = self.under_way[fd]
            try:
                reason = self._step(fd, client)
            except OSError as error:
                reason = error.strerror or str(error)
            if reason:
                self.failures[reason] += 1
                self._poll.unregister(fd)
                del self.under_way[fd]
                client.socket.close()

    def _step(self, fd: int, client: Client) -> str | None:
        """One client goes on. Returns why it failed, if it did."""
        if client.next is HELLO:
            if failed := client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                return os.strerror(failed)
            client.socket.send(HELLO)
            client.next = QUERY
            self._poll.modify(fd, select.EPOLLIN)
            return None
        came = client.socket.recv(CHUNK_BYTES)
        if not came:
            return "closed"
        if why := refusal(came):
            return why
        if came[-6:-1] != READY:
            return None  # the rest comes
        if client.next:
            client.socket.send(client.next)
            client.next = b""
            return None
        self.served.append(time.time() - client.since)
        self._poll.unregister(fd)
        del self.under_way[fd]
        self._leave(client)
        return None

    def said(self, **more: float) -> str:
        """What became of them."""
        figures = {"served": len(self.served), "refused": sum(self.failures.values()), "unserved": len(self.under_way)}
        return json.dumps({**figures, **waits(self.served), "why": self.failures, **more})


def waits(seconds: list[float]) -> dict[str, float]:
    """How long they waited, in milliseconds."""
    waited = sorted(seconds) or [0.0]
    n = len(waited)
    shares = {f"p{share}_ms": waited[min(n - 1, n * share // 100)] * 1000 for share in (50, 99)}
    return {**shares, "mean_ms": sum(waited) / n * 1000, "max_ms": waited[-1] * 1000}


def storm(port: int, count: int, patience_s: float) -> list[Client]:
    """All at once; each stays."""
    stay: list[Client] = []
    crowd = Crowd(port, stay.append)
    start = time.time()
    for _ in range(count):
        crowd.come(start)
    called_s = time.time() - start
    while crowd.under_way and time.time() < start + patience_s:
        crowd.turn(WAIT_S)
    print(crowd.said(seconds=time.time() - start, called_s=called_s), flush=True)
    sys.stdin.readline()
    return stay


def leave(clients: list[Client]) -> None:
    """All go."""
    for client in clients:
        client.socket.send(GOODBYE)
        client.socket.close()


def busy(clients: list[Client], seconds: float) -> None:
    """Each asks again once it was answered; what was asked in time is waited for."""
    poll, asked = select.epoll(), {client.socket.fileno(): client for client in clients}
    counts, waited = dict.fromkeys(asked, 0), list[float]()
    print("begun", flush=True)
    start = time.time()
    for fd, client in asked.items():
        client.since = time.time()
        client.socket.send(QUERY)
        poll.register(fd, select.EPOLLIN)
    end = start + seconds
    while asked and time.time() < end + CHURN_PATIENCE_S:
        for fd, _ in poll.poll(WAIT_S, EVENTS_MAX):
            client = asked[fd]
            came = client.socket.recv(CHUNK_BYTES)
            if came[-6:-1] != READY:
                if not came or refusal(came):
                    raise RuntimeError(f"a client that was let in lost its session: {refusal(came) or 'closed'}")
                continue  # the rest comes
            now = time.time()
            if now < end:
                waited.append(now - client.since)
                counts[fd] += 1
                client.since = now
                client.socket.send(QUERY)
            else:
                del asked[fd]
    said = {"n": len(waited), "seconds": seconds, "unserved": len(asked), **waits(waited)}
    print(json.dumps({**said, "least": min(counts.values()), "most": max(counts.values())}), flush=True)


def churn(port: int, rate: float, seconds: float) -> None:
    """So many a second; each leaves when it was answered."""

    crowd = Crowd(port, lambda client: leave([client]))
    start = time.time()
    due = deque(start + i / rate for i in range(int(rate * seconds)))
    is_said = False
    while due or (crowd.under_way and time.time() < start + seconds + CHURN_PATIENCE_S):
        while due and due[0] <= time.time():
            crowd.come(due.popleft())
        crowd.turn(max(0.0, min(WAIT_S, due[0] - time.time())) if due else WAIT_S)
        if crowd.served and not is_said:
            print("begun", flush=True)
            is_said = True
    print(crowd.said(), flush=True)


def main() -> None:
    """Does what the arguments say."""
    kind, port, first, second = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    raise_nofile()
    if kind == "storm":
        leave(storm(port, int(first), second))
    elif kind == "busy":
        clients = storm(port, int(first), BUSY_PATIENCE_S)
        busy(clients, second)
        leave(clients)
    else:
        churn(port, first, second)


if __name__ == "__main__":
    main()
