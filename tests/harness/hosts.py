"""Hosts on one network: a namespace each, joined by a bridge that has a namespace of its own.

Nothing of it reaches the machine. Addresses are those that examples/ name, since nobody else is there. Needs root and
iproute2, as an island does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.harness.island import ip, within

T = TypeVar("T")

MASK = 24


@dataclass(frozen=True, slots=True)
class Host:
    """namespace: its name. address: its own on the network, of the interface eth0."""

    namespace: str
    address: str

    def command(self, *command: str) -> list[str]:
        """A command as it is run there."""
        return ["ip", "netns", "exec", self.namespace, *command]

    def run(self, *command: str, check: bool = True, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs one to its end."""
        done = subprocess.run(self.command(*command), capture_output=True, text=True, check=False, timeout=timeout_s)
        assert not check or done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
        return done

    def within(self, make: Callable[[], T]) -> T:
        """What a function makes there: a socket stays there, whoever uses it."""
        return within(self.namespace, make)

    def get(self, url: str) -> tuple[int, str]:
        """Status and body, by curl, as probes ask; status 0 where nobody answers within 2 s."""
        done = self.run("curl", "-s", "-m", "2", "-w", "\n%{http_code}", url, check=False)
        body, _, status = done.stdout.rpartition("\n")
        return int(status or 0), body


@dataclass
class Program:
    """Something that runs on a host, with its log."""

    host: Host
    log_path: Path
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Its process id: `ip netns exec` becomes what it runs."""
        return self.process.pid

    def log(self) -> str:
        """What it has said so far."""
        return self.log_path.read_text(errors="replace")

    def stop(self, how: signal.Signals = signal.SIGTERM, *, within_s: float = 30) -> int:
        """Ends it; its exit status. One that does not end is killed, with all that it has started."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(timeout=within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not end within {within_s} s:\n{self.log()[-3000:]}") from None

    def kill(self) -> None:
        """SIGKILL to it and all of its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(timeout=10)


@dataclass
class Network:
    """Its hosts by address, and what runs on them."""

    folder: Path
    prefix: str
    hosts: dict[str, Host] = field(default_factory=dict)
    programs: list[Program] = field(default_factory=list)

    def host(self, address: str) -> Host:
        """The host of an address, made when it is first asked for."""
        if address not in self.hosts:
            name = f"{self.prefix}{len(self.hosts)}"
            ip("netns", "add", name)
            self.hosts[address] = Host(name, address)
            switch = f"{self.prefix}s"
            port = f"p{len(self.hosts)}"
            ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", switch, "link", "set", port, "master", "bridge", "up")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "address", "add", f"{address}/{MASK}", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
        return self.hosts[address]

    def start(
        self, host: Host, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Program:  # fmt: skip
        """Starts a program, which ends with the network at the latest."""
        log_path = self.folder / f"{name}.log"
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                host.command(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **(environment or {})}, cwd=cwd,
            )  # fmt: skip
        program = Program(host, log_path, process)
        self.programs.append(program)
        return program


@contextlib.contextmanager
def network(folder: Path) -> Iterator[Network]:
    """One for as long as the block lasts."""
    made = Network(folder, f"fbh{os.getpid()}x")
    switch = f"{made.prefix}s"
    ip("netns", "add", switch)
    try:
        ip("-n", switch, "link", "add", "bridge", "type", "bridge", "forward_delay", "0")
        ip("-n", switch, "link", "set", "bridge", "up")
        yield made
    finally:
        for program in reversed(made.programs):
            program.kill()
        for name in (*(host.namespace for host in made.hosts.values()), switch):
            ip("netns", "delete", name)
