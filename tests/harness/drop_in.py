"""A `forebay-pgbouncer` under test: started from a pgbouncer.ini made for the test, as an unprivileged user."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness import account
from tests.harness.deadline import until
from tests.harness.postgres import PASSWORD, Postgres, free_port
from tests.harness.target import Target

START_S = 20.0
STOP_S = 15.0
# Users in its auth_file.
USERS = ("app", "other", "ops", "watcher", "scram_user", "md5_user")
PROGRAM = "import sys; from forebay.dropin import main; sys.argv[0] = 'forebay-pgbouncer'; main()"


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder that an unprivileged user may use, which pytest's own are not."""
    made = Path(tempfile.mkdtemp(prefix="forebay-dropin-"))
    account.give(made)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@dataclass
class DropIn:
    """A running one, or one to be started.

    databases, users, settings: lines of its ini beside those that every test wants. A line of databases
    that names a host says itself where its servers are. under: a command in front of its own.
    """

    folder: Path
    server: Postgres
    settings: dict[str, str] = field(default_factory=dict)
    databases: dict[str, str] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    under: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def path(self) -> Path:
        """Its configuration."""
        return self.folder / "pgbouncer.ini"

    @property
    def log_path(self) -> Path:
        """Its logfile."""
        return self.folder / "pgbouncer.log"

    def write(self, **settings: str) -> None:
        """Writes the ini, with settings that are new or changed."""
        self.settings |= settings
        base = {
            "listen_addr": "127.0.0.1", "listen_port": str(self.port), "unix_socket_dir": str(self.folder),
            "auth_type": "trust", "auth_file": "userlist.txt", "admin_users": "ops", "stats_users": "watcher",
            "logfile": "pgbouncer.log", "pidfile": "pgbouncer.pid", "pool_mode": "transaction",
            "server_tls_sslmode": "disable",
        }  # fmt: skip
        reached = f"host=127.0.0.1 port={self.server.port} dbname=app"
        lines = [
            "[databases]",
            f"app = {reached}",
            *(f"{name} = {more if 'host=' in more else f'{reached} {more}'}" for name, more in self.databases.items()),
            "[users]",
            *(f"{name} = {values}" for name, values in self.users.items()),
        ]
        lines += ["[pgbouncer]", *(f"{name} = {value}" for name, value in {**base, **self.settings}.items())]
        users = self.folder / "userlist.txt"
        users.write_text("".join(f'"{user}" "{PASSWORD.format(user)}"\n' for user in USERS))
        users.chmod(0o600)
        self.path.write_text("\n".join(lines) + "\n")
        for one in (users, self.path):
            account.give(one)

    def command(self, *options: str) -> list[str]:
        """The command line."""
        become = ["-u", account.UNPRIVILEGED] if account.is_root() else []
        return [*self.under, sys.executable, "-c", PROGRAM, *become, *options, str(self.path)]

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """What it is started with."""
        return {**os.environ, "FOREBAY_ENGINE_IO": "epoll", "FOREBAY_ENGINE_WORKERS": "2", **(more or {})}

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Runs it where it ends by itself."""
        return subprocess.run(
            self.command(*options), capture_output=True, text=True, check=False, timeout=START_S, cwd="/",
            stdin=subprocess.DEVNULL, env=self.environment(),
        )  # fmt: skip

    def start(self, *options: str, environment: Mapping[str, str] | None = None, **popen: Any) -> None:
        """Starts it in the foreground and waits until it serves."""
        before = self.log().count("process up:")
        with (self.folder / "stderr").open("ab") as file:
            self.process = subprocess.Popen(
                self.command(*options), stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd="/",
                start_new_session=True, env=self.environment(environment), **popen,
            )  # fmt: skip
        until(lambda: self._is_up(before), within_s=START_S, what="it serves")

    def _is_up(self, before: int) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "stderr").read_text()
        return self.log().count("process up:") > before

    def log(self) -> str:
        """Its log so far."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def says(self, text: str, *, within_s: float = 10.0) -> None:
        """Waits until its log holds a text."""
        until(lambda: text in self.log(), within_s=within_s, what=f"{text!r} in the log:\n{self.log()[-3000:]}")

    @property
    def target(self) -> Target:
        """Where clients reach it."""
        return Target("drop-in", "127.0.0.1", self.port)

    def console(self, sql: str, *, user: str = "ops") -> list[dict[str, str | None]]:
        """A console command's rows, by column."""
        from tests.harness.pooler import asked

        with self.target.at(user=user, dbname="pgbouncer", password=PASSWORD.format(user)).wire() as wire:
            return asked(wire, sql)

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def ended(self, *, within_s: float = STOP_S) -> int:
        """Waits for it to end by itself; its exit status."""
        assert self.process is not None
        code = self.process.wait(timeout=within_s)
        self.process = None
        return code

    def close(self) -> None:
        """Ends it, if it runs."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            try:
                self.process.wait(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None


Make = Callable[..., DropIn]


@contextlib.contextmanager
def maker(server: Postgres) -> Iterator[Make]:
    """make(**settings): one that is not started yet, in a folder of its own; all are ended at the end."""
    with contextlib.ExitStack() as stack:

        def make(
            databases: dict[str, str] | None = None, users: dict[str, str] | None = None, **settings: str
        ) -> DropIn:
            made = DropIn(stack.enter_context(folder()), server, settings, databases or {}, users or {})
            stack.callback(made.close)
            made.write()
            return made

        yield make
