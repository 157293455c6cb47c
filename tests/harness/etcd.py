"""A real etcd: the machine's, or out of Debian's package, which stays in .cache of the checkout."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import shutil
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness import account
from tests.harness.certificates import Authority, Pair
from tests.harness.deadline import until
from tests.harness.postgres import CACHE, free_port

PACKAGE = "etcd-server"
FETCH_S = 300


@dataclass(frozen=True, slots=True)
class Secured:
    """With TLS: its certificate, and the authority of clients, who have to show one of it. own: what the tests show."""

    pair: Pair
    clients: Authority
    own: Pair
    authority: Authority

    def options(self) -> list[str]:
        """For the command line."""
        return ["--cert-file", str(self.pair.certificate), "--key-file", str(self.pair.key), "--client-cert-auth",
                "--trusted-ca-file", str(self.clients.certificate)]  # fmt: skip

    def context(self) -> ssl.SSLContext:
        """With which it can be asked."""
        context = ssl.create_default_context(cafile=str(self.authority.certificate))
        context.load_cert_chain(self.own.certificate, self.own.key)
        return context


@dataclass(slots=True)
class Etcd:
    """One server, which is a cluster of its own; on loopback."""

    folder: Path
    port: int
    peers: int
    secured: Secured | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Where clients ask it."""
        return f"{'https' if self.secured else 'http'}://{self.host}"

    def start(self) -> None:
        """Starts it and waits until it answers. What it knew when it stopped it knows again."""
        client_url, peer_url = self.url, f"http://127.0.0.1:{self.peers}"
        context = self.secured.context() if self.secured else None
        log = self.folder / "etcd.log"
        with log.open("ab") as out:
            self.process = process = subprocess.Popen(
                [program(), "--data-dir", str(self.folder / "etcd"), "--listen-client-urls", client_url,
                 "--advertise-client-urls", client_url, "--listen-peer-urls", peer_url,
                 "--initial-advertise-peer-urls", peer_url, "--initial-cluster", f"default={peer_url}",
                 *(self.secured.options() if self.secured else [])],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

        def answers() -> bool:
            assert process.poll() is None, log.read_text()[-2000:]
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{client_url}/health", timeout=1, context=context) as answer,
            ):
                return b"true" in answer.read()
            return False

        until(answers, within_s=30, what="etcd answers")

    def stop(self) -> None:
        """SIGKILL, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=30)
            self.process = None

    def call(self, path: str, body: Any, *, token: str = "") -> dict[str, Any]:
        """A call of its HTTP gateway."""
        headers = {"content-type": "application/json", **({"authorization": token} if token else {})}
        request = urllib.request.Request(f"{self.url}/v3/{path}", json.dumps(body).encode(), headers)
        context = self.secured.context() if self.secured else None
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return json.load(answer)  # type: ignore[no-any-return]

    def put(self, key: str, value: Any, *, lease: str = "0", token: str = "") -> None:
        """Writes a key: text, or what is written as JSON."""
        text = value if isinstance(value, str) else json.dumps(value)
        self.call("kv/put", {"key": encoded(key), "value": encoded(text), "lease": lease}, token=token)


def encoded(text: str) -> str:
    """As keys and values go over its HTTP gateway."""
    return base64.b64encode(text.encode()).decode()


def decoded(value: str) -> Any:
    """A value that is JSON."""
    return json.loads(base64.b64decode(value))


@contextlib.contextmanager
def running(folder: Path, secured: Secured | None = None) -> Iterator[Etcd]:
    """One for as long as the block lasts; its data stay in the folder."""
    server = Etcd(folder, free_port(), free_port(), secured)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def program() -> str:
    """The machine's etcd, or Debian's. Skips the test where there is neither it nor apt-get."""
    if found := shutil.which("etcd"):
        return found
    packages, folder = CACHE / "packages", CACHE / "etcd"
    with alone("etcd"):
        packages.mkdir(exist_ok=True)
        if not list(packages.glob(f"{PACKAGE}_*.deb")):
            if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
                pytest.skip("there is no etcd on PATH and no apt-get to fetch it with: install etcd")
            _download(packages)
        if not (folder / "usr/bin/etcd").exists():
            package = next(packages.glob(f"{PACKAGE}_*.deb"))
            subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True, timeout=FETCH_S)
    return str(folder / "usr/bin/etcd")


def _download(into: Path) -> None:
    def apt_get(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["apt-get", "-q", *arguments], cwd=into, capture_output=True, text=True, timeout=FETCH_S, check=False
        )

    done = apt_get("download", PACKAGE)
    if done.returncode and account.is_root():
        # A fresh machine has no lists of packages.
        apt_get("update")
        done = apt_get("download", PACKAGE)
    assert done.returncode == 0, f"etcd could not be fetched: install it, or run apt-get update first\n{done.stderr}"


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """One process of a test run at a time."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
