"""Looks at forebay's console while programs run, and writes down what there is when a client waits for long.

A wait that ends with FB201 may be a server that is stuck, or a machine that is slow: only that moment can tell.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg.rows import dict_row

from tests.harness.pooler import Forebay
from tests.harness.postgres import Postgres

# A wait that is worth a look, in seconds.
WAIT_S = 2

# Between two looks.
EVERY_S = 0.7

# Of what is written down in one run.
LOOKS_MAX = 50

ACTIVITY = """select pid, datname, state, wait_event_type, wait_event, now() - query_start as since, left(query, 150)
from pg_stat_activity where datname like 'diff%pooled' and state <> 'idle'"""


@contextlib.contextmanager
def watching(server: Postgres, forebay: Forebay, path: Path) -> Iterator[None]:
    """Writes to `path` what is found, for as long as the block lasts."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(server, forebay, path, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5)


def _watch(server: Postgres, forebay: Forebay, path: Path, over: threading.Event) -> None:
    looks = 0
    while not over.is_set() and looks < LOOKS_MAX:
        # A console that does not answer is what the run itself finds.
        with contextlib.suppress(psycopg.Error, OSError), _console(forebay) as console:
            while looks < LOOKS_MAX and not over.wait(EVERY_S):
                waiting = [row for row in _rows(console, "SHOW POOLS") if int(str(row["maxwait"] or 0)) >= WAIT_S]
                for pool in waiting:
                    looks += 1
                    with path.open("a") as out:
                        out.write("\n".join(_look(server, console, pool)) + "\n")
        over.wait(EVERY_S)


def _look(server: Postgres, console: psycopg.Connection[dict[str, object]], pool: dict[str, object]) -> Iterator[str]:
    yield f"===== {time.strftime('%H:%M:%S')}, load {os.getloadavg()[0]:.1f}: {_said(pool)}"
    for what in ("CLIENTS", "SERVERS", "PINS"):
        for row in _rows(console, f"SHOW {what}"):
            if row["database"] == pool["database"]:
                yield f"{what}: {_said(row)}"
    with psycopg.connect(
        host="127.0.0.1", port=server.port, user="postgres", dbname="postgres", row_factory=dict_row
    ) as admin:
        for row in admin.execute(ACTIVITY):
            yield f"PostgreSQL: {_said(row)}"


def _console(forebay: Forebay) -> psycopg.Connection[dict[str, object]]:
    return psycopg.connect(
        host="127.0.0.1", port=forebay.port, user="ops", dbname="forebay", autocommit=True, connect_timeout=10,
        row_factory=dict_row, cursor_factory=psycopg.ClientCursor,
    )  # fmt: skip


def _rows(console: psycopg.Connection[dict[str, object]], command: str) -> list[dict[str, object]]:
    return console.execute(command.encode()).fetchall()


def _said(row: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items() if value not in (None, "", 0, "0"))
