"""What is measured: pgbench runs, each a name."""

from __future__ import annotations

from dataclasses import dataclass

USER, DB, PASSWORD = "bench", "bench", "bench"
# Behind direct and the relays PostgreSQL itself asks for SCRAM, of this user.
SCRAM_USER = "bench_scram"


@dataclass(frozen=True, slots=True)
class Workload:
    """One way to run pgbench."""

    clients: int
    arguments: tuple[str, ...] = ()
    script: str = ""
    auth: str = "trust"
    is_encrypted: bool = False
    # Of pgbench: one connects after the other in each.
    threads: int = 1


WORKLOADS = {
    "select": Workload(32, ("-S",)),
    "prepared": Workload(32, ("-S", "-M", "prepared")),
    "extended": Workload(32, ("-S", "-M", "extended")),
    "tpcb": Workload(32),
    "select1": Workload(32, script="SELECT 1;\n"),
    # 100 KB and 10 MB.
    "wide": Workload(8, script="SELECT repeat('x', 1000) FROM generate_series(1, 100);\n"),
    "huge": Workload(2, script="SELECT repeat('x', 1000) FROM generate_series(1, 10000);\n"),
    "connect": Workload(8, ("-S", "-C")),
    "connect-scram": Workload(8, ("-S", "-C"), auth="scram"),
    "connect-tls": Workload(8, ("-S", "-C"), auth="scram", is_encrypted=True),
    "connect-threads": Workload(8, ("-S", "-C"), threads=8),
    "threads": Workload(500, ("-S",), threads=500),
    "many": Workload(1000, ("-S",)),
    "one": Workload(1, ("-S",)),
}
