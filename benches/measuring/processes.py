"""Processes that are started together, and what they cost: CPU and memory of all of them and their children."""

from __future__ import annotations

import os
import pwd
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

# Where control groups count CPU: version 1's controller, then version 2.
CGROUPS = (
    ("v1", Path("/sys/fs/cgroup/cpuacct"), "cpuacct.usage"),
    ("v2", Path("/sys/fs/cgroup"), "cgroup.controllers"),
)
TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
LISTEN_S = 20.0
LISTEN_TRY_S = 0.002


def server_account() -> pwd.struct_passwd | None:
    """The account that PostgreSQL and most poolers run as where the caller is root, whom they refuse."""
    if os.geteuid() != 0:
        return None
    return pwd.getpwnam(os.environ.get("BENCH_OS_USER", "postgres"))


def give_to_server_account(path: Path) -> None:
    """Lets the server's account write what the caller made."""
    if who := server_account():
        os.chown(path, who.pw_uid, who.pw_gid)


def raise_nofile() -> None:
    """As many open files as the machine lets us have: 10,000 clients need it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def stat_fields(pid: int) -> list[str]:
    """Of /proc/PID/stat, those behind the command's name: [1] parent, [11] utime, [12] stime."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def process_cpu_us(pid: int) -> float:
    """CPU of one process, its ended children left out."""
    return sum(int(x) for x in stat_fields(pid)[11:13]) * TICK_US


def _kib(pid: int, file: str, name: str) -> int:
    """A line of a file that /proc has of a process; 0 where it ended."""
    try:
        found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def kernel_kib() -> int:
    """What the kernel holds for sockets, files and all else of its own: slabs, and pages of TCP's buffers.

    It is told of the whole machine: a difference belongs to both ends of what was opened meanwhile.
    """
    slab = re.search(r"^Slab:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    pages = re.search(r"^TCP: .* mem (\d+)", Path("/proc/net/sockstat").read_text(), re.MULTILINE)
    return (int(slab[1]) if slab else 0) + (int(pages[1]) * PAGE_KIB if pages else 0)


def machine_busy_us() -> float:
    """CPU that anything on the machine used since it started, and time stolen from it."""
    f = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(f[:8]) - f[3] - f[4]) * TICK_US


def descendants(roots: Sequence[int]) -> list[int]:
    """`roots` and all that came from them, by /proc."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            pid = int(folder.name)
            try:
                children.setdefault(int(stat_fields(pid)[1]), []).append(pid)
            except OSError:
                continue  # it ended meanwhile
    found, left = [], list(roots)
    while left:
        pid = left.pop()
        found.append(pid)
        left += children.get(pid, [])
    return found


class Group:
    """A set of processes whose CPU is counted together: in a control group where one can be made, else by /proc."""

    def __init__(self, name: str) -> None:
        self.procs: list[subprocess.Popen[bytes]] = []
        self.dir: Path | None = None
        self.kind = "proc"
        for kind, root, probe in CGROUPS:
            if not (root / probe).exists():
                continue
            folder = root / f"poolbench-{os.getpid()}-{name}"
            try:
                folder.mkdir(exist_ok=True)
            except OSError:
                continue
            self.dir, self.kind = folder, kind
            break

    def start(
        self,
        argv: Sequence[str],
        log: Path,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        as_caller: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Starts a member, with its output appended to `log`; as the server's account unless `as_caller`."""
        who = None if as_caller else server_account()
        joined = self.dir / "cgroup.procs" if self.dir else None

        def before_exec() -> None:
            if joined:
                joined.write_text("0")
            if who:
                os.setgroups([])
                os.setgid(who.pw_gid)
                os.setuid(who.pw_uid)

        with log.open("ab") as out:
            process = subprocess.Popen(
                argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=cwd, env={**os.environ, **(env or {})},
                preexec_fn=before_exec,  # noqa: PLW1509 (no other thread runs when a member starts)
                start_new_session=True,
            )  # fmt: skip
        self.procs.append(process)
        return process

    def pids(self) -> list[int]:
        """Of all members."""
        if self.dir:
            return [int(x) for x in (self.dir / "cgroup.procs").read_text().split()]
        return descendants([p.pid for p in self.procs])

    def cpu_us(self) -> float:
        """CPU used since the start."""
        if self.dir and self.kind == "v1":
            return int((self.dir / "cpuacct.usage").read_text()) / 1000
        if self.dir:
            found = re.search(r"usage_usec (\d+)", (self.dir / "cpu.stat").read_text())
            return int(found[1]) if found else 0
        total = 0
        for pid in self.pids():
            try:
                total += sum(int(x) for x in stat_fields(pid)[11:15])
            except OSError:
                continue  # it ended meanwhile
        return total * TICK_US

    def memory_kib(self) -> tuple[int, int]:
        """Proportional and resident set size."""
        pss = rss = 0
        for pid in self.pids():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue  # it ended meanwhile
            sizes = dict(re.findall(r"^(Pss|Rss):\s+(\d+)", text, re.MULTILINE))
            pss, rss = pss + int(sizes.get("Pss", 0)), rss + int(sizes.get("Rss", 0))
        return pss, rss

    def own_kib(self) -> int:
        """The part of the proportional set size that is no file's: what pages of programs and libraries count for
        depends on who else has them."""
        return sum(_kib(pid, "smaps_rollup", part) for pid in self.pids() for part in ("Pss_Anon", "Pss_Shmem"))

    def start_peak(self) -> None:
        """Begins a new high-water mark."""
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_kib(self) -> int:
        """The most memory of its own since the start of the mark, which the kernel keeps: nothing is sampled."""
        return sum(_kib(pid, "status", "VmHWM") - _kib(pid, "status", "RssFile") for pid in self.pids())

    def wait_port(self, port: int) -> None:
        """Returns when a member listens there. Raises RuntimeError if all end, or none does in time."""
        end = time.time() + LISTEN_S
        while time.time() < end:
            try:
                socket.create_connection(("127.0.0.1", port), 0.5).close()
            except OSError:
                if all(p.poll() is not None for p in self.procs):
                    raise RuntimeError("it ended before it listened") from None
                time.sleep(LISTEN_TRY_S)
            else:
                return
        raise RuntimeError("it never listened")

    def stop(self, sig: signal.Signals = signal.SIGTERM, patience_s: float = 4.0) -> None:
        """Ends only what this group started: by process id."""
        for p in self.procs:
            if p.poll() is None:
                p.send_signal(sig)
        end = time.time() + patience_s
        while time.time() < end and any(p.poll() is None for p in self.procs):
            time.sleep(0.02)
        for p in self.procs:
            if p.poll() is None:
                p.kill()
            p.wait()
        if self.dir:
            self._remove(self.dir)

    def _remove(self, folder: Path) -> None:
        """A control group goes only when its last member has gone."""
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue  # it ended meanwhile
        for _ in range(100):
            try:
                folder.rmdir()
            except OSError:
                time.sleep(0.02)
            else:
                return
