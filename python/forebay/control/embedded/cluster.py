"""The embedded server's life: made once, started, stopped.

It listens on a Unix socket in a private folder and nowhere else. The superuser `postgres` may be used by the owner of
the data without a password (peer); everybody else proves a password by SCRAM-SHA-256.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from forebay import _engine
from forebay.control.embedded.account import may_enter, server_account
from forebay.control.embedded.programs import MAJOR, find_programs
from forebay.control.embedded.state import State
from forebay.control.embedded.tether import tether
from forebay.failure import Exit, Failure

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 60.0
ROLE: Final = "app"
DATABASE: Final = "app"
ROLE_SQL: Final = """\
SELECT 'CREATE ROLE ' || quote_ident(:'role') || ' LOGIN CREATEDB'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \\gexec
ALTER ROLE :"role" PASSWORD :'verifier';
SELECT 'CREATE DATABASE ' || quote_ident(:'database') || ' OWNER ' || quote_ident(:'role')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \\gexec
"""
# A Unix socket's path has 108 bytes, the last of them zero; the name in the folder takes 16 with its slash.
_SOCKET_FOLDER_BYTES_MAX: Final = 107 - len("/.s.PGSQL.5432")
_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Reached:
    """Where a started server is reached, and by whom."""

    socket: Path
    role: str
    database: str
    password_file: Path


class EmbeddedServer:
    """A PostgreSQL server under a state folder; use within `State.locked`."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._data = state.folder / f"postgres-{MAJOR}"
        self._account = server_account(self._data)
        self._check_reach()
        self._programs = find_programs(self._account, state.folder)
        self._sockets = self._socket_folder()
        self._process: subprocess.Popen[bytes] | None = None
        self._had_orphan = False

    @property
    def had_orphan(self) -> bool:
        """Whether `start` found a server on the data that nobody looked after, and stopped it."""
        return self._had_orphan

    @property
    def version(self) -> str:
        """Such as "18.4"."""
        return self._run("postgres", "--version").stdout.split()[-1]

    def start(self) -> Reached:
        """Makes the data if there is none, starts the server and waits until it takes connections.

        Raises Failure, with the end of the server's log, when it does not come up.
        """
        if not self._data.exists():
            self._initialize()
        self._stop_orphan()
        log = self._log_file()
        arguments = [self._programs.path("postgres"), "-D", str(self._data), "-k", str(self._sockets)]
        arguments += ["-c", "listen_addresses=", "-c", "unix_socket_permissions=0700"]
        with log.open("ab") as output:
            # A session of its own: a Ctrl-C in the terminal reaches forebay alone, which stops the server last. When
            # forebay is killed, the server stops by itself, in order: nothing would tell of it any more.
            self._process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                cwd=self._data, env=self._environment(), **self._switch(),
                preexec_fn=tether(signal.SIGINT),  # noqa: PLW1509 - no thread of ours runs yet
            )  # fmt: skip
        self._wait_ready(self._process, log)
        self._ensure_role()
        return Reached(self._sockets / ".s.PGSQL.5432", ROLE, DATABASE, self._state.password_file)

    def stop(self) -> None:
        """Ends the server in order (fast shutdown); after a minute, at once. Safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGQUIT)
                process.wait()
        if self._sockets.parent != self._state.folder:
            shutil.rmtree(self._sockets, ignore_errors=True)

    def is_running(self) -> bool:
        """Whether the server that `start` began still runs."""
        return self._process is not None and self._process.poll() is None

    def _initialize(self) -> None:
        """Runs initdb into a temporary name, so that an interrupted run is never taken for data."""
        partial = self._data.with_name(f"{self._data.name}.new")
        shutil.rmtree(partial, ignore_errors=True)
        self._make_private(partial)
        self._run(
            "initdb", "--pgdata", str(partial), "--username=postgres", "--auth-local=peer", "--auth-host=reject",
            "--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
            "--no-instructions",
        )  # fmt: skip
        (partial / "pg_ident.conf").write_text(f"owner {_quoted(self._account.name)} postgres\n", encoding="utf-8")
        rules = ("local all postgres peer map=owner", "local all all scram-sha-256")
        (partial / "pg_hba.conf").write_text("".join(f"{rule}\n" for rule in rules), encoding="utf-8")
        partial.rename(self._data)

    def _stop_orphan(self) -> None:
        """Ends a server that runs on the data already: we hold the lock, so no forebay looks after it."""
        if self._runs():
            self._had_orphan = True
            stop = ("stop", "-D", str(self._data), "-m", "fast", "-w", "-t", str(int(STOP_TIMEOUT_S)))
            stopped = self._run("pg_ctl", *stop, check=False)
            # It may have ended by itself between the two.
            if stopped.returncode and self._runs():
                self._run("pg_ctl", *stop)

    def _runs(self) -> bool:
        return self._run("pg_ctl", "status", "-D", str(self._data), check=False).returncode == 0

    def _wait_ready(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready(process.pid):
            if process.poll() is not None:
                raise Failure(f"the embedded PostgreSQL did not start:\n{_end_of(log)}", hint=f"See {log}.")
            if time.monotonic() > deadline:
                self.stop()
                seconds = int(START_TIMEOUT_S)
                raise Failure(
                    f"the embedded PostgreSQL was not ready after {seconds} s", hint=f"See {log}.", exit=Exit.TIMEOUT
                )
            time.sleep(_POLL_S)

    def _is_ready(self, pid: int) -> bool:
        """Reads postmaster.pid as pg_ctl does: the first line is the process, the eighth its state."""
        try:
            lines = (self._data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, PermissionError):
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _ensure_role(self) -> None:
        """Makes the role and its database, or sets the password anew; the server sees a verifier only."""
        password = self._state.password()
        verifier = _engine.scram_verifier(password, salt=os.urandom(16))
        self._sql(ROLE_SQL, role=ROLE, database=DATABASE, verifier=verifier)
        self._state.write_passfile(user=ROLE, password=password)

    def _sql(self, text: str, **variables: str) -> None:
        """Runs a psql script as the superuser; `variables` are what psql quotes as :'name' and :"name"."""
        # By the script and not as arguments, which every process of the machine can read.
        given = "".join(f"\\set {name} '{value}'\n" for name, value in variables.items())
        arguments = ("-X", "-q", "-h", str(self._sockets), "-U", "postgres", "-d", "postgres")
        self._run("psql", *arguments, "-v", "ON_ERROR_STOP=1", text=given + text)

    def _run(
        self, program: str, *arguments: str, text: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [self._programs.path(program), *arguments], input=text, capture_output=True, text=True, check=False,
            cwd="/", env=self._environment(), timeout=START_TIMEOUT_S + STOP_TIMEOUT_S, **self._switch(),
        )  # fmt: skip
        if check and done.returncode != 0:
            raise Failure(f"{program} of the embedded PostgreSQL failed: {done.stderr.strip()}")
        return done

    def _switch(self) -> dict[str, Any]:
        if not self._account.is_switched:
            return {}
        return {"user": self._account.uid, "group": self._account.gid, "extra_groups": []}

    @staticmethod
    def _environment() -> dict[str, str]:
        """Without PG* variables, which would send initdb and psql elsewhere."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {**kept, "LC_ALL": "C", "TZ": "UTC"}

    def _check_reach(self) -> None:
        """Refuses a folder behind a private one: opening that is not ours to do."""
        for folder in (self._state.folder, *self._state.folder.parents):
            if self._account.is_switched and not may_enter(self._account, folder):
                raise Failure(
                    f"the server runs as {self._account.name}, who may not enter {folder}",
                    hint="Leave --data out (/var/lib/forebay is used), or name a folder that others may enter.",
                )

    def _socket_folder(self) -> Path:
        folder = self._state.folder / "run"
        if len(os.fsencode(folder)) > _SOCKET_FOLDER_BYTES_MAX:
            folder = Path(tempfile.mkdtemp(prefix="forebay-"))
            self._give(folder)
        elif not folder.exists():
            self._make_private(folder)
        return folder

    def _log_file(self) -> Path:
        log = self._state.folder / "postgres.log"
        log.touch(mode=0o600)
        return log

    def _make_private(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._give(folder)

    def _give(self, path: Path) -> None:
        if self._account.is_switched:
            os.chown(path, self._account.uid, self._account.gid)


def _end_of(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-5:])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
