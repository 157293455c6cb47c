"""Other poolers that cases are played through: started as tests/cases/poolers.toml says, or running already."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cases import ROOT
from tests.cases.play import DATABASE
from tests.harness import account, postgres
from tests.harness.deadline import until
from tests.harness.target import Target

# Longer than any answer takes: who has none by then waits, and is stopped.
PATIENCE_S = 5.0
START_S = 10.0


@dataclass(frozen=True, slots=True)
class Pooler:
    """One that is started from its table. environment: what its program needs."""

    spec: dict[str, Any]
    bin: str
    environment: dict[str, str]
    server_port: int

    def version(self) -> str:
        """The first line that it prints."""
        command = [word.format(bin=self.bin) for word in self.spec["version"]]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=self.environment)
        return (done.stdout or done.stderr).splitlines()[0]

    @contextlib.contextmanager
    def running(self, folder: Path, servers: int) -> Iterator[Target]:
        """A fresh one, for as long as the block lasts."""
        port = postgres.free_port()
        values = {
            "bin": self.bin, "folder": folder, "port": port, "server_port": self.server_port, "servers": servers,
            "database": DATABASE,
        }  # fmt: skip
        account.give(folder)
        for name, text in self.spec["files"].items():
            (folder / name).write_text(text.format(**values))
            account.give(folder / name)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [word.format(**values) for word in self.spec["argv"]],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True,
                env=self.environment, **account.process_options(),
            )  # fmt: skip
        target = Target("pooler", "127.0.0.1", port, dbname=DATABASE, timeout_s=PATIENCE_S)
        try:
            until(lambda: is_listening(target), within_s=START_S, what=f"it listens; {folder}/log tells more")
            yield target
        finally:
            process.kill()
            process.wait()


def is_listening(target: Target) -> bool:
    """Whether it answers a client."""
    with contextlib.suppress(OSError):
        target.wire().close()
        return True
    return False


@dataclass(frozen=True, slots=True)
class Running:
    """One that runs already, whose databases cases_1 and cases_2 are pools of one and of two servers."""

    host: str
    port: int

    def version(self) -> str:
        """Where it is; it may be anything."""
        return f"{self.host}:{self.port}"

    @contextlib.contextmanager
    def running(self, _: Path, servers: int) -> Iterator[Target]:
        """As it is, with what cases before have left."""
        yield Target("pooler", self.host, self.port, dbname=f"{DATABASE}_{servers}", timeout_s=PATIENCE_S)


def program_folder(given: str | None, work: Path) -> tuple[str, dict[str, str]]:
    """Where poolers' programs lie, and the environment they need; without a folder PgBouncer as the benches find it."""
    if given is not None:
        return given, dict(os.environ)
    sys.path.insert(0, str(ROOT / "benches"))
    from measuring import programs

    path, environment = programs.pgbouncer(work)
    return str(Path(path).parent), {**os.environ, **environment}
