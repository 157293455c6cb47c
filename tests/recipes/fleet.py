"""What the recipes stand on: forebays on hosts of their own, with the files of examples/, and clients on others."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.harness.deadline import until
from tests.harness.hosts import Host, Network, Program
from tests.harness.postgres import CHECKOUT, PASSWORD, Postgres
from tests.harness.processes import Orphan, is_alive
from tests.harness.target import Target
from tests.harness.toxi import Toxi

EXAMPLES = CHECKOUT / "examples"
DATABASE = "10.0.0.5"
CLIENT = "10.0.0.101"
PORT, METRICS_PORT = 6432, 9632
START_S = 60.0
# Of a wait that a busy machine may draw out.
PATIENCE_S = 60.0


@dataclass
class Forebay:
    """A forebay with a file of examples/, and the secrets that this names, in a folder of its own."""

    network: Network
    host: Host
    folder: Path
    example: Path
    metrics: str
    program: Program | None = None
    orphan: Orphan | None = None

    @property
    def path(self) -> Path:
        """Its configuration."""
        return self.folder / self.example.name

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        self.folder.mkdir(exist_ok=True)
        shutil.copy(self.example, self.path)
        for user in ("app", "ops"):
            secret = self.folder / f"{user}.secret"
            secret.touch(mode=0o600)
            secret.write_text(PASSWORD.format(user))
        command = [sys.executable, "-m", "forebay", "run", str(self.path)]
        self.program = self.network.start(self.host, self.folder.name, command, cwd=self.folder)
        self.orphan = None
        until(self._is_ready, within_s=START_S, what="forebay is ready")

    def _is_ready(self) -> bool:
        assert self.program is not None
        assert self.program.process.poll() is None, self.program.log()[-3000:]
        return self.status("/readyz") == 200

    def status(self, path: str) -> int:
        """Of an answer of its HTTP listener; 0 for none."""
        return self.host.get(f"http://{self.metrics}{path}")[0]

    def body(self, path: str) -> str:
        """What it answers."""
        return self.host.get(f"http://{self.metrics}{path}")[1]

    def total(self, name: str) -> int:
        """A metric without labels."""
        line = next(line for line in self.body("/metrics").splitlines() if line.startswith(f"{name} "))
        return int(line.split()[1])

    def console(self, sql: str) -> list[dict[str, str | None]]:
        """A console command's rows, asked on its own host."""
        target = Target("console", self.host.address, PORT, user="ops", dbname="forebay",
                        password=PASSWORD.format("ops"))  # fmt: skip
        return answers(self.host, target, sql)

    def clients(self) -> dict[str, str | None]:
        """Addresses of its clients by their application_name, without the console."""
        rows = self.console("show clients")
        return {str(row["application_name"]): row["addr"] for row in rows if row["database"] != "forebay"}

    @property
    def pid(self) -> int:
        """Of the process that serves."""
        if self.orphan is not None:
            return self.orphan.pid
        assert self.program is not None
        return self.program.pid

    def upgrade(self) -> None:
        """`forebay upgrade`, up to the end of the process before."""
        before = self.pid
        done = subprocess.run(
            self.host.command(sys.executable, "-m", "forebay", "upgrade", str(self.path)),
            capture_output=True, text=True, cwd=self.folder, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        self.orphan = Orphan(int(done.stdout.split()[1]))
        assert self.program is not None
        if before == self.program.pid:
            assert self.program.process.wait(timeout=PATIENCE_S) == 0, self.program.log()[-3000:]
        until(lambda: not is_alive(before), within_s=PATIENCE_S, what="the old process has ended")

    def kill(self) -> None:
        """SIGKILL; returned once it is gone."""
        process = self.orphan or (self.program.process if self.program else None)
        assert process is not None
        process.kill()
        process.wait(timeout=10)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends it in order, if it runs."""
        if self.orphan is not None:
            self.orphan.send_signal(how)
            self.orphan.wait(timeout=PATIENCE_S)
        elif self.program is not None and self.program.process.poll() is None:
            assert self.program.stop(how, within_s=PATIENCE_S) == 0, self.program.log()[-3000:]


def answers(host: Host, console: Target, sql: str) -> list[dict[str, str | None]]:
    """A console command's rows, asked from a host."""
    with host.within(lambda: console.connect(autocommit=True)) as connection:
        cursor = connection.cursor(row_factory=dict_row).execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


@dataclass
class Newcomers:
    """Clients that come one after another, ask something and leave."""

    host: Host
    target: Target
    # When those began that were served; and of the others, why not.
    came: list[float] = field(default_factory=list)
    failed: list[tuple[float, str]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def _come(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            try:
                with self.target.connect(autocommit=True) as client:
                    client.execute("select 1")
                self.came.append(began)
            except psycopg.Error as error:
                self.failed.append((began, str(error)))
            self._over.wait(0.02)

    def more(self, count: int) -> None:
        """Waits until as many more have begun and been served."""
        now = time.monotonic()
        until(lambda: sum(came > now for came in self.came) >= count, within_s=PATIENCE_S, what="newcomers are served")

    def __enter__(self) -> Newcomers:
        self._thread = threading.Thread(target=lambda: self.host.within(self._come))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(PATIENCE_S)


@dataclass
class Stayer:
    """A client that stays, with a transaction again and again once it is told to work."""

    name: str
    host: Host
    connection: psycopg.Connection[Any]
    error: psycopg.Error | None = None
    done: int = 0
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def ask(self) -> None:
        """One transaction. Raises psycopg.Error."""
        with self.connection.transaction():
            self.connection.execute("select 1")

    def work(self) -> None:
        """From here on in a thread of its own, up to the first error."""
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while not self._over.is_set() and self.error is None:
            try:
                self.ask()
                self.done += 1
            except psycopg.Error as error:
                self.error = error
            self._over.wait(0.02)

    def rest(self) -> None:
        """Ends the work and leaves."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(PATIENCE_S)
        self.connection.close()


def stayer(name: str, host: Host, target: Target) -> Stayer:
    """One that has connected."""
    return Stayer(name, host, host.within(lambda: target.connect(application_name=name, autocommit=True)))


@contextlib.contextmanager
def stayers(count: int, host: Host, target: Target) -> Iterator[list[Stayer]]:
    """Several, for as long as the block lasts."""
    made = [stayer(f"stayer-{number}", host, target) for number in range(count)]
    try:
        yield made
    finally:
        for one in made:
            one.rest()


def target_at(address: str) -> Target:
    """Where the recipe's clients connect."""
    return Target("recipe", address, PORT, dbname="shop", user="app", password=PASSWORD.format("app"))


@dataclass
class Database:
    """PostgreSQL on a host of the network: the server of the tests, by a proxy there."""

    host: Host
    port: int
    proxy: Toxi | None = None

    def come(self) -> None:
        """Listens."""
        listener = self.host.within(lambda: socket.create_server((self.host.address, 5432)))
        self.proxy = Toxi(self.port, listener=listener)

    def go(self) -> None:
        """Ends all connections and refuses new ones."""
        if self.proxy is not None:
            self.proxy.__exit__()
            self.proxy = None


@contextlib.contextmanager
def postgresql(network: Network, server: Postgres, *, address: str = DATABASE) -> Iterator[Database]:
    """It, with the database that examples/ name."""
    with server.target.connect(user="postgres", autocommit=True) as admin:
        if not admin.execute("select 1 from pg_database where datname = 'shop'").fetchone():
            admin.execute("create database shop")
    made = Database(network.host(address), server.port)
    made.come()
    try:
        yield made
    finally:
        made.go()


def on(forebay: Forebay, among: list[Stayer]) -> list[Stayer]:
    """Those of the clients that a forebay serves."""
    known = forebay.clients()
    return [one for one in among if one.name in known]


def eventually(condition: Callable[[], object], what: str) -> None:
    """Waits for it."""
    until(lambda: bool(condition()), within_s=PATIENCE_S, what=what)
