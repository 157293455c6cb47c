#!/usr/bin/env python3
"""consistency: what sessions read from replicas that are half a second behind, at each level of read_consistency.

  consistency.py [--checks 100000] [--levels eventual,read_your_writes,session,primary] [--delays 0.5,0.8]

Starts a PostgreSQL 15 with two streaming replicas, which replay each commit so many seconds late
(recovery_min_apply_delay), and a forebay before them. Sessions of several processes write a row of their own through
it, each at intervals of its own, and read in bursts, the first behind the write in one go. Each read is a check:

- own: it shows what the session has last written;
- back: of what all sessions have written together, it shows no less than the session's last read.

A read that fails a check is stale. Under read_your_writes none may fail the first, under session and primary none may
fail either; the exit status is 1 where one does. Under eventual some must, or nothing was checked. Of all reads the
share that replicas served is told, and by how often the session writes. A read that ends in an error ends the run.

Needs a build of forebay, and the programs that the tests fetch. The clients are Python, and beside them run two
replicas: checks a second say nothing of forebay.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.harness import postgres  # noqa: E402
from tests.harness.certificates import Authority  # noqa: E402
from tests.harness.deadline import until  # noqa: E402
from tests.harness.pooler import VARIANTS, Forebay, configuration, running  # noqa: E402
from tests.harness.postgres import Postgres  # noqa: E402
from tests.harness.standby import caught_up, standby_of  # noqa: E402
from tests.harness.target import Target  # noqa: E402
from tests.harness.wire import Wire, query, row  # noqa: E402

LEVELS = ("eventual", "read_your_writes", "session", "primary")
# What no read may fail at a level.
PROMISED = {"eventual": (), "read_your_writes": ("own",), "session": ("own", "back"), "primary": ("own", "back")}
CHECKS = ("own", "back")
# How often a session writes, in seconds: each has one of these, in turn.
WRITES_EVERY = {"1 s": 1.0, "5 s": 5.0, "20 s": 20.0, "never": float("inf")}
SESSIONS, PROCESSES = 48, 2
# Half of the sessions rest after so many reads, for longer than the replicas are behind.
READS_BEFORE_REST, REST_S = 300, 2.0
# Reads that a session sends in one go.
BURSTS = (1, 1, 4, 16)
POOL_SIZE = 12
READ = "select current_setting('port'), (select n from written where session = {session}), (select sum(n) from written)"
WRITE = "update written set n = n + 1 where session = {session}"
# Until every replica has a server open and the catalogue is known.
WARM_S = 60


@dataclass
class Tally:
    """What came of the reads of some sessions.

    stale: of each check. served: by how often the session writes, whether it rests, and whether a replica served it.
    """

    checks: int = 0
    writes: int = 0
    stale: Counter[str] = field(default_factory=Counter)
    served: Counter[tuple[str, bool, bool]] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Those of other sessions as well."""
        self.checks += other.checks
        self.writes += other.writes
        self.stale += other.stale
        self.served += other.served

    def share(self, every: str | None = None, rests: bool | None = None) -> float:
        """Of the reads of sessions that write so often, and rest or do not, the part that replicas served."""
        of = {key: n for key, n in self.served.items() if every in (None, key[0]) and rests in (None, key[1])}
        return round(sum(n for (_, _, is_replica), n in of.items() if is_replica) / max(sum(of.values()), 1), 4)


