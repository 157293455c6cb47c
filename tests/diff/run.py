"""Starts PostgreSQL and forebay for the differential test, and runs it: `make diff N=500 SEED=1 PG=18 LEVEL=safe`.

What follows `--` goes to forebay-diff as it is. `--forebay CMD` takes another build, such as one with a planted defect.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness import postgres
from tests.harness.certificates import Authority
from tests.harness.pooler import SECRETS, Forebay, Variant, configuration
from tests.harness.postgres import Postgres

ROOT = Path(__file__).resolve().parents[2]

# Sizes of pools, as crates/forebay-diff/src/program.rs has them.
POOLS = (1, 2, 6)

# Of one lane: clients on the direct side and sessions kept for more of them, administrators, and some that are on their
# way out. PostgreSQL looks at all it has room for, so there is no more.
CONNECTIONS_OF_LANE = 70

# Of one lane at one level: every pool's servers and listener, of clients and of superusers.
CONNECTIONS_OF_LEVEL = 30

# Beside those of lanes.
CONNECTIONS_APART = 20

# Of PostgreSQL: nothing that is of use to no program, and nothing done for each session that can be done once.
QUICK = {
    "shared_preload_libraries": "plpgsql", "log_min_messages": "fatal", "log_min_error_statement": "panic",
    "wal_level": "minimal", "max_wal_senders": "0", "track_counts": "off", "update_process_title": "off",
    "track_activity_query_size": "100", "max_prepared_transactions": "40",
    # Plans hang on how many pages a table has by then, and programs show them. Without sequential scans parallel plans
    # would be taken, whose rows come in any order.
    "enable_seqscan": "off", "enable_bitmapscan": "off", "max_parallel_workers_per_gather": "0",
}  # fmt: skip

# Libraries that anybody may load; what they bring does nothing unless it is told to.
PLUGINS = ("pg_trgm.so",)

# What a statement waits for a server before it is refused; programs are made so that none has to wait.
QUERY_WAIT = "6s"

# The I/O driver that this machine has, with two workers, so that servers are lent between them.
VARIANT = Variant("auto", 2)

# What PostgreSQL's programs and data may need.
MEMORY_BYTES = 4 << 30

# How forebay is started unless something else is said.
COMMAND = (sys.executable, "-m", "forebay")


@dataclass(frozen=True, slots=True)
class Setup:
    """lanes: programs at a time. levels: of forebay's pools; none: what is the default. command: starts forebay.

    settings: of every pool, beside those that it needs. environment: of forebay, beside what it needs.
    """

    lanes: int = 4
    levels: tuple[str, ...] = ()
    variant: Variant = VARIANT
    command: tuple[str, ...] = COMMAND
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


class Started(Forebay):
    """A forebay that is started by any command line."""

    command: tuple[str, ...] = COMMAND

    def launch(self) -> None:
        """Starts the process."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, "run", str(self.path), *self.arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
                env={**os.environ, **SECRETS, **self.environment},
            )  # fmt: skip


def databases(setup: Setup) -> dict[str, dict[str, Any]]:
    """A pool for each lane, level and size; the names are those that forebay-diff asks for."""
    found: dict[str, dict[str, Any]] = {}
    for lane in range(setup.lanes):
        for level in setup.levels or ("plain",):
            for size in POOLS:
                settings = {"dbname": f"diff{lane}_pooled", "pool_size": size, **setup.settings}
                if level != "plain":
                    settings["level"] = level
                found[f"diff{lane}_{level}_{size}"] = settings
    return found


@contextlib.contextmanager
def database(major: int, setup: Setup, folder: Path) -> Iterator[Postgres]:
    """PostgreSQL, for as long as the block lasts."""
    folder.mkdir(exist_ok=True)
    of_lane = CONNECTIONS_OF_LANE + CONNECTIONS_OF_LEVEL * max(len(setup.levels), 1)
    room = {"max_connections": str(CONNECTIONS_APART + of_lane * setup.lanes)}
    with postgres.running(major, Authority(folder), **QUICK, **room) as server:
        library = server.programs.folder / "lib"
        plugins = library / "plugins"
        plugins.mkdir()
        for name in PLUGINS:
            shutil.copy(library / name, plugins / name)
        yield server


