"""Where the database is: in libpq's own variables. Every connection of a test is closed at its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

Connect = Callable[..., psycopg.Connection[Any]]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """connect(**options): a connection that commits by itself unless it is told otherwise."""
    with contextlib.ExitStack() as stack:

        def made(**options: Any) -> psycopg.Connection[Any]:
            options.setdefault("autocommit", True)
            return stack.enter_context(contextlib.closing(psycopg.connect(**options)))

        yield made


@pytest.fixture
def conn(connect: Connect) -> psycopg.Connection[Any]:
    """One of them."""
    return connect()
