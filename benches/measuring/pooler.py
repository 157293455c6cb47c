"""One pooler, started as its table in peers/*.toml says."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

from measuring import programs
from measuring.postgres import Postgres
from measuring.processes import Group, free_port, give_to_server_account
from measuring.workloads import DB, PASSWORD, SCRAM_USER, USER

PEERS = Path(__file__).resolve().parents[1] / "peers"
POOL_SIZE = 20
CLIENTS_MAX = 12_000
LOG_TAIL = 800

Spec = dict[str, Any]


class NotOffered(Exception):
    """The pooler can't do what the workload asks for."""


def load_specs(further: list[str]) -> dict[str, Spec]:
    """The tables of peers/*.toml, then of the files given; each knows the folder its configuration lies in."""
    specs: dict[str, Spec] = {}
    for path in [*sorted(PEERS.glob("*.toml")), *map(Path, further)]:
        for name, spec in tomllib.loads(path.read_text()).items():
            specs[name] = {**spec, "templates": path.parent / "conf" / spec.get("conf", "")}
    return specs


def scram_verifier(password: str, salt: bytes = b"poolbench-salt16", iterations: int = 4096) -> str:
    """As pg_authid would hold it."""

    def b64(data: bytes) -> str:
        return base64.b64encode(data).decode()

    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${iterations}:{b64(salt)}${b64(stored_key)}:{b64(server_key)}"


class Pooler:
    """A running pooler; `direct` is PostgreSQL itself, whose `group` is None."""

    def __init__(
        self, name: str, spec: Spec | None, pg: Postgres, bin_folder: Path, auth: str, is_encrypted: bool,
        clients_max: int = CLIENTS_MAX,
    ):  # fmt: skip
        self.name, self.port, self.user = name, pg.port, USER
        self.group: Group | None = None
        self.dir: Path | None = None
        # From before it was started to when it took a connection.
        self.listening_s = 0.0
        if spec is None:
            self.user = SCRAM_USER if auth == "scram" else USER
            return
        if auth not in spec.get("auth", {}):
            raise NotOffered(f"{name}: no {auth}")
        if is_encrypted and not (spec.get("tls") or spec.get("relay")):
            raise NotOffered(f"{name}: no TLS")
        if spec.get("relay") and auth == "scram":
            self.user = SCRAM_USER
        self.port = free_port()
        self.dir = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=pg.work))
        give_to_server_account(self.dir)
        self.clients_max = clients_max
        self.values = self._template_values(spec, pg, bin_folder, auth)
        self.environment = {"BENCH_PASSWORD": PASSWORD}
        for key, value in spec.get("env", {}).items():
            self.environment[key] = self._fill(str(value))
        if "{{pgbouncer}}" in str(spec["argv"]):
            self.values["pgbouncer"], needed = programs.pgbouncer(pg.work)
            self.environment.update(needed)
        if spec.get("conf"):
            log = "logged" if spec.get("logged") else "quiet"
            self._render(spec["templates"], {"tls" if is_encrypted else "notls", auth, log})
        self._start(spec, self.dir / "log")

    def _template_values(self, spec: Spec, pg: Postgres, bin_folder: Path, auth: str) -> dict[str, object]:
        values: dict[str, object] = {
            "bin": bin_folder, "dir": self.dir, "port": self.port, "metrics_port": free_port(),
            "pg_host": "127.0.0.1", "pg_port": pg.port, "pg_sockdir": pg.work,
            "pg_socket": pg.work / f".s.PGSQL.{pg.port}", "endpoint": f"127.0.0.1:{pg.port}",
            "user": USER, "db": DB, "password": PASSWORD, "scram_secret": scram_verifier(PASSWORD),
            "pool": POOL_SIZE, "pool_mode": "transaction", "level": "safe",
            "workers": 1, "max_clients": self.clients_max, "cert": pg.cert, "key": pg.key,
            "more_limits": "", "more_defaults": "", "more_tables": "",
            "forebay": programs.forebay(), "root": os.environ.get("BENCH_ROOT", ""), "python": sys.executable,
        }  # fmt: skip
        self.values = values
        for key, value in spec.get("vars", {}).items():
            values[key] = self._fill(str(value))
        values["auth"] = spec["auth"][auth]
        return values

    def _fill(self, text: str) -> str:
        return re.sub(r"\{\{(\w+)\}\}", lambda found: str(self.values[found[1]]), text)

    def _render(self, templates: Path, modes: set[str]) -> None:
        """Copies the templates; of lines that begin with @MODE, those of this run's modes are kept."""
        assert self.dir
        for template in sorted(templates.iterdir()):
            lines = []
            for line in template.read_text().splitlines():
                found = re.match(r"@(tls|notls|scram|trust|quiet|logged)\s?(.*)", line)
                if not found:
                    lines.append(self._fill(line))
                elif found[1] in modes:
                    lines.append(self._fill(found[2]))
            copy = self.dir / template.name
            copy.write_text("\n".join(lines) + "\n")
            copy.chmod(0o600)
            give_to_server_account(copy)

    def _start(self, spec: Spec, log: Path) -> None:
        as_caller = spec.get("as_caller", False)
        for command in spec.get("setup", []):
            once = Group("setup")
            failed = once.start([self._fill(a) for a in command], log, self.environment, self.dir, as_caller).wait()
            once.stop()
            if failed:
                raise RuntimeError(f"{self.name}: setup failed: {log.read_text()[-LOG_TAIL:]}")
        self.group = Group(self.name)
        begin = time.perf_counter()
        try:
            for command in spec["argv"]:
                self.group.start([self._fill(a) for a in command], log, self.environment, self.dir, as_caller)
            self.group.wait_port(self.port)
            self.listening_s = time.perf_counter() - begin
            time.sleep(spec.get("settle", 0))
        except Exception as error:
            self.group.stop()
            raise RuntimeError(f"{self.name}: {error}: {log.read_text()[-LOG_TAIL:]}") from None

    def log_tail(self) -> str:
        """The end of what it wrote, for the row of a failure."""
        log = self.dir / "log" if self.dir else None
        return log.read_text(errors="replace")[-LOG_TAIL:] if log and log.exists() else ""

    def stop(self) -> None:
        """Ends it, and removes its folder."""
        if self.group and self.dir:
            self.group.stop(signal.SIGTERM, 1.0)
            shutil.rmtree(self.dir, ignore_errors=True)
