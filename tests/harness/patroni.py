"""A cluster of three PostgreSQL servers under Patroni, with its store in etcd: as others run it in earnest.

Patroni is installed into .cache of the checkout. Everything listens on loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.harness import account, etcd
from tests.harness.deadline import until
from tests.harness.etcd import FETCH_S, Etcd, alone
from tests.harness.postgres import CACHE, Programs, free_port
from tests.harness.processes import is_alive
from tests.harness.target import Target

PACKAGES = ("patroni[etcd3]==4.1.5", "psycopg[binary]==3.3.9")
SCOPE = "shop"
NAMES = ("one", "two", "three")
# The shortest that Patroni accepts: a leader that is gone is missed after this.
TTL_S = 20
# How often a node is asked whether it can write.
LOOK_S = 0.01
PARAMETERS = {
    "fsync": "off",
    "synchronous_commit": "off",
    # Counts for those who switch that on: what they are told is somewhere else by then.
    "synchronous_standby_names": "ANY 1 (*)",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_connections": 30,
    "shared_buffers": "16MB",
    "timezone": "Etc/UTC",
}


def installed() -> Path:
    """The folder that Patroni lies in, with all it needs."""
    folder = CACHE / "patroni"
    with alone("patroni"):
        if not (folder / "ready").exists():
            subprocess.run(
                [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", str(folder),
                 *PACKAGES],
                check=True, timeout=FETCH_S,
            )  # fmt: skip
            (folder / "ready").touch()
    return folder


@dataclass(slots=True)
class Node:
    """A server and the Patroni that looks after it."""

    name: str
    folder: Path
    port: int
    api_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def target(self) -> Target:
        """Its PostgreSQL."""
        return Target("direct", "127.0.0.1", self.port, dbname="postgres", user="postgres")

    @property
    def api(self) -> str:
        """Where Patroni's REST interface is, as host:port."""
        return f"127.0.0.1:{self.api_port}"

    def kill(self) -> None:
        """SIGKILL to Patroni and to all of PostgreSQL, as a crash of the machine would."""
        assert self.process is not None, "it has not been started"
        # Patroni first: it would start the server again. The server stops forking before its children are counted.
        self.process.kill()
        self.process.wait(timeout=30)
        self.process = None
        pids = self._servers()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not any(map(is_alive, pids)), within_s=30, what=f"the processes of {self.name} have ended")

    def log(self) -> str:
        """The end of what Patroni and PostgreSQL have said."""
        return "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("*log*")))

    def _servers(self) -> list[int]:
        """The postmaster, stopped, and its children."""
        try:
            postmaster = int((self.folder / "data/postmaster.pid").read_text().split()[0])
            is_ours = str(self.folder) in Path(f"/proc/{postmaster}/cmdline").read_text()
            if not is_ours:
                return []
            os.kill(postmaster, signal.SIGSTOP)
            children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text()
        except (OSError, IndexError, ValueError):
            return []
        return [postmaster, *map(int, children.split())]


