"""A process of idle clients: `idle_clients.py PORT COUNT`. Says `open SECONDS` when all are logged in; at a line on its
standard input each asks one query and it says `used`; at a second line it ends."""

from __future__ import annotations

import socket
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measuring.processes import raise_nofile
from measuring.workloads import DB, USER

PROTOCOL_3_0 = 196_608
QUERY = b"SELECT abalance FROM pgbench_accounts WHERE aid = 1\0"
ANSWER_S = 60.0


def startup_message() -> bytes:
    """With which each logs in, as trusted."""
    body = struct.pack("!I", PROTOCOL_3_0)
    body += f"user\0{USER}\0database\0{DB}\0application_name\0idle\0\0".encode()
    return struct.pack("!I", len(body) + 4) + body


def read_until_ready(client: socket.socket) -> None:
    """Reads up to a ReadyForQuery. Raises RuntimeError if an error comes first."""
    read = b""
    while read[-6:-1] != b"Z\0\0\0\5":
        part = client.recv(65_536)
        read += part
        if not part or read[:1] == b"E":
            raise RuntimeError(f"closed or refused: {read[-200:]!r}")


def main() -> None:
    """Does the steps, each when told."""
    port, count = int(sys.argv[1]), int(sys.argv[2])
    raise_nofile()
    hello, clients, start = startup_message(), [], time.time()
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", port), ANSWER_S)
        client.sendall(hello)
        read_until_ready(client)
        clients.append(client)
    print("open", round(time.time() - start, 2), flush=True)
    sys.stdin.readline()
    for client in clients:
        client.sendall(b"Q" + struct.pack("!I", 4 + len(QUERY)) + QUERY)
        read_until_ready(client)
    print("used", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
