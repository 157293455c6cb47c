"""System calls a transaction: counted by perf where it may, else by strace."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time

from measuring.pooler import NotOffered, Pooler
from measuring.window import Bench

CALLS = (
    "recvfrom", "sendto", "recvmsg", "sendmsg", "read", "write", "readv", "writev", "epoll_wait", "epoll_pwait",
    "epoll_ctl", "poll", "ppoll", "select", "futex", "io_uring_enter", "accept4", "close", "sched_yield",
    "clock_nanosleep", "timerfd_settime", "getrandom",
)  # fmt: skip
# Calls rarer than this are left out of the line.
SHARE_MIN = 0.01

Counted = tuple[dict[str, int], tuple[float, float] | None]


def run(bench: Bench, *, poolers: list[str], workload: str, rounds: int, seconds: float) -> None:
    """Counts and records all poolers, in rounds."""
    probe = ["perf", "stat", "-e", "raw_syscalls:sys_enter", "true"]
    has_perf = shutil.which("perf") and subprocess.run(probe, check=False, capture_output=True).returncode == 0
    if not has_perf and not shutil.which("strace"):
        raise SystemExit("counting system calls needs perf (with access to tracepoints) or strace: install one")
    count = _by_perf if has_perf else _by_strace
    for number in range(rounds):
        for name in poolers:
            try:
                row = bench.measure(name, workload, seconds, count)
            except (RuntimeError, NotOffered) as error:
                print(f"{name:16} FAILED {error}", flush=True)
                continue
            n = max(row["spanned"], 1)
            counts = sorted((row["extra"] or {}).items(), key=lambda each: -each[1])
            calls = {call: times / n for call, times in counts if times / n > SHARE_MIN}
            bench.record(syscalls=calls, pooler=name, workload=workload, round=number, tps=row["tps"])
            shown = ", ".join(f"{call} {times:.2f}" for call, times in calls.items())
            print(f"{name:16} {workload} {sum(calls.values()):5.2f} a transaction: {shown}", flush=True)


def _by_perf(pooler: Pooler, seconds: float) -> Counted:
    assert pooler.group
    events = "raw_syscalls:sys_enter," + ",".join(f"syscalls:sys_enter_{call}" for call in CALLS)
    pids = ",".join(map(str, pooler.group.pids()))
    argv = ["perf", "stat", "-x,", "-e", events, "-p", pids, "--", "sleep", str(seconds)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    end = time.time()
    found = re.findall(r"^(\d+),[^,]*,\w+:sys_enter_?(\w*),", done.stderr, re.MULTILINE)
    counts = {call: int(times) for times, call in found}
    counts["other"] = counts.pop("", 0) - sum(times for call, times in counts.items() if call)
    return counts, (end - seconds, end)


def _by_strace(pooler: Pooler, seconds: float) -> Counted:
    assert pooler.group
    members = [word for pid in pooler.group.pids() for word in ("-p", str(pid))]
    tracer = subprocess.Popen(["strace", "-f", "-c", "-U", "name,calls", *members], stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    tracer.send_signal(signal.SIGINT)
    found = re.findall(r"^(\w+)\s+(\d+)\s*$", tracer.communicate()[1], re.MULTILINE)
    end = time.time()
    return {call: int(times) for call, times in found if call != "total"}, (end - seconds, end)
