"""A process of idle clients: `idle_clients.py PORT COUNT [tls] [each]`; `each`: they have databases of their own, d0,
d1, … Says `open SECONDS` when all are logged in. At
each line on its standard input it does the next step and says what it did: each asks one query (`used`), each has five
named statements prepared (`named`), all leave."""

from __future__ import annotations

import socket
import ssl
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measuring.line import message, query, refusal, startup
from measuring.processes import raise_nofile

SSL_REQUEST = struct.pack("!II", 8, 80_877_103)
QUERY = query("SELECT abalance FROM pgbench_accounts WHERE aid = 1")
# The same of every client, as those of one application are.
STATEMENTS = (
    "SELECT abalance FROM pgbench_accounts WHERE aid = $1",
    "SELECT bbalance FROM pgbench_branches WHERE bid = $1",
    "SELECT tbalance FROM pgbench_tellers WHERE tid = $1",
    "UPDATE pgbench_accounts SET abalance = abalance + $1 WHERE aid = $2",
    "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES ($1, $2, $3, $4, CURRENT_TIMESTAMP)",
)
PARSES = (message("P", f"s{at}\0{text}\0\0\0".encode()) for at, text in enumerate(STATEMENTS))
PARSES = (message("P", f"s{at}\0{text}\0\0\0".encode()) for at, text in enumerate(STATEMENTS))
NAMED = b"".join(PARSES) + message("S", b"")
ANSWER_S = 60.0


def read_until_ready(client: socket.socket) -> None:
    """Reads up to a ReadyForQuery. Raises RuntimeError if an error comes first."""
    read = b""
    while read[-6:-1] != b"Z\0\0\0\5":
        part = client.recv(65_536)
        read += part
        if not part or refusal(read):
            raise RuntimeError(f"closed or refused: {read[-200:]!r}")


def connected(port: int, hello: bytes, context: ssl.SSLContext | None) -> socket.socket:
    """A client that is logged in."""
    client = socket.create_connection(("127.0.0.1", port), ANSWER_S)
    if context:
        client.sendall(SSL_REQUEST)
        if client.recv(1) != b"S":
            raise RuntimeError("no TLS")
        client = context.wrap_socket(client)
    client.sendall(hello)
    read_until_ready(client)
    return client


def main() -> None:
    """Does the steps, each when told."""
    port, count = int(sys.argv[1]), int(sys.argv[2])
    context = None
    if "tls" in sys.argv[3:]:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    raise_nofile()
    is_each, clients, start = "each" in sys.argv[3:], [], time.time()
    for at in range(count):
        hello = startup({"application_name": "idle", **({"database": f"d{at}"} if is_each else {})})
        clients.append(connected(port, hello, context))
    print("open", round(time.time() - start, 2), flush=True)
    for request, word in ((QUERY, "used"), (NAMED, "named")):
        if not sys.stdin.readline():
            return
        for client in clients:
            client.sendall(request)
            read_until_ready(client)
        print(word, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
