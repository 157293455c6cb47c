"""A PostgreSQL that streams from another one."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.harness import account
from tests.harness.deadline import until
from tests.harness.postgres import Postgres, free_port

COPY_S = 120.0


@contextlib.contextmanager
def standby_of(primary: Postgres) -> Iterator[Postgres]:
    """A hot standby for as long as the block lasts, with all that the primary has done before."""
    with tempfile.TemporaryDirectory(prefix="fbpg-", ignore_cleanup_errors=True) as name:
        folder = Path(name) / "pg"
        folder.mkdir()
        for path in (folder.parent, folder):
            account.give(path)
            path.chmod(0o755)
        server = Postgres(primary.programs, folder, free_port(), primary.authority, primary.settings)
        _copy(primary, folder / "data")
        with (folder / "data" / "postgresql.conf").open("a") as conf:
            conf.write(f"port = {server.port}\nunix_socket_directories = '{folder}'\nhot_standby_feedback = on\n")
        try:
            server.start()
            caught_up(primary, server)
            yield server
        finally:
            server.stop(signal.SIGQUIT)


def caught_up(primary: Postgres, standby: Postgres) -> None:
    """Returns once the standby has replayed all that the primary has written by now."""
    with primary.target.connect(user="postgres", autocommit=True) as asked:
        # What was committed before need not have been written out yet; with this it is.
        asked.execute("set synchronous_commit to local")
        asked.execute("select pg_logical_emit_message(true, 'forebay', 'caught up')")
        written = asked.execute("select pg_current_wal_lsn()").fetchone()
    assert written is not None
    with standby.target.connect(user="postgres", autocommit=True) as asked:
        sql = "select pg_last_wal_replay_lsn() >= %s::pg_lsn"
        try:
            until(
                lambda: asked.execute(sql, written).fetchone() == (True,), within_s=30, what="the standby has caught up"
            )
        except AssertionError as late:
            logs = [(one.folder / "log").read_text()[-1500:] for one in (primary, standby)]
            raise AssertionError(f"{late}\nthe primary says:\n{logs[0]}\nthe standby:\n{logs[1]}") from None


def _copy(primary: Postgres, data: Path) -> None:
    done = subprocess.run(
        [primary.programs.path("pg_basebackup"), "-D", str(data), "-R", "-X", "stream", "-c", "fast", "--no-sync",
         "-d", f"host={primary.folder} port={primary.port} user=postgres"],
        capture_output=True, text=True, cwd="/", timeout=COPY_S, check=False, env=primary.programs.environment,
        **account.process_options(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