class Session:
    """One that writes its own row, and reads it and the sum of all."""

    def __init__(self, target: Target, number: int, level: str, primary: int, luck: random.Random) -> None:
        # A database for each level: SET counts as what may have written.
        self.wire: Wire = target.at(dbname=level).wire()
        self.read, self.write = (query(text.format(session=number)) for text in (READ, WRITE))
        self.every = list(WRITES_EVERY)[number % len(WRITES_EVERY)]
        self.primary, self.luck = str(primary), luck
        self.writes_at = time.monotonic() + luck.random() * min(WRITES_EVERY[self.every], 60)
        self.written, self.seen, self.burst, self.has_written = 0, 0, 0, False
        self.rests = number // len(WRITES_EVERY) % 2 == 1
        self.left, self.rests_until = READS_BEFORE_REST, 0.0

    @property
    def is_awake(self) -> bool:
        """Whether it reads; one that rests does so after some reads, for longer than replicas are behind."""
        if self.rests and self.left <= 0:
            self.left, self.rests_until = READS_BEFORE_REST, time.monotonic() + REST_S
        return time.monotonic() >= self.rests_until

    def sends(self) -> None:
        """A burst of reads, behind a write where one is due."""
        self.burst = self.luck.choice(BURSTS)
        self.has_written = time.monotonic() >= self.writes_at
        if self.has_written:
            self.writes_at = time.monotonic() + WRITES_EVERY[self.every] * (0.5 + self.luck.random())
            self.written += 1
        self.wire.send(*[self.write] * self.has_written, *[self.read] * self.burst)

    def hears(self, tally: Tally) -> None:
        """The answers to a burst, each of which is checked."""
        frames = self.wire.ready(self.burst + self.has_written)
        errors = [frame.fields for frame in frames if frame.tag == "E"]
        assert not errors, errors
        rows = [row(frame) for frame in frames if frame.tag == "D"]
        assert len(rows) == self.burst, "each read is answered"
        # What came is kept for tests, that is for ever.
        self.wire.seen.clear()
        tally.writes += self.has_written
        self.left -= self.burst
        for port, own, everything in rows:
            tally.checks += 1
            tally.served[self.every, self.rests, port != self.primary] += 1
            tally.stale["own"] += int(own or 0) < self.written
            tally.stale["back"] += int(everything or 0) < self.seen
            self.seen = int(everything or 0)


def plays(target: Target, level: str, primary: int, numbers: range, checks: int, seed: int) -> Tally:
    """Sessions with these numbers, until they have checked so often."""
    luck, tally = random.Random(seed), Tally()
    sessions = [Session(target, number, level, primary, luck) for number in numbers]
    with contextlib.ExitStack() as stack:
        for session in sessions:
            stack.enter_context(contextlib.closing(session.wire))
        while tally.checks < checks:
            awake = [session for session in sessions if session.is_awake]
            active = luck.sample(awake, k=luck.randint(1, len(awake)))
            for session in active:
                session.sends()
            for session in active:
                session.hears(tally)
    return tally


def _process(results: Any, *arguments: Any) -> None:
    try:
        results.put(plays(*arguments))
    except BaseException as error:
        results.put(f"{type(error).__name__}: {error}")
        raise


