"""Primaries and their standbys."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import skip_without_uring
from tests.harness import pooler, postgres
from tests.harness.certificates import Authority
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.standby import standby_of

VARIANTS = (Variant("uring", 2), Variant("epoll", 1))
Pair = tuple[Postgres, Postgres]
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


@pytest.fixture
def pair(authority: Authority) -> Iterator[Pair]:
    """A primary and its standby, both of which may be killed, and take each other's place."""
    with postgres.running(18, authority) as primary, standby_of(primary) as standby:
        yield primary, standby


@contextlib.contextmanager
def on_each_driver(server: Postgres, databases: Mapping[str, Any], folder: Path) -> Iterator[list[Forebay]]:
    """A forebay with each I/O driver before the same servers, so that what becomes of them serves both."""
    with contextlib.ExitStack() as stack:
        started = []
        for variant in VARIANTS:
            sections = configuration(server, variant, databases=databases)
            with skip_without_uring(variant):
                started.append(stack.enter_context(pooler.running(folder / str(variant), sections, variant)))
        yield started
