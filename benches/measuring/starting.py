"""How long a pooler takes from its start until it takes connections, and until the first client is logged in, for which
it has to log in to PostgreSQL; and how big forebay's wheel is."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path

from measuring import rounds
from measuring.line import Line
from measuring.pooler import Pooler
from measuring.tables import Row
from measuring.window import Bench


def run(bench: Bench, *, poolers: list[str], count: int, wheel: Path | None) -> None:
    """Starts each pooler so many times, in turn, and records every start; then the wheel."""

    def measure(pooler: Pooler, number: int) -> None:
        begin = time.perf_counter()
        session = Line(pooler.port)
        logged_in_s = pooler.listening_s + time.perf_counter() - begin
        session.close()
        assert pooler.group
        row: Row = {"start": True, "round": number, "pooler": pooler.name, "listening_s": pooler.listening_s}
        row |= {"logged_in_s": logged_in_s, "cpu_s": pooler.group.cpu_us() / 1e6}
        bench.record(**row)
        print(line(row), flush=True)

    rounds.each(bench, poolers=poolers, rounds=count, workload="startup", measure=measure)
    if wheel:
        row = sizes(wheel)
        bench.record(**row)
        print(row, flush=True)


def sizes(wheel: Path) -> Row:
    """Bytes of a wheel, of what it holds, and of the engine in it."""
    with zipfile.ZipFile(wheel) as opened:
        held = opened.infolist()
    engine = [each for each in held if each.filename.endswith(".so")]
    return {
        "wheel": wheel.name, "bytes": wheel.stat().st_size, "unpacked_bytes": sum(each.file_size for each in held),
        "engine_bytes": sum(each.file_size for each in engine),
    }  # fmt: skip


def line(row: Row) -> str:
    """A row for people who watch."""
    return (
        f"{row['pooler']:16} {row['round']:3} listens after {row['listening_s'] * 1000:6.1f} ms, first client logged "
        f"in after {row['logged_in_s'] * 1000:6.1f} ms, CPU {row['cpu_s'] * 1000:6.1f} ms"
    )
