"""A primary and its standby, which stay as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.harness.postgres import Postgres
from tests.harness.standby import standby_of


@pytest.fixture(scope="session")
def standby(server: Postgres) -> Iterator[Postgres]:
    """A standby of the server that all tests share."""
    with standby_of(server) as running:
        yield running


@pytest.fixture(scope="session")
def standbys(server: Postgres, standby: Postgres) -> Iterator[list[Postgres]]:
    """Three of the server that all tests share."""
    with contextlib.ExitStack() as stack:
        yield [standby, *(stack.enter_context(standby_of(server)) for _ in range(2))]
