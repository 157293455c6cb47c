"""The PostgreSQL that all poolers stand before: fresh for each run, tuned so that it is not what is measured."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from measuring import programs
from measuring.processes import Group, free_port, give_to_server_account
from measuring.workloads import DB, PASSWORD, SCRAM_USER, USER

# A pooler that speaks TLS to PostgreSQL by itself would cost more than its peers: it is refused for USER.
HBA = f"""\
local all postgres trust
host all postgres 127.0.0.1/32 trust
local {DB} {USER} trust
hostnossl {DB} {USER} 127.0.0.1/32 trust
host {DB} {SCRAM_USER} 127.0.0.1/32 scram-sha-256
"""
START_TRIES = 100
CONNECTIONS_MAX = 200


def clean_environment() -> dict[str, str]:
    """The caller's, without the PG* variables that libpq would obey."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


class Postgres:
    """A running server with pgbench's tables at `scale`."""

    def __init__(self, work: Path, scale: int, connections_max: int = CONNECTIONS_MAX) -> None:
        self.bin, self.work, self.port = programs.postgres_bin(work), work, free_port()
        self.environment = {**clean_environment(), **programs.library_path(self.bin), "PGGSSENCMODE": "disable"}
        self.connections_max = connections_max
        self.cert, self.key = self._certificate()
        self.group = Group("pg")
        self._initialise()
        self._start()
        self._create(scale)

    def _certificate(self) -> tuple[Path, Path]:
        crt, key = self.work / "server.crt", self.work / "server.key"
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        if os.environ.get("BENCH_TLS_KEY", "ec") != "ec":
            new = ["-newkey", "rsa:2048"]
        subprocess.run(
            ["openssl", "req", "-x509", "-nodes", *new, "-keyout", str(key), "-out", str(crt), "-days", "30",
             "-subj", "/CN=localhost"],
            check=True, capture_output=True,
        )  # fmt: skip
        give_to_server_account(crt)
        give_to_server_account(key)
        key.chmod(0o600)
        return crt, key

    def _initialise(self) -> None:
        log, once = self.work / "postgres.log", Group("initdb")
        argv = [str(self.bin / "initdb"), "-D", str(self.work / "pgdata"), "-A", "trust", "-U", "postgres",
                "-E", "UTF8", "--locale=C", "--no-sync"]  # fmt: skip
        failed = once.start(argv, log, self.environment).wait()
        once.stop()
        if failed:
            raise SystemExit(log.read_text())
        (self.work / "pgdata/pg_hba.conf").write_text(HBA)

    def _start(self) -> None:
        settings = {
            # One socket where PostgreSQL puts it by default: poolers may find it.
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": f"{self.work},/tmp",
            "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "1GB",
            "max_connections": self.connections_max, "max_wal_size": "4GB", "checkpoint_timeout": "30min",
            "autovacuum": "off",
            "ssl": "on", "ssl_cert_file": self.cert, "ssl_key_file": self.key, "jit": "off", "log_checkpoints": "off",
        }  # fmt: skip
        arguments = [a for name, value in settings.items() for a in ("-c", f"{name}={value}")]
        argv = [str(self.bin / "postgres"), "-D", str(self.work / "pgdata"), *arguments]
        self.group.start(argv, self.work / "postgres.log", self.environment)
        self.group.wait_port(self.port)

    def _create(self, scale: int) -> None:
        for _ in range(START_TRIES):
            made = self.sql(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
            if made.returncode == 0:
                break
            time.sleep(0.1)
        else:
            raise SystemExit(made.stderr)
        self.sql(f"CREATE ROLE {SCRAM_USER} LOGIN PASSWORD '{PASSWORD}'")
        self.sql(f"CREATE DATABASE {DB} OWNER {USER}")
        subprocess.run(
            [*self.client("pgbench", USER), "-i", "-q", "-s", str(scale), DB],
            check=True, capture_output=True, env={**self.environment, "PGSSLMODE": "disable"},
        )  # fmt: skip
        self.sql(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {SCRAM_USER}", DB)
        self.sql("VACUUM ANALYZE", DB)

    def client(self, program: str, user: str, port: int | None = None) -> list[str]:
        """A client program's command line, up to where it connects; `port`: a pooler's."""
        return [str(self.bin / program), "-h", "127.0.0.1", "-p", str(port or self.port), "-U", user]

    def sql(self, text: str, db: str = "postgres") -> subprocess.CompletedProcess[str]:
        """Runs one statement as the superuser."""
        argv = [*self.client("psql", "postgres"), "-qAtX", "-d", db, "-c", text]
        return subprocess.run(argv, check=False, capture_output=True, text=True, env=self.environment)

    def stop(self) -> None:
        """Ends it quickly."""
        self.group.stop(signal.SIGINT, 10)
