"""PostgreSQL, and forebay before it, fresh for each run of a suite."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness import pooler, postgres
from tests.harness.certificates import Authority
from tests.harness.pooler import Forebay, Section, Variant, configuration
from tests.harness.postgres import Postgres
from tests.software import neighbours
from tests.software.neighbours import Neighbours
from tests.software.shape import Software

# The I/O driver that this machine has, with two workers, so that servers are lent between them.
VARIANT = Variant("auto", 2)

SERVER_SETTINGS = {"max_connections": "200", "max_prepared_transactions": "20", "max_locks_per_transaction": "256"}

# How often forebay is asked how many clients and servers it has.
WATCH_S = 0.2

_SAMPLE = re.compile(r"^forebay_(\w+?)(?:\{(.*)\})? ([0-9.e+]+)$", re.MULTILINE)


@dataclass
class Traffic:
    """What forebay counted of the suite's pool: peaks, and totals at the end. Neighbours are in it."""

    clients_max: int = 0
    servers_max: int = 0
    totals: dict[str, int] = field(default_factory=dict)
    neighbours: Neighbours = field(default_factory=Neighbours)

    def watch(self, metrics: str, pool: str) -> None:
        """Takes one answer of /metrics in."""
        servers = clients = 0
        totals: dict[str, int] = {}
        for name, labels, value in _SAMPLE.findall(metrics):
            if pool not in labels:
                continue
            if name == "servers":
                servers += int(float(value))
            elif name == "pool_clients":
                clients = int(float(value))
            elif name.endswith("_total"):
                totals[name] = totals.get(name, 0) + int(float(value))
        self.clients_max = max(self.clients_max, clients)
        self.servers_max = max(self.servers_max, servers)
        self.totals = totals or self.totals


@contextlib.contextmanager
def server(software: Software, folder: Path) -> Iterator[Postgres]:
    """A fresh PostgreSQL with the software's databases."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**SERVER_SETTINGS, **software.server_settings}
    with postgres.running(software.major, Authority(folder), **settings) as running:
        with running.target.connect(user="postgres", autocommit=True) as admin:
            for name in {software.dbname, *software.setup} - {"postgres"}:
                admin.execute(f'create database "{name}"')  # type: ignore[arg-type]
        for name, statements in software.setup.items():
            with running.target.connect(user="postgres", dbname=name, autocommit=True) as admin:
                for statement in statements:
                    admin.execute(statement)  # type: ignore[arg-type]
        yield running


def sections(software: Software, server: Postgres) -> dict[str, Section]:
    """forebay's configuration: every database and every user that the suite may make, in pools of the same size."""
    pool: dict[str, Any] = {"pool_size": software.pool_size, "query_wait_timeout": "30s", **software.pool_settings}
    found = configuration(
        server, VARIANT, databases={"*": {}}, server_defaults=pool,
        auth={"query": "select usename, passwd from pg_shadow where usename = $1", "user": "postgres",
              "dbname": software.dbname, "cache_negative_for": "0s"},
    )  # fmt: skip
    found['databases."*"'] = {"endpoints": [f"127.0.0.1:{server.port}"]}
    return found


@contextlib.contextmanager
def through(software: Software, server: Postgres, folder: Path) -> Iterator[tuple[Forebay, Traffic]]:
    """forebay before the server, watched, with neighbours in the suite's pool."""
    traffic = Traffic()
    label = f'database="{software.dbname}",user="{software.user}"'
    ended = threading.Event()
    with pooler.running(folder, sections(software, server), VARIANT) as forebay:

        def watch() -> None:
            while not ended.wait(WATCH_S):
                with contextlib.suppress(OSError):
                    traffic.watch(forebay.metrics(), label)

        thread = threading.Thread(target=watch, name="watch")
        thread.start()
        target = forebay.target.at(dbname=software.dbname, user=software.user)
        try:
            with neighbours.living(target, software.neighbours) as traffic.neighbours:
                yield forebay, traffic
            traffic.watch(forebay.metrics(), label)
        finally:
            ended.set()
            thread.join()
