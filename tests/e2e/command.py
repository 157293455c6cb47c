"""The `forebay` command as its user runs it: a process, its output, its end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness.deadline import until

START_S = 90.0
STOP_S = 30.0


def forebay(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "forebay", *arguments],
        capture_output=True, text=True, check=False, timeout=START_S, stdin=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip


@contextmanager
def state_folder() -> Iterator[Path]:
    """A folder for `forebay up --data` that the server's user may enter: pytest's own are private."""
    folder = Path(tempfile.mkdtemp(prefix="forebay-up-"))
    folder.chmod(0o755)
    try:
        yield folder / "state"
    finally:
        shutil.rmtree(folder)


@dataclass
class Up:
    """A `forebay up` in a session of its own, as in a terminal of its own."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def text(self) -> str:
        """What it printed so far."""
        return self.output.read_text(errors="replace")

    def printed(self, label: str) -> str:
        """What stands behind `label` in its banner."""
        line = next(line for line in self.text.splitlines() if line.strip().startswith(label))
        return line.split(maxsplit=1)[1].strip()

    @property
    def dsn(self) -> str:
        """The DSN it printed."""
        return self.printed("DSN")

    def interrupt(self) -> int:
        """Ctrl-C: the terminal sends SIGINT to the foreground group. Returns the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(timeout=STOP_S)


@contextmanager
def up(folder: Path, *arguments: str) -> Iterator[Up]:
    """`forebay up` on any free ports; killed at the end if the test has not ended it."""
    output = folder.with_name(f"{folder.name}.out")
    ports = ("--port", "0", "--metrics-port", "0")
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "forebay", "up", *ports, "--data", str(folder), *arguments],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    running = Up(process, output)
    try:
        until(
            lambda: "Ctrl-C" in running.text or process.poll() is not None,
            within_s=START_S,
            what="forebay up prints its banner",
        )
        assert process.poll() is None, running.text
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def server_process(folder: Path) -> int | None:
    """The process of the embedded server on a state folder, or None."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"/postgres") and str(folder / "postgres-18").encode() in words:
            return int(entry.name)
    return None
