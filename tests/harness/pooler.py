"""A forebay under test: started with the `forebay run` that users start, from a forebay.toml made for the test."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness.deadline import until
from tests.harness.postgres import PASSWORD, USERS, Postgres, free_port, has_ipv6
from tests.harness.processes import Orphan
from tests.harness.target import Target
from tests.harness.wire import Wire

START_S = 20.0
STOP_S = 15.0

Section = Mapping[str, Any]

# Users of every test's configuration, and where it finds their secrets.
KNOWN = (*USERS, "ops", "watcher", "postgres")
SECRETS = {f"SECRET_{user}": PASSWORD.format(user) for user in (*KNOWN, "lookup")}


@dataclass(frozen=True, slots=True)
class Variant:
    """An I/O driver and a number of workers."""

    io: str
    workers: int

    def __str__(self) -> str:
        return f"{self.io}-{self.workers}"


VARIANTS = {str(v): v for v in (Variant("uring", 1), Variant("uring", 2), Variant("epoll", 1), Variant("epoll", 2))}


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def document(sections: Mapping[str, Section]) -> str:
    """A forebay.toml."""
    lines = []
    for name, settings in sections.items():
        lines.append(f"[{name}]")
        lines.extend(f"{key} = {toml(value)}" for key, value in settings.items())
    return "\n".join(lines) + "\n"


def configuration(
    postgres: Postgres | int, variant: Variant, *, databases: Mapping[str, Section] | None = None, **sections: Section
) -> dict[str, Section]:
    """The sections of a configuration: what the test says, over what every test wants.

    postgres: the server, or a port of 127.0.0.1. databases: by name; `endpoints` and `dbname` are filled in.
    """
    port = postgres if isinstance(postgres, int) else postgres.port
    base: dict[str, dict[str, Any]] = {
        "listen": {"address": ["127.0.0.1", *(["[::1]"] if has_ipv6() else [])], "port": 0},
        "engine": {"io": variant.io, "workers": variant.workers, "core_dumps": True},
        "limits": {"drain_timeout": "3s"},
        "auth": {"type": "trust"},
        "server_defaults": {"pool_size": 4, "query_wait_timeout": "10s", "tls.mode": "disable"},
        "console": {"admins": ["ops"], "viewers": ["watcher"]},
        "metrics": {"address": f"127.0.0.1:{free_port()}"},
        "log": {"format": "json", "level": "info", "connections": False},
    }
    for name, section in sections.items():
        base.setdefault(name, {}).update(section)
    for name, section in (databases or {"app": {}}).items():
        base[f"databases.{json.dumps(name)}"] = {"endpoints": [f"127.0.0.1:{port}"], "dbname": "app", **section}
    for user in KNOWN:
        base.setdefault(f"users.{user}", {}).setdefault("secret", {"env": f"SECRET_{user}"})
    return {name: section for name, section in base.items() if section.get("_absent") is not True}


@dataclass
class Forebay:
    """A running forebay. folder: where its configuration and log lie; under: a command in front of its own."""

    folder: Path
    sections: dict[str, Section]
    variant: Variant
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    files_max: int | None = None
    under: tuple[str, ...] = ()
    started: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | Orphan | None = None

    @property
    def path(self) -> Path:
        """Its configuration."""
        return self.folder / "forebay.toml"

    def write(self, sections: dict[str, Section] | None = None) -> None:
        """Writes the configuration, a changed one if given; where metrics are served stays as it was."""
        self.sections = {**(sections or self.sections), "metrics": self.sections["metrics"]}
        self.path.write_text(document(self.sections))

    def start(self) -> None:
        """Starts it and waits until it listens."""
        self.write()
        self.launch()
        until(self._is_listening, within_s=START_S, what=f"forebay listens; {self.log_path} tells more")

    def launch(self) -> None:
        """Starts the process."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.under, sys.executable, "-m", "forebay", "run", str(self.path), *self.arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
                env={**os.environ, **SECRETS, **self.environment}, **self._limits(),
            )  # fmt: skip

    def _limits(self) -> dict[str, Any]:
        """Runs between fork and exec; only tests without threads of their own ask for it."""
        limit = (self.files_max, self.files_max)
        return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit)} if self.files_max else {}

    def _is_listening(self) -> bool:
        assert self.process is not None
        if (code := self.process.poll()) is not None:
            raise AssertionError(f"forebay ended with {code}:\n{self.log_path.read_text()[-3000:]}")
        starts = self.events("start")
        if starts:
            self.started = starts[-1]
        return bool(starts)

    @property
    def log_path(self) -> Path:
        """What it says on standard error."""
        return self.folder / "log"

    def log(self) -> list[dict[str, Any]]:
        """Its log's lines so far; a line that is no event stands under `text`."""
        lines = []
        for line in self.log_path.read_text(errors="replace").split("\n")[:-1]:
            try:
                lines.append(dict(json.loads(line)))
            except ValueError:
                lines.append({"text": line})
        return lines

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's lines of one kind."""
        return [line for line in self.log() if line.get("event") == name]

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None, "it has not been started"
        return self.process.pid

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(str(self.started["listen"]).split(",")[0].rpartition(":")[2])

    @property
    def target(self) -> Target:
        """Where clients reach it."""
        return Target(str(self.variant), "127.0.0.1", self.port)

    def console(self, sql: str, *, user: str = "ops") -> list[dict[str, str | None]]:
        """A console command's rows, by column. Raises AssertionError with the error's fields."""
        with self.target.at(user=user, dbname="forebay", password=PASSWORD.format(user)).wire() as wire:
            return asked(wire, sql)

    def servers_active(self) -> int:
        """Servers that clients hold, as the metrics count them: asking takes no client's place."""
        found = re.findall(r'^forebay_servers\{[^}]*state="active"[^}]*\} (\d+)$', self.metrics(), re.MULTILINE)
        return sum(map(int, found))

    def metrics(self, path: str = "/metrics") -> str:
        """What the HTTP listener says."""
        address = self.started["metrics"]
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def total(self, name: str) -> int:
        """A metric, summed up over its labels."""
        found = re.findall(rf"^{name}{{.*}} (\S+)$", self.metrics(), re.MULTILINE)
        return sum(int(float(value)) for value in found)

    def catalogue_loads(self) -> int:
        """How often the catalogue of a database was read."""
        return self.total("forebay_catalogue_loads_total")

    def rss_kb(self) -> int:
        """Memory it holds that no file backs, in KB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0])

    def files(self) -> int:
        """Descriptors it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def cpu_s(self) -> float:
        """Processor time it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def reload(self, sections: dict[str, Section] | None = None) -> dict[str, Any]:
        """Writes a configuration if given, sends HUP and returns the event that tells what came of it.

        What has changed is told behind that event, and is there by then.
        """
        if sections is not None:
            self.write(sections)
        names = ("reload", "reload_refused")
        before = sum(line.get("event") in names for line in self.log())
        self.send_signal(signal.SIGHUP)

        def told() -> dict[str, Any] | None:
            lines = self.log()
            found = [at for at, line in enumerate(lines) if line.get("event") in names]
            if len(found) <= before:
                return None
            event, *behind = lines[found[before] :]
            changes = sum(line.get("event") == "setting_changed" for line in behind)
            return event if changes >= event.get("changes", 0) else None

        found = until(told, within_s=10, what="forebay says what became of the reload")
        assert found is not None
        return found

    def upgrade(self, *, ends: bool = True) -> str:
        """`forebay upgrade`: what it prints. From here on this is the new process; `ends`: and the old one has ended.

        Raises AssertionError with its words where it is refused.
        """
        before = self.process
        assert before is not None, "it has not been started"
        done = subprocess.run(
            [sys.executable, "-m", "forebay", "upgrade", str(self.path)],
            # Without the secrets: those are for the process that serves.
            capture_output=True, text=True, cwd=self.folder, env={**os.environ, **self.environment},
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        self.process = Orphan(int(done.stdout.split()[1]))
        self.started = self.events("start")[-1]
        if ends:
            assert before.wait(timeout=STOP_S) == 0, self._tail()
        return done.stdout

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends it and sees that it ended in order."""
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            code = self.process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"forebay did not stop within {STOP_S} s:\n{self._tail()}") from None
        finally:
            self.process = None
        assert code == 0, f"forebay ended with {code}:\n{self._tail()}"
        assert self.events("stop"), f"forebay did not say that it stopped:\n{self._tail()}"
        self.assert_log_is_clean()

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=10)
            self.process = None

    def assert_log_is_clean(self) -> None:
        """No panic, no traceback, no internal error in the log."""
        bad = [line for line in self.log() if line.get("code") == "FB999" or "panic" in str(line) or "text" in line]
        assert not bad, bad[:20]

    def _tail(self) -> str:
        return self.log_path.read_text(errors="replace")[-3000:]


def asked(wire: Wire, sql: str) -> list[dict[str, str | None]]:
    """A simple query's rows, by column."""
    from tests.harness.wire import query, row

    frames = wire.ask(query(sql))
    errors = [frame.fields for frame in frames if frame.tag == "E"]
    assert not errors, errors
    names: list[str] = []
    rows = []
    for frame in frames:
        if frame.tag == "T":
            names = columns(frame.body)
        elif frame.tag == "D":
            rows.append(dict(zip(names, row(frame), strict=True)))
    return rows


def columns(description: bytes) -> list[str]:
    """The names in a RowDescription's body."""
    names = []
    rest = description[2:]
    while rest:
        name, _, rest = rest.partition(b"\0")
        names.append(name.decode())
        rest = rest[18:]
    return names


@contextlib.contextmanager
def running(folder: Path, sections: dict[str, Section], variant: Variant, **options: Any) -> Iterator[Forebay]:
    """A forebay for as long as the block lasts; it must stop in order, unless the block failed or it was killed."""
    folder.mkdir(parents=True, exist_ok=True)
    forebay = Forebay(folder, sections, variant, **options)
    try:
        forebay.start()
        yield forebay
    except BaseException:
        forebay.kill()
        raise
    forebay.stop()
