"""Much data through one client: COPY out, COPY in and a big result. The client looks at none of it but the end."""

from __future__ import annotations

import time

from measuring.line import Line, message, query, refusal
from measuring.pooler import Pooler
from measuring.rounds import each
from measuring.tables import Row
from measuring.window import Bench

ROW_BYTES = 1_000
# PostgreSQL makes the rows one by one and keeps none.
ROWS = f"SELECT repeat('x', {ROW_BYTES}) FROM (SELECT generate_series(1, {{}})) AS rows"
# As libpq's programs send it: messages of some 8 KB.
IN_ROWS = 8
COPY_DATA = message("d", (b"x" * ROW_BYTES + b"\n") * IN_ROWS)
IN_ONE_SEND = 8
CHUNK_BYTES = 1 << 20
# Enough for CommandComplete and an error before it.
TAIL_BYTES = 1024
READY = b"Z\0\0\0\5I"
TABLE = "CREATE UNLOGGED TABLE bulk (line text)"
KINDS = ("copy out", "result", "copy in")


def run(bench: Bench, *, poolers: list[str], megabytes: int, rounds: int, times: int) -> None:
    """Measures and records all poolers, in rounds."""
    with_table = bench.start("direct")
    line = Line(with_table.port)
    line.ask(query(TABLE), 1)
    line.close()

    def measure(pooler: Pooler, number: int) -> None:
        for kind in [kind for kind in KINDS for _ in range(times)]:
            row = _measure(bench, pooler, kind, megabytes)
            row |= {"bulk": kind, "round": number, "pooler": pooler.name, "megabytes": megabytes}
            bench.record(**row)
            print(shown(row), flush=True)

    each(bench, poolers=poolers, rounds=rounds, workload="bulk", measure=measure)


def _measure(bench: Bench, pooler: Pooler, kind: str, megabytes: int) -> Row:
    rows = megabytes * 1_000_000 // ROW_BYTES
    line = Line(pooler.port)
    line.ask(query("TRUNCATE bulk"), 1)
    start = pooler.group.own_kib() if pooler.group else 0
    if pooler.group:
        pooler.group.start_peak()
    cpu, pg_cpu, begin = pooler.group.cpu_us() if pooler.group else 0.0, bench.pg.group.cpu_us(), time.time()
    if kind == "copy in":
        fill(line, rows)
    else:
        drain(line, ROWS.format(rows), rows, is_copy=kind == "copy out")
    seconds = time.time() - begin
    row = {
        "seconds": seconds,
        "cpu_s_per_gb": ((pooler.group.cpu_us() if pooler.group else 0.0) - cpu) / megabytes / 1000,
        "pg_s_per_gb": (bench.pg.group.cpu_us() - pg_cpu) / megabytes / 1000,
        "start_kib": start,
        "peak_kib": pooler.group.peak_kib() if pooler.group else 0,
    }
    line.close()
    return row


def drain(line: Line, rows: str, count: int, *, is_copy: bool) -> None:
    """Reads all rows of a query. Raises RuntimeError where they are not so many."""
    line.send(query(f"COPY ({rows}) TO STDOUT" if is_copy else rows))
    _read_to_end(line, f"{'COPY' if is_copy else 'SELECT'} {count}")


def fill(line: Line, count: int) -> None:
    """Copies as many rows in. Raises RuntimeError where the server tells another number."""
    line.send(query("COPY bulk FROM STDIN"))
    asked = line.socket.recv(CHUNK_BYTES)
    if asked[:1] != b"G":
        raise RuntimeError(f"no COPY: {asked!r}")
    messages = count // IN_ROWS
    together = COPY_DATA * IN_ONE_SEND
    for _ in range(messages // IN_ONE_SEND):
        line.send(together)
    line.send(message("c", b""))
    _read_to_end(line, f"COPY {messages // IN_ONE_SEND * IN_ONE_SEND * IN_ROWS}")


def _read_to_end(line: Line, tag: str) -> None:
    buffer, tail = bytearray(CHUNK_BYTES), b""
    view = memoryview(buffer)
    while not tail.endswith(READY):
        came = line.socket.recv_into(buffer)
        if not came:
            raise RuntimeError("the connection ended")
        tail = (tail + bytes(view[max(0, came - TAIL_BYTES) : came]))[-TAIL_BYTES:]
    if tag.encode() + b"\0" not in tail:
        raise RuntimeError(f"not {tag}: {refusal(tail) or tail[-80:]!r}")


def shown(row: Row) -> str:
    """A row for people who watch."""
    return (
        f"{row['pooler']:16} {row['round']} {row['bulk']:8} {row['seconds']:6.2f} s  CPU {row['cpu_s_per_gb']:.3f} s/GB"
        f"  pg {row['pg_s_per_gb']:.2f} s/GB  MiB at the start {row['start_kib'] / 1024:.1f}, peak "
        f"{row['peak_kib'] / 1024:.1f}"
    )
