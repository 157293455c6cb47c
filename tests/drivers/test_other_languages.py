"""pgx, pgjdbc and node-postgres: one program each, direct and through forebay, must print the same.

Each program prints a line for each thing it tries; the last one is `end`.
"""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.harness.pooler import Forebay
from tests.harness.target import Target

RUN_S = 60


def printed(command: list[str], target: Target) -> list[str]:
    """What a program says of a database."""
    arguments = [target.host, str(target.port), target.dbname, target.user]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert lines[-1] == "end"
    return lines


@pytest.mark.timeout(700)
@pytest.mark.variants("uring-2", "epoll-1")
@pytest.mark.parametrize("dbname", ["app", "few"])
@pytest.mark.parametrize("program", ["pgx", "pgjdbc", "node_postgres"])
def test_a_program_prints_the_same(
    program: str, dbname: str, shared: Forebay, direct: Target, request: pytest.FixtureRequest
) -> None:
    """Drivers differ in how they name, cache and flush; with a server that keeps two statements, too."""
    command: Any = request.getfixturevalue(program)
    assert printed(command, shared.target.at(dbname=dbname)) == printed(command, direct)