def measured(target: Target, level: str, primary: int, checks: int, seed: int) -> tuple[Tally, float]:
    """A level, by several processes; and how long it took, in seconds."""
    context = multiprocessing.get_context("spawn")
    results, began = context.Queue(), time.monotonic()
    share = SESSIONS // PROCESSES
    workers = [
        context.Process(target=_process, args=(results, target, level, primary, range(at * share, (at + 1) * share),
                                               checks // PROCESSES, seed + at))
        for at in range(PROCESSES)
    ]  # fmt: skip
    for worker in workers:
        worker.start()
    tally = Tally()
    for _ in workers:
        found = results.get()
        if not isinstance(found, Tally):
            raise SystemExit(f"{level}: {found}")
        tally.add(found)
    for worker in workers:
        worker.join()
    return tally, time.monotonic() - began


@contextlib.contextmanager
def cluster(delays: tuple[float, ...]) -> Iterator[tuple[Postgres, list[Postgres]]]:
    """A primary, and a replica for each delay, with the table that is written to."""
    with tempfile.TemporaryDirectory(prefix="fbconsistency-") as name, contextlib.ExitStack() as stack:
        authority = Authority(Path(name))
        primary = stack.enter_context(postgres.running(15, authority, max_connections="200"))
        with primary.target.at(dbname="app").connect(user="postgres", autocommit=True) as direct:
            direct.execute("create table written (session int primary key, n bigint not null)")
            direct.execute("grant all on written to public")
        replicas = [stack.enter_context(standby_of(primary)) for _ in delays]
        for replica, delay in zip(replicas, delays, strict=True):
            with replica.target.connect(user="postgres", autocommit=True) as asked:
                asked.execute(f"alter system set recovery_min_apply_delay to '{int(delay * 1000)}ms'".encode())
                asked.execute("select pg_reload_conf()")
        yield primary, replicas


def begins_anew(primary: Postgres, replicas: list[Postgres]) -> None:
    """Nobody has written, and every replica knows."""
    with primary.target.at(dbname="app").connect(user="postgres", autocommit=True) as direct:
        direct.execute("delete from written")
        direct.execute("insert into written select i, 0 from generate_series(0, %s) i", [SESSIONS - 1])
    for replica in replicas:
        caught_up(primary, replica)


def warms_up(forebay: Forebay, primary: int) -> None:
    """Waits until reads are served by replicas."""
    with forebay.target.at(dbname="eventual").connect(autocommit=True) as client:

        def is_served() -> bool:
            found = client.execute(READ.format(session=0).encode()).fetchone()
            return found is not None and found[0] != str(primary)

        until(is_served, within_s=WARM_S, what="a replica serves")


def report(level: str, tally: Tally, took_s: float) -> dict[str, Any]:
    """A row of the table."""
    return {
        "level": level, "checks": tally.checks, "writes": tally.writes, "took_s": round(took_s, 1),
        **{f"stale_{check}": tally.stale[check] for check in CHECKS},
        "replicas": tally.share(), "replicas_rests": tally.share(rests=True),
        **{f"replicas_{every}": tally.share(every) for every in WRITES_EVERY},
    }  # fmt: skip


def judged(rows: list[dict[str, Any]]) -> list[str]:
    """What is wrong, in words."""
    wrong = [
        f"{row['level']}: {row[f'stale_{check}']} reads fail the check {check}"
        for row in rows for check in PROMISED[row["level"]] if row[f"stale_{check}"]
    ]  # fmt: skip
    eventual = next((row for row in rows if row["level"] == "eventual"), None)
    if eventual is not None and not all(eventual[f"stale_{check}"] for check in CHECKS):
        wrong.append("eventual: no read was stale, so that nothing was checked")
    return wrong


def main() -> int:
    """Measures, prints, judges."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checks", type=int, default=100_000, help="reads at each level")
    parser.add_argument("--levels", default=",".join(LEVELS))
    parser.add_argument("--delays", default="0.5,0.8", help="seconds, of a replica each")
    parser.add_argument("--variant", default="epoll-1", choices=sorted(VARIANTS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="a file to which each level's row is added")
    options = parser.parse_args()
    delays = tuple(float(delay) for delay in options.delays.split(","))
    rows = []
    with cluster(delays) as (primary, replicas), tempfile.TemporaryDirectory(prefix="fbconsistency-") as folder:
        database = {
            "endpoints": [f"127.0.0.1:{one.port}" for one in (primary, *replicas)], "topology": "poll",
            "poll_user": "app", "read_write_split": True, "pool_size": POOL_SIZE,
        }  # fmt: skip
        databases = {level: {**database, "read_consistency": level} for level in LEVELS}
        sections = configuration(primary, VARIANTS[options.variant], databases=databases)
        with running(Path(folder) / "forebay", sections, VARIANTS[options.variant]) as forebay:
            for level in options.levels.split(","):
                begins_anew(primary, replicas)
                warms_up(forebay, primary.port)
                tally, took_s = measured(forebay.target, level, primary.port, options.checks, options.seed)
                rows.append(report(level, tally, took_s))
                print(json.dumps(rows[-1]), flush=True)
                if options.json:
                    with options.json.open("a") as out:
                        out.write(json.dumps(rows[-1]) + "\n")
    wrong = judged(rows)
    print("\n".join(wrong) or "as promised")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
