"""Primaries and their standbys."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.harness import postgres
from tests.harness.certificates import Authority
from tests.harness.postgres import Postgres
from tests.harness.standby import standby_of

Trio = tuple[Postgres, Postgres, Postgres]


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


@pytest.fixture
def trio(authority: Authority) -> Iterator[Trio]:
    """A primary and two standbys, all of which may be killed."""
    with (
        postgres.running(18, authority) as primary,
        standby_of(primary) as first,
        standby_of(primary) as second,
    ):
        yield primary, first, second
