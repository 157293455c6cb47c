"""A network between both ends: `far.py PORT MS`, a relay to a port of this host that keeps all it gets for half of a
round trip of so many milliseconds, either way. Says the port that it listens on.

The kernel answers a connect by itself and at once, so the first bytes are kept for the round trip that a connect takes.
It stands in for what the kernel can add to a link (tc-netem), which not every kernel has. One thread, timers of a
millisecond: a round trip takes up to two more, which whoever measures through it should measure as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

CHUNK_BYTES = 65_536
# Pieces that are under way in one direction.
UNDER_WAY_MAX = 1_024


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float, first_s: float) -> None:
    """Passes on what comes, each piece after the delay, none before `first_s`."""
    clock = asyncio.get_running_loop().time
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(UNDER_WAY_MAX)
    earliest = clock() + first_s

    async def deliver() -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(due - clock())
            if not piece:
                writer.close()
                return
            writer.write(piece)
            await writer.drain()

    delivering = asyncio.create_task(deliver())
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(CHUNK_BYTES):
            await pieces.put((max(clock(), earliest) + delay_s, piece))
    await pieces.put((clock() + delay_s, b""))
    with contextlib.suppress(ConnectionError):
        await delivering


async def serve(server_port: int, round_trip_s: float) -> None:
    """Takes connections until it is ended."""

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection("127.0.0.1", server_port)
        for each in (writer, to_there):
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        half = round_trip_s / 2
        await asyncio.gather(_carry(reader, to_there, half, round_trip_s), _carry(there, writer, half, 0.0))

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
