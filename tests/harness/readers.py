"""Clients that read as fast as they are answered, and note who answered, when, and how long it took."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.harness.postgres import Postgres
from tests.harness.target import Target
from tests.harness.wire import Gone, Wire, query, row

# Takes as long as its server is told to, and tells which one that is.
NAP = "select current_setting('port'), pg_sleep(current_setting('nap.s')::float)"


def tell(server: Postgres, name: str, value: str) -> None:
    """Gives a server a setting of its own, a standby too."""
    with server.target.at(user="postgres").connect(autocommit=True) as asked:
        asked.execute(f"alter system set {name} = '{value}'".encode())
        asked.execute("select pg_reload_conf()")


def nap(server: Postgres, seconds: float) -> None:
    """From here on each request takes a server as long."""
    tell(server, "nap.s", str(seconds))


@dataclass(frozen=True, slots=True)
class Answer:
    """port: of who answered, the first column; None: it was an error, or the connection ended."""

    at: float
    port: str | None
    took_s: float
    sqlstate: str = ""


@dataclass
class Readers:
    """So many clients, in a block. may_fail: an error is an answer as well; otherwise it ends its client."""

    target: Target
    count: int = 8
    sql: str = NAP
    may_fail: bool = False
    answers: list[Answer] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._read) for _ in range(self.count)]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def shares(self, seconds: float) -> dict[str, float]:
        """Which part of the answers of the last seconds came from whom."""
        counts = Counter(one.port for one in self.since(time.monotonic() - seconds) if one.port is not None)
        return {port: count / counts.total() for port, count in counts.items()}

    def since(self, moment: float, until: float = float("inf")) -> list[Answer]:
        """The answers from a moment on, up to another."""
        return [one for one in list(self.answers) if moment <= one.at < until]

    def failed(self) -> list[Answer]:
        """Those that were none."""
        return [one for one in list(self.answers) if one.port is None]

    def _read(self) -> None:
        wire: Wire | None = None
        try:
            while not self._is_over.is_set():
                began = time.monotonic()
                try:
                    wire = wire or self.target.wire()
                    frames = wire.ask(query(self.sql))
                    failed = next((frame.fields for frame in frames if frame.tag == "E"), None)
                    port = None if failed else next(row(frame)[0] for frame in frames if frame.tag == "D")
                except (Gone, OSError) as error:
                    wire, failed, port = None, {"C": "gone", "M": str(error)}, None
                now = time.monotonic()
                if failed and not self.may_fail:
                    raise AssertionError(failed)
                self.answers.append(Answer(now, port, now - began, failed["C"] if failed else ""))
        except Exception as error:
            self.errors.append(repr(error))
        finally:
            if wire is not None:
                wire.close()


def percentile(answers: list[Answer], part: float) -> float:
    """The time that this part of them took at most, in seconds."""
    took = sorted(one.took_s for one in answers)
    return took[min(len(took) - 1, int(len(took) * part))]
