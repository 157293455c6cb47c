"""Row 26 of the faults: the time of day jumps, and nobody notices, for nothing goes by it but what the log says.

The clock of this machine is everybody's: what jumps is what forebay's process is told of it, by a library that stands
before the C library in it (LD_PRELOAD).
"""

from __future__ import annotations

import struct
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.readers import Readers, nap

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

SHIM = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long *ahead_s;

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("CLOCK_AHEAD"), O_RDONLY);
    ahead_s = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, clock, at);
    if (!failed && ahead_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += *ahead_s;
    return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""
HOUR_S = 3600
# An hour forward, and back; an hour back; a second that comes twice, and one that is left out.
JUMPS_S = (HOUR_S, 0, -HOUR_S, 0, -1, 0)
# Rounds of probes, answers of readers and turns of every timer that runs each second, between two jumps.
BETWEEN_S = 2.0


@dataclass(frozen=True, slots=True)
class Clock:
    """What a process is told of the time of day."""

    library: Path
    ahead: Path

    @property
    def environment(self) -> dict[str, str]:
        """For a process that goes by it."""
        return {"LD_PRELOAD": str(self.library), "CLOCK_AHEAD": str(self.ahead)}

    def jump(self, ahead_s: int) -> None:
        """From now on the process is told so much more than the truth."""
        with self.ahead.open("r+b") as file:
            file.write(struct.pack("l", ahead_s))


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """One that tells the truth at first."""
    source, made = tmp_path / "clock.c", Clock(tmp_path / "clock.so", tmp_path / "ahead")
    source.write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", made.library, source], check=True, timeout=60)
    made.ahead.write_bytes(struct.pack("l", 0))
    return made


def test_a_clock_that_jumps_is_noticed_by_nobody(
    server: Postgres, standby: Postgres, clock: Clock, variant: Variant, start: Start
) -> None:
    """Else a server that sets its time, as one that wakes up does, would take its databases for dead."""
    for one in (server, standby):
        nap(one, 0.01)
    nodes = [f"127.0.0.1:{one.port}" for one in (server, standby)]
    database = {"endpoints": nodes, "topology": "poll", "poll_user": "app", "read_write_split": True}
    forebay = start(configuration(server, variant, databases={"app": database}), environment=clock.environment)
    known = lambda: {row["role"] for row in forebay.console("show endpoints")} == {"primary", "replica"}  # noqa: E731
    until(known, within_s=20, what="the roles are known")
    with (
        forebay.target.connect() as holder,
        Readers(forebay.target) as readers,
        Readers(forebay.target, count=2, sql="select current_setting('port') from pg_advisory_xact_lock(1)") as lockers,
    ):
        holder.execute("select txid_current()")
        before = time.monotonic()
        until(
            lambda: len(readers.since(before)) > 20 and len(lockers.since(before)) > 20,
            within_s=20,
            what="all are served",
        )
        held = {row["ptr"] for row in forebay.console("show servers") if row["state"] == "active"}
        for ahead_s in JUMPS_S:
            clock.jump(ahead_s)
            began = time.monotonic()
            until(lambda began=began: time.monotonic() - began > BETWEEN_S, within_s=30, what="timers have run")
            if ahead_s in (HOUR_S, -HOUR_S):
                until(lambda: abs(_ahead_s(forebay) - ahead_s) < HOUR_S / 2, within_s=20, what="it goes by that clock")  # noqa: B023
            for row in forebay.console("show endpoints"):
                assert int(row["answered_ms"] or 1 << 30) < 5000, (ahead_s, row)
            for asked in (readers, lockers):
                until(lambda asked=asked: len(asked.since(time.monotonic() - 1)) > 0, within_s=20, what="they go on")
            with forebay.target.connect(autocommit=True) as newcomer:
                assert newcomer.execute("select 1").fetchone() == (1,)
        assert holder.execute("select 1").fetchone() == (1,)
        assert held & {row["ptr"] for row in forebay.console("show servers")}
        assert not readers.errors
        assert not lockers.errors
    told = [line for line in forebay.log() if line.get("level") in ("warn", "error")]
    assert not told, told
    assert len(forebay.events("endpoint_role")) == len(nodes)


def _ahead_s(forebay: Forebay) -> float:
    """By how much the log is ahead of the truth, as it tells of a command."""
    forebay.console("drain off")
    line = until(lambda: forebay.events("console"), within_s=20, what="the command is in the log")[-1]
    return datetime.fromisoformat(str(line["time"])).timestamp() - time.time()