@contextlib.contextmanager
def pooler(server: Postgres, setup: Setup, folder: Path) -> Iterator[Forebay]:
    """forebay before a server, for as long as the block lasts."""
    folder.mkdir(exist_ok=True)
    pair = server.authority.issue(f"forebay-{server.port}", "127.0.0.1")
    sections = configuration(
        server, setup.variant, databases=databases(setup), server_defaults={"query_wait_timeout": QUERY_WAIT},
        listen={"tls.certificate": pair.certificate, "tls.key": pair.key},
    )  # fmt: skip
    forebay = Started(folder, sections, setup.variant, setup.environment)
    forebay.command = setup.command
    try:
        forebay.start()
        yield forebay
    finally:
        forebay.kill()


@contextlib.contextmanager
def pair(major: int, setup: Setup, folder: Path) -> Iterator[tuple[Postgres, Forebay]]:
    """Both, for as long as the block lasts."""
    with database(major, setup, folder) as server, pooler(server, setup, folder) as forebay:
        yield server, forebay


def build() -> Path:
    """Builds forebay-diff and returns where it is."""
    subprocess.run(["cargo", "build", "--quiet", "--package", "forebay-diff"], cwd=ROOT, check=True)
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "forebay-diff"


def command_line(server: Postgres, forebay: Forebay, setup: Setup, words: Sequence[str], tool: Path) -> list[str]:
    """Of forebay-diff, which ends with 0 if nothing differs, 1 if something does, 2 if it could not run."""
    levels = ["--levels", ",".join(setup.levels)] if setup.levels else []
    addresses = ["--direct", f"127.0.0.1:{server.port}", "--pooled", f"127.0.0.1:{forebay.port}"]
    authority = ["--authority", str(server.authority.certificate)]
    return [str(tool), *words, *addresses, *authority, *levels, "--lanes", str(setup.lanes)]


def unclean(forebay: Forebay) -> list[dict[str, Any]]:
    """What its log holds of failures that no client caused."""
    return [line for line in forebay.log() if line.get("code") == "FB999" or "panic" in str(line)]


def keep_in_memory() -> None:
    """Puts temporary folders into memory where there is room: files that come and go cost a third of a run."""
    memory = Path("/dev/shm")
    if "TMPDIR" not in os.environ and memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_BYTES:
        tempfile.tempdir = str(memory)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pg", type=int, choices=sorted(postgres.RELEASES), default=18)
    parser.add_argument("--level", action="append", default=[], help="a level of forebay's pools; may be repeated")
    parser.add_argument("--lanes", type=int, default=4, help="programs at a time")
    parser.add_argument("--io", default="auto", choices=("auto", "uring", "epoll"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--forebay", default=None, help="a command line in place of `python -m forebay`")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of every pool, as in TOML"
    )
    parser.add_argument("--tool", type=Path, default=None, help="a built forebay-diff; cargo builds one otherwise")
    parser.add_argument("words", nargs="*", help="for forebay-diff, after --: run --programs 500")
    given = parser.parse_args()
    command = tuple(shlex.split(given.forebay)) if given.forebay else COMMAND
    settings = tomllib.loads("\n".join(given.set))
    setup = Setup(given.lanes, tuple(given.level), Variant(given.io, given.workers), command, settings)
    keep_in_memory()
    with tempfile.TemporaryDirectory(prefix="fbdiff-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with pair(given.pg, setup, folder) as (server, forebay):
            words = command_line(server, forebay, setup, given.words or ["run"], given.tool or build())
            code = subprocess.run(words, cwd=ROOT, check=False).returncode
            events = unclean(forebay)
    for line in events[:20]:
        print(f"forebay's log: {line}", file=sys.stderr)
    return code or bool(events)


if __name__ == "__main__":
    sys.exit(main())
