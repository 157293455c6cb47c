#!/usr/bin/env python3
"""shared_lines: what a transaction that stays on its worker does that other workers could notice.

  shared_lines.py [--rounds 40] [--workload simple|prepared]

Runs the engine by itself with two workers (crates/forebay-runtime/examples/engine.rs, epoll) under valgrind's lackey,
which tells every instruction and every memory access of each thread. Clients at both workers ask in turn, one at a
time, so that every request finds a server of its worker free: its only one, then one of several. It prints, a
transaction each:

- atomic instructions: those with a lock prefix, and exchanges with memory, by the function they stand in;
- writes to cache lines that another thread reads or writes meanwhile, by the function that writes.

valgrind runs the code that the processor would run, but one thread at a time: it finds what is shared, and says nothing
of how long anybody waits for it. io_uring is unknown to it. What the kernel does is not seen. Needs valgrind, objdump,
addr2line and cargo.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from measuring.lackey import Trace
from measuring.line import Line, message, query
from measuring.postgres import Postgres
from measuring.processes import free_port, give_to_server_account
from measuring.workloads import DB, PASSWORD, USER

ROOT = Path(__file__).resolve().parents[1]
# Apart, for it has no entropy from the processor's jitter: at a start the cryptographic library gathers that for 40 ms,
# which are minutes when each instruction is written down.
BUILD = ("cargo", "build", "--quiet", "--release", "--package", "forebay-runtime", "--example", "engine",
         "--target-dir", "target/shared-lines", "--message-format=json")  # fmt: skip
BUILD_ENVIRONMENT = {"AWS_LC_SYS_NO_JITTER_ENTROPY": "1"}
CLIENTS, SERVERS = 12, 12
# Rounds over all clients before anything is counted: servers are opened, statements known, the catalogue read.
WARM_ROUNDS = 20
# In which what came before comes to its end.
REST_S = 2.0
# Of a table.
ROWS_MAX = 40
# How long the trace of the start grows before it is thrown away.
FORGET_S = 2.0
SELECT = "SELECT abalance FROM pgbench_accounts WHERE aid = 1"
BIND = message("B", b"\0one\0" + struct.pack("!HHH", 0, 0, 0)) + message("E", b"\0" + struct.pack("!I", 0))
SYNC = message("S", b"")
REQUESTS = {"simple": query(SELECT), "prepared": BIND + SYNC}
CONFIGURATION = """\
[listen]
address = "127.0.0.1"
port = {port}
[engine]
workers = 2
io = "epoll"
[auth]
type = "trust"
[server_defaults]
pool_size = {servers}
tls = {{ mode = "disable" }}
[databases.{db}]
endpoints = ["127.0.0.1:{pg_port}"]
[users.{user}]
secret = {{ env = "BENCH_PASSWORD" }}
[metrics]
address = "127.0.0.1:{metrics_port}"
"""


@dataclass(frozen=True, slots=True)
class Mapped:
    """A file's code in the process: an address minus `base` is one in the file."""

    path: str
    start: int
    end: int
    base: int


def engine_program() -> str:
    """Built with the wheel's optimisations."""
    environment = {**os.environ, **BUILD_ENVIRONMENT}
    done = subprocess.run(BUILD, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
    built = [json.loads(line).get("executable") for line in done.stdout.splitlines()]
    return next(path for path in reversed(built) if path)


def configuration(folder: Path, port: int, pg_port: int) -> Path:
    """As the command would hand it to the engine."""
    from forebay.config.load import load_text

    text = CONFIGURATION.format(port=port, servers=SERVERS, db=DB, pg_port=pg_port, user=USER, metrics_port=free_port())
    loaded = load_text(text, environ={"BENCH_PASSWORD": PASSWORD})
    path = folder / "engine.json"
    path.write_bytes(loaded.config.engine.to_json())
    return path


def mapped(pid: int) -> list[Mapped]:
    """What code a process has mapped from files."""
    found: list[Mapped] = []
    bases: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split()
        if len(fields) < 6 or not fields[5].startswith("/"):
            continue
        start, end = (int(each, 16) for each in fields[0].split("-"))
        base = bases.setdefault(fields[5], start - int(fields[2], 16))
        if "x" in fields[1]:
            found.append(Mapped(fields[5], start, end, base))
    return found


def file_of(address: int, files: list[Mapped]) -> Mapped | None:
    """Where an instruction comes from."""
    return next((each for each in files if each.start <= address < each.end), None)


def atomics(path: str) -> set[int]:
    """Addresses in a file of the instructions that take a cache line for themselves."""
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], check=True, capture_output=True, text=True)
    return {
        int(found[1], 16)
        for line in text.stdout.splitlines()
        if (found := re.match(r"\s*([0-9a-f]+):\s+(lock\b|xchg.*\()", line))
    }


