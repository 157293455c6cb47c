"""What a TLS handshake costs a pooler, and what one costs that takes up a session again: a ticket in place of a
certificate and a signature. libpq keeps no session, so a client of ours does (visits.py)."""

from __future__ import annotations

from measuring import rounds
from measuring.loads import loading, window
from measuring.pooler import Pooler
from measuring.tables import Row
from measuring.window import Bench

# As visits.py is told them.
HANDSHAKES = {"full": "tls", "resumed": "resumed"}


def run(bench: Bench, *, poolers: list[str], count: int, seconds: float) -> None:
    """Measures and records all poolers, in as many rounds: SCRAM over TLS 1.3, one connection after the other."""

    def measure(pooler: Pooler, number: int) -> None:
        for handshake, how in HANDSHAKES.items():
            with loading("visits.py", pooler.port, pooler.user, seconds, how) as load:
                row = window(bench, pooler, load)
            row |= {"handshake": handshake, "round": number, "pooler": pooler.name}
            bench.record(**row)
            print(line(row), flush=True)

    def start(name: str) -> Pooler:
        return bench.start(name, "scram", is_encrypted=True)

    rounds.each(bench, poolers=poolers, rounds=count, workload="resume", measure=measure, start=start)


def line(row: Row) -> str:
    """A row for people who watch."""
    return (
        f"{row['pooler']:16} {row['round']} {row['handshake']:8} n {row['n']:6}, {row['resumed']} resumed  CPU "
        f"{row['cpu_us']:7.1f}  pg {row['pg_us']:6.1f}  client {row['load_us']:7.1f}  p50 {row['p50_us'] / 1000:.2f} ms"
        f"  foreign {row['foreign']:.2f}"
    )
