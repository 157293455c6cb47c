"""A server that fault tests may kill, apart from the one that others share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import postgres
from tests.harness.certificates import Authority
from tests.harness.postgres import Postgres


@pytest.fixture(scope="session")
def mortal(authority: Authority) -> Iterator[Postgres]:
    """PostgreSQL 18, to be killed and started again; every test leaves it running."""
    with postgres.running(18, authority, fsync="on", synchronous_commit="on") as running:
        yield running