def functions(places: Iterable[int], files: list[Mapped]) -> dict[int, str]:
    """The function of each place, what it is inlined into behind it."""
    by_file: dict[Mapped, list[int]] = {}
    for place in places:
        if found := file_of(place, files):
            by_file.setdefault(found, []).append(place)
    names: dict[int, str] = {}
    for each, mine in by_file.items():
        offsets = [hex(place - each.base) for place in mine]
        for place, offset in zip(mine, offsets, strict=True):
            argv = ["addr2line", "-f", "-C", "-i", "-e", each.path, offset]
            said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
            chain = [re.sub(r"::h[0-9a-f]{16}$", "", name) for name in said[::2] if name != "??"]
            names[place] = " < ".join(chain[:3]) or f"{Path(each.path).name}+{offset}"
    return names


class Engine:
    """The engine under lackey."""

    def __init__(self, folder: Path, pg_port: int) -> None:
        log = folder / "trace"
        log.touch()
        self.port = free_port()
        argv = ["valgrind", "--tool=lackey", "--trace-mem=yes", "--trace-sched=yes", f"--log-file={log}",
                engine_program(), str(configuration(folder, self.port, pg_port))]  # fmt: skip
        self.trace = Trace(log)
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        try:
            while not select.select([self.process.stdout], [], [], FORGET_S)[0]:
                self.trace.forget()
            if not self.process.stdout.readline():
                raise RuntimeError("the engine ended")
            self.files = [each for each in mapped(self.process.pid) if "/valgrind/" not in each.path]
            self.atomics = {path: atomics(path) for path in {each.path for each in self.files}}
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.communicate()


def steady(engine: Engine, clients: list[Line], request: bytes, rounds: int) -> int:
    """Runs transactions one at a time, and counts what they do. Returns how many."""
    time.sleep(REST_S)
    engine.trace.begin()
    for _ in range(rounds):
        for client in clients:
            client.ask(request, 1)
    time.sleep(REST_S)
    engine.trace.end()
    return rounds * len(clients)


def measure(engine: Engine, request: bytes, rounds: int) -> None:
    """Where each worker has one server, then where it has several, prints what a transaction does."""
    clients = [Line(engine.port) for _ in range(CLIENTS)]
    for client in clients:
        client.ask(message("P", b"one\0" + SELECT.encode() + b"\0" + struct.pack("!H", 0)) + SYNC, 1)
    for _ in range(WARM_ROUNDS):
        for client in clients:
            client.ask(request, 1)
    report("each worker has one server, which is free", engine, steady(engine, clients, request, rounds))
    for _ in range(WARM_ROUNDS):
        for client in clients:
            client.send(request)
        for client in clients:
            client.wait(1)
    report("each worker has several free servers", engine, steady(engine, clients, request, rounds))


def told(title: str, counted: Counter[str], count: int) -> None:
    """A table, most first."""
    print(f"\n{title}: {sum(counted.values()) / count:.3f} a transaction")
    for name, times in counted.most_common(ROWS_MAX):
        print(f"{times / count:9.3f}  {name}")


def report(title: str, engine: Engine, count: int) -> None:
    """Prints what was found."""
    trace, files = engine.trace, engine.files
    by_thread: Counter[int] = Counter()
    for (thread, _), times in trace.executed.items():
        by_thread[thread] += times
    each = {f"thread {thread}": round(times / count) for thread, times in by_thread.items()}
    print(f"\n== {title}: {count} transactions; instructions a transaction: {each}")
    rare: Counter[int] = Counter()
    for (_, place), times in trace.executed.items():
        found = file_of(place, files)
        if found and place - found.base in engine.atomics[found.path]:
            rare[place] += times
    shared = {number: line for number, line in trace.lines.items() if line.is_shared()}
    uses = [*(line.written for line in shared.values()), *(line.read for line in shared.values())]
    names = functions({*rare, *(place for use in uses for _, place in use)}, files)
    of_functions: Counter[str] = Counter()
    for place, times in rare.items():
        of_functions[names.get(place, hex(place))] += times
    told("atomic instructions", of_functions, count)
    writes = Counter({number: line.written.total() for number, line in shared.items()})
    print(f"\nwrites to {len(shared)} cache lines that two threads use: {writes.total() / count:.3f} a transaction")
    for number, _ in writes.most_common(ROWS_MAX):
        users: Counter[str] = Counter()
        for use, word in ((shared[number].written, "writes"), (shared[number].read, "reads")):
            for (thread, place), times in use.items():
                users[f"thread {thread} {word}: {names.get(place, hex(place))}"] += times
        for user, times in users.most_common(ROWS_MAX):
            print(f"{times / count:9.3f}  line {number:x}, {user}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help=f"of {CLIENTS} transactions each")
    parser.add_argument("--workload", choices=REQUESTS, default="simple")
    given = parser.parse_args()
    # What was started is ended whatever ends us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="shared-lines-") as name:
        folder = Path(name)
        give_to_server_account(folder)
        folder.chmod(0o755)
        pg = Postgres(folder, 1)
        try:
            engine = Engine(folder, pg.port)
            try:
                measure(engine, REQUESTS[given.workload], given.rounds)
            finally:
                engine.stop()
        finally:
            pg.stop()


if __name__ == "__main__":
    sys.exit(main())