@dataclass(slots=True)
class Cluster:
    """Three nodes and the etcd that they agree in."""

    nodes: dict[str, Node]
    etcd: Etcd

    def leader(self) -> Node:
        """Once there is one, with a synchronous standby, that is one that Patroni would promote."""

        def found() -> Node | None:
            for node in self.nodes.values():
                with contextlib.suppress(psycopg.OperationalError), psycopg.connect(node.target.dsn()) as asked:
                    sql = ("select count(*) filter (where sync_state in ('sync', 'quorum')), count(*)"
                           " from pg_stat_replication where state = 'streaming'")  # fmt: skip
                    if asked.execute(sql.encode()).fetchone() == (1, len(NAMES) - 1):
                        return node
            return None

        try:
            return until(found, within_s=120, what="there is a leader and a synchronous standby")
        except AssertionError as late:
            raise AssertionError("\n".join([str(late), *(node.log() for node in self.nodes.values())])) from None

    def switch_over(self, leader: str, candidate: str) -> None:
        """A planned one, asked of the leader; returns when Patroni has answered."""
        body = json.dumps({"leader": leader, "candidate": candidate}).encode()
        request = urllib.request.Request(
            f"http://{self.nodes[leader].api}/switchover", body, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200, answer.read()


class Watch(threading.Thread):
    """Notes when one of some nodes first says that it can write: promoted_at, in seconds since 1970."""

    def __init__(self, nodes: list[Node]) -> None:
        super().__init__(name="watch", daemon=True)
        self._nodes = nodes
        self._is_over = threading.Event()
        self.promoted_at: float | None = None

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self.join(30)

    def run(self) -> None:
        with contextlib.ExitStack() as stack:
            asked = [stack.enter_context(psycopg.connect(node.target.dsn(), autocommit=True)) for node in self._nodes]
            while self.promoted_at is None and not self._is_over.wait(LOOK_S):
                if any(one.execute("select pg_is_in_recovery()").fetchone() == (False,) for one in asked):
                    self.promoted_at = time.time()


@contextlib.contextmanager
def running(programs: Programs, *, is_synchronous: bool = False) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts; it may still be making its replicas at first.

    is_synchronous: Patroni promotes nobody but the one that has all that was acknowledged (synchronous_mode).
    """
    packages = installed()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fbpat-", ignore_cleanup_errors=True)))
        folder.chmod(0o755)
        store = stack.enter_context(etcd.running(folder))
        nodes = {}
        for each in NAMES:
            nodes[each] = node = Node(each, folder / each, free_port(), free_port())
            _start(node, programs, packages, store.port, is_synchronous)
            stack.callback(lambda node=node: node.process and node.kill())
        yield Cluster(nodes, store)


def _start(node: Node, programs: Programs, packages: Path, etcd_port: int, is_synchronous: bool) -> None:
    node.folder.mkdir()
    account.give(node.folder)
    settings = node.folder / "patroni.yml"
    # JSON is YAML.
    settings.write_text(json.dumps(_settings(node, programs, etcd_port, is_synchronous)))
    environment = {**programs.environment, "PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"}
    with (node.folder / "patroni.log").open("ab") as log:
        node.process = subprocess.Popen(
            [*_demoted(), sys._base_executable, "-m", "patroni", str(settings)],  # type: ignore[attr-defined]
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd="/", start_new_session=True,
        )  # fmt: skip


def _demoted() -> list[str]:
    """A command in front of another, then not root; it may read what root alone can reach, such as a Python."""
    if not account.is_root():
        return []
    return ["setpriv", f"--reuid={account.UNPRIVILEGED}", "--regid=nogroup", "--clear-groups",
            "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]  # fmt: skip


def _settings(node: Node, programs: Programs, etcd_port: int, is_synchronous: bool) -> dict[str, Any]:
    return {
        "scope": SCOPE,
        "name": node.name,
        "restapi": {"listen": node.api, "connect_address": node.api},
        "etcd3": {"hosts": f"127.0.0.1:{etcd_port}"},
        "bootstrap": {
            "dcs": {"ttl": TTL_S, "loop_wait": 1, "retry_timeout": 3, "synchronous_mode": is_synchronous,
                    "postgresql": {"parameters": PARAMETERS}},
            "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, {"wal-segsize": "1"}, "no-sync"],
        },
        "postgresql": {
            "listen": f"127.0.0.1:{node.port}",
            "connect_address": f"127.0.0.1:{node.port}",
            "data_dir": str(node.folder / "data"),
            "bin_dir": str(Path(programs.path("postgres")).parent),
            "pgpass": str(node.folder / "pgpass"),
            "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "postgres"}},
            "pg_hba": [f"{each} 127.0.0.1/32 trust" for each in ("host all all", "host replication all")],
            "parameters": {"unix_socket_directories": str(node.folder)},
        },
    }  # fmt: skip
