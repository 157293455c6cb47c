"""A TCP proxy that misbehaves on request: cuts, stalls, slows down."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time

# The client's side and the server's.
Pair = tuple[socket.socket, socket.socket]


class Toxi:
    """Stands before a port of 127.0.0.1. Its own is `port`, if given, of `host`; what it does may change any time.

    listener: where it listens instead, if that is elsewhere.
    """

    def __init__(
        self, target_port: int, port: int = 0, host: str = "127.0.0.1", *, listener: socket.socket | None = None
    ) -> None:
        self._target_port = target_port
        self._listener = listener or socket.create_server((host, port))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[Pair] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        # Nothing passes towards the client, or towards the server, while set.
        self.holds_replies = threading.Event()
        self.holds_requests = threading.Event()
        # Whoever comes is reset, while set.
        self.refuses = threading.Event()
        # A connection is reset once this was seen in what the client sends, after it was passed on.
        self.cuts_after: bytes | None = None
        # The same, without its being passed on.
        self.cuts_before: bytes | None = None
        # Nothing passes towards the client once this was seen in what one sends; it is passed on.
        self.holds_replies_after: bytes | None = None
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Toxi:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.cut()
        self._thread.join(5)
        self._listener.close()

    def leads_to(self, port: int) -> None:
        """Whoever comes from here on is led there."""
        self._target_port = port

    def cut(self) -> None:
        """Resets every connection."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for one in pair:
                reset(one)

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._stop.is_set():
                if not selector.select(0.05):
                    continue
                client, _ = self._listener.accept()
                if self.refuses.is_set():
                    reset(client)
                    continue
                try:
                    upstream = socket.create_connection(("127.0.0.1", self._target_port), timeout=5)
                except OSError:
                    reset(client)
                    continue
                for one in (client, upstream):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    one.settimeout(0.05)
                pair = (client, upstream)
                with self._lock:
                    self._pairs.append(pair)
                for source, sink, hold in ((*pair, self.holds_requests), (*reversed(pair), self.holds_replies)):
                    threading.Thread(target=self._pump, args=(source, sink, hold, pair), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, hold: threading.Event, pair: Pair) -> None:
        with contextlib.suppress(OSError):
            while not self._stop.is_set():
                if hold.is_set():
                    time.sleep(0.005)
                    continue
                try:
                    data = source.recv(65536)
                except TimeoutError:
                    continue
                if not data:
                    break
                while hold.is_set() and not self._stop.is_set():
                    # It was set while this waited for data.
                    time.sleep(0.005)
                if source is pair[0] and self.cuts_before is not None and self.cuts_before in data:
                    break
                if source is pair[0] and self.holds_replies_after is not None and self.holds_replies_after in data:
                    self.holds_replies.set()
                sink.sendall(data)
                if source is pair[0] and self.cuts_after is not None and self.cuts_after in data:
                    break
        with self._lock:
            if pair in self._pairs:
                self._pairs.remove(pair)
        for one in pair:
            reset(one)


def reset(one: socket.socket) -> None:
    """Closes with a TCP reset, and ends what waits on it."""
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.shutdown(socket.SHUT_RDWR)
    one.close()
