"""Fixtures that scenarios, drivers, faults and e2e share; made once for the session unless they say otherwise."""

from __future__ import annotations

import contextlib
import os
import ssl
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import pooler, postgres
from tests.harness.certificates import Authority, Pair
from tests.harness.pooler import VARIANTS, Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.target import Target

Start = Callable[..., Forebay]

# The pools of the forebay that scenarios share; `app` is one server that all clients take in turn.
SHARED_DATABASES: dict[str, dict[str, Any]] = {
    "app": {"pool_size": 1},
    "wide": {"pool_size": 4},
    "session": {"pool_mode": "session", "pool_size": 4},
    "statement": {"pool_mode": "statement", "pool_size": 1},
    "few": {"pool_size": 1, "max_prepared_statements": 2},
    "unshared": {"pool_size": 1, "max_prepared_statements": 0},
}


def pytest_configure(config: pytest.Config) -> None:
    """Registers this suite's marks."""
    config.addinivalue_line("markers", "variants(*names): I/O drivers and workers to run over, such as uring-2")
    config.addinivalue_line("markers", "slow: runs for many seconds; left out with -m 'not slow'")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Registers this suite's options."""
    parser.addoption("--every-variant", action="store_true", help="run tests over all four variants, not two")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves a test two of its four variants: both drivers, one with one worker and one with two."""
    if config.getoption("--every-variant") or any("[" in argument for argument in config.args):
        return
    config.hook.pytest_deselected(items=[item for item in items if is_left_out(item)])
    items[:] = [item for item in items if not is_left_out(item)]


def is_left_out(item: pytest.Item) -> bool:
    """Whether the other pair of variants is run instead, which the test's name decides; a mark's variants all run."""
    variant = getattr(item, "callspec", None) and item.callspec.params.get("variant")
    if not isinstance(variant, Variant) or item.get_closest_marker("variants"):
        return False
    parity = zlib.crc32(item.nodeid.replace(str(variant), "").encode()) & 1
    return (variant.io == "uring") == (variant.workers == 1 + parity)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test that uses forebay once for each variant."""
    if "variant" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("variants")
        names = list(mark.args) if mark else list(VARIANTS)
        metafunc.parametrize("variant", [VARIANTS[name] for name in names], ids=names, scope="session")


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Signs the certificates of servers and of forebay."""
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def server(authority: Authority) -> Iterator[Postgres]:
    """PostgreSQL 18."""
    with postgres.running(18, authority) as running:
        yield running


@pytest.fixture(scope="session")
def server_15(authority: Authority) -> Iterator[Postgres]:
    """PostgreSQL 15."""
    with postgres.running(15, authority) as running:
        yield running


@pytest.fixture(scope="session")
def tls(authority: Authority) -> tuple[Pair, ssl.SSLContext]:
    """A certificate for forebay, and a client's context that trusts it."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    return authority.issue("forebay", "localhost", "127.0.0.1", "::1"), context


@pytest.fixture(scope="session")
def direct(server: Postgres) -> Target:
    """The database that forebay's pools lead to, without forebay."""
    return server.target.at(dbname="app")


@pytest.fixture(scope="session")
def shared(variant: Variant, server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forebay]:
    """A forebay with the pools of SHARED_DATABASES, shared by the tests of a variant."""
    sections = configuration(server, variant, databases=SHARED_DATABASES)
    with skip_without_uring(variant), pooler.running(tmp_path_factory.mktemp("shared"), sections, variant) as forebay:
        yield forebay


@pytest.fixture
def start(variant: Variant, tmp_path: Path) -> Iterator[Start]:
    """start(sections, **options): a forebay of the test's own, stopped and checked at the test's end."""
    with contextlib.ExitStack() as stack:
        count = 0

        def begin(sections: dict[str, Any], **options: Any) -> Forebay:
            nonlocal count
            count += 1
            with skip_without_uring(variant):
                return stack.enter_context(pooler.running(tmp_path / f"forebay-{count}", sections, variant, **options))

        yield begin


@contextlib.contextmanager
def skip_without_uring(variant: Variant) -> Iterator[None]:
    """Skips where the kernel or the container has no io_uring; CI=1 forbids it."""
    try:
        yield
    except AssertionError as failed:
        if variant.io == "uring" and "io_uring" in str(failed) and "ended with" in str(failed) and not is_ci():
            pytest.skip("io_uring can't be used here")
        raise


def is_ci() -> bool:
    """Whether nothing may be skipped."""
    return os.environ.get("CI") == "1"
