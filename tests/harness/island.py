"""A network namespace behind a link that can be cut without a word: what is sent into it is never acknowledged.

Needs root and iproute2; `is_possible` says whether there are any.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.harness import account

T = TypeVar("T")

CLONE_NEWNET = 0x40000000


def is_possible() -> bool:
    """Whether this process may make one."""
    return account.is_root() and shutil.which("ip") is not None


def ip(*arguments: str) -> None:
    """A command of iproute2."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, done.stderr


def within(namespace: str, make: Callable[[], T]) -> T:
    """What a function makes in a namespace: a socket stays there, whoever uses it."""
    made: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with Path(f"/run/netns/{namespace}").open() as file:
                if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            made.append(make())
        except BaseException as error:
            failed.append(error)

    # A thread of its own, which ends: a namespace is that of a thread.
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


@dataclass(frozen=True)
class Island:
    """name: of the namespace. shore: this side's address; inside: the other's."""

    name: str
    shore: str
    inside: str

    def within(self, make: Callable[[], T]) -> T:
        """What a function makes inside: a socket stays there, whoever uses it."""
        return within(self.name, make)

    def listener(self) -> socket.socket:
        """A socket that listens inside."""
        return self.within(lambda: socket.create_server((self.inside, 0)))

    def cut(self) -> None:
        """From here on nothing comes back from it, neither bytes nor acknowledgements nor resets."""
        ip("-n", self.name, "route", "add", "blackhole", f"{self.shore}/32")

    def mend(self) -> None:
        """What was cut is whole again."""
        ip("-n", self.name, "route", "delete", "blackhole", f"{self.shore}/32")


@contextlib.contextmanager
def island() -> Iterator[Island]:
    """One for as long as the block lasts."""
    number = os.getpid() % 60_000
    name, net = f"fbt{number}", f"10.{200 + number % 50}.{number // 256}"
    made = Island(name, f"{net}.1", f"{net}.2")
    ip("netns", "add", name)
    try:
        ip("link", "add", f"{name}a", "type", "veth", "peer", "name", "inside", "netns", name)
        ip("address", "add", f"{made.shore}/30", "dev", f"{name}a")
        ip("link", "set", f"{name}a", "up")
        ip("-n", name, "address", "add", f"{made.inside}/30", "dev", "inside")
        ip("-n", name, "link", "set", "inside", "up")
        ip("-n", name, "link", "set", "lo", "up")
        yield made
    finally:
        ip("netns", "delete", name)
