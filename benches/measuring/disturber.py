"""A client that others may suffer from: `disturber.py KIND PORT SECONDS`.

Says `begun` when the first answer comes, and when its time is over what it did, as a line of JSON. It asks again at a
pace of its own, so that a pooler that serves it sooner has no more to do for it, and goes in the midst of it.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measuring.line import Line, message, query, refusal

# 1 GB. The rows come one by one: PostgreSQL keeps none of them, and spends little on each.
ROWS, ROW_BYTES = 250_000, 4_000
RESULT = query(f"SELECT repeat('x', {ROW_BYTES}) FROM (SELECT generate_series(1, {ROWS})) AS rows")
STATEMENTS = 100_000
STATEMENT = (
    message("P", b"\0SELECT 1\0" + struct.pack("!H", 0))
    + message("B", b"\0\0" + struct.pack("!HHH", 0, 0, 0))
    + message("E", b"\0" + struct.pack("!I", 0))
)
SYNC = message("S", b"")
# Every statement is a request of its own, or all are one.
PIPELINES = {"pipeline": STATEMENT * STATEMENTS + SYNC, "syncs": (STATEMENT + SYNC) * STATEMENTS}
READY, ANSWER = b"Z\0\0\0\5I", b"SELECT 1\0"
# More than a mark, so that none is missed.
END_BYTES = 16
CHUNK_BYTES = 1 << 20
SLOW_BYTES, SLOW_S = 1024, 1.0
# The kernel takes no more than about this in for a client that does not read.
SLOW_BUFFER_BYTES = 4096
TICK_S = 0.05
# From one request to the next, at the soonest.
PULL_PACE_S, PIPELINE_PACE_S = 4.0, 1.0
KINDS = ("pull", "slow", *PIPELINES)


class Reader:
    """What a client reads: how much, and how often a mark is in it, also where one is cut in two."""

    def __init__(self) -> None:
        self.bytes = self.readies = self.answers = 0
        self._end = b""

    def take(self, data: bytes) -> None:
        """The next part. Raises RuntimeError where an error is in it."""
        if not self.bytes:
            print("begun", flush=True)
        if why := refusal(data):
            raise RuntimeError(why)
        both = self._end + data
        self.bytes += len(data)
        self.readies += both.count(READY) - self._end.count(READY)
        self.answers += both.count(ANSWER) - self._end.count(ANSWER)
        self._end = both[-END_BYTES:]


def pull(line: Line, reader: Reader, end: float) -> None:
    """Reads the result as fast as it comes."""
    asked, due = 0, time.time()
    line.socket.settimeout(TICK_S)
    while time.time() < end:
        if asked == reader.readies and time.time() >= due:
            line.send(RESULT)
            asked, due = asked + 1, time.time() + PULL_PACE_S
        try:
            reader.take(line.socket.recv(CHUNK_BYTES))
        except TimeoutError:
            continue


def slow(line: Line, reader: Reader, end: float) -> None:
    """Reads the result at 1 KB a second."""
    line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER_BYTES)
    line.send(RESULT)
    while time.time() < end:
        reader.take(line.socket.recv(SLOW_BYTES))
        time.sleep(SLOW_S)


def pipeline(line: Line, reader: Reader, end: float, statements: bytes) -> None:
    """Writes all statements as fast as they are taken and reads what comes meanwhile."""
    asked, rest, due = 0, memoryview(b""), time.time()
    line.socket.setblocking(False)
    in_one = statements.count(SYNC)
    while time.time() < end:
        if not rest and reader.readies == asked and time.time() >= due:
            rest, due = memoryview(statements), time.time() + PIPELINE_PACE_S
            asked += in_one
        readable, writable, _ = select.select([line.socket], [line.socket] if rest else [], [], TICK_S)
        if readable:
            reader.take(line.socket.recv(CHUNK_BYTES))
        if writable:
            rest = rest[line.socket.send(rest[:CHUNK_BYTES]) :]


def main() -> None:
    """Disturbs."""
    kind, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    line, reader = Line(port), Reader()
    start = time.time()
    end = start + seconds
    if kind == "pull":
        pull(line, reader, end)
    elif kind == "slow":
        slow(line, reader, end)
    else:
        pipeline(line, reader, end, PIPELINES[kind])
    done = {"statements": reader.answers} if kind in PIPELINES else {"megabytes": reader.bytes / 1e6}
    print(json.dumps({**done, "seconds": time.time() - start}), flush=True)


if __name__ == "__main__":
    main()
