"""IPv4, IPv6 and Unix sockets, on both sides."""

from __future__ import annotations

import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.harness.pooler import Variant, configuration
from tests.harness.postgres import Postgres, free_port, has_ipv6
from tests.harness.target import Target


@pytest.fixture
def folder() -> Iterator[Path]:
    """A path short enough for a socket's."""
    with tempfile.TemporaryDirectory(prefix="fb-") as name:
        yield Path(name)


def works(target: Target) -> bool:
    """Whether libpq and the client of our own get an answer."""
    with target.wire() as wire, target.connect(autocommit=True) as connection:
        return wire.value("select 1") == "1" and connection.execute("select 2").fetchone() == (2,)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6_on_both_sides(start: Start, server: Postgres, variant: Variant) -> None:
    """[::1] to forebay, [::1] to the server."""
    databases = {"app": {"endpoints": [f"[::1]:{server.port}"]}}
    forebay = start(configuration(server, variant, databases=databases, listen={"address": ["[::1]"]}))
    target = forebay.target.at(host="::1")
    assert works(target)
    with target.wire() as wire:
        assert wire.value("select host(inet_client_addr())") == "::1"


def test_a_unix_socket_towards_clients(start: Start, server: Postgres, variant: Variant, folder: Path) -> None:
    """With its mode, and gone after the stop."""
    listen = {"address": [], "unix": folder, "unix_mode": "0700", "port": free_port()}
    forebay = start(configuration(server, variant, listen=listen))
    target = Target("unix", str(folder), listen["port"])  # type: ignore[arg-type]
    assert works(target)
    path = folder / f".s.PGSQL.{listen['port']}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    forebay.stop()
    assert not path.exists()


@pytest.mark.variants("uring-2", "epoll-2")
def test_clients_of_a_unix_socket_are_spread_over_workers(
    start: Start, server: Postgres, variant: Variant, folder: Path
) -> None:
    """One worker accepts them all: it must hand them round."""
    listen = {"unix": folder, "port": free_port()}
    forebay = start(configuration(server, variant, listen=listen))
    target = Target("unix", str(folder), listen["port"])  # type: ignore[arg-type]
    wires = [target.wire() for _ in range(8)]
    try:
        # Ids are told apart by the worker they belong to: see SHOW CLIENTS.
        ids = [int(row["id"] or row["ptr"] or 0) for row in forebay.console("show clients") if row["database"] == "app"]
        assert len({number % 2 for number in ids}) == 2
    finally:
        for wire in wires:
            wire.close()


def test_a_unix_socket_towards_the_server(start: Start, server: Postgres, variant: Variant) -> None:
    """The cheaper way on one host."""
    databases = {"app": {"endpoints": [str(server.socket)]}}
    forebay = start(configuration(server, variant, databases=databases))
    assert works(forebay.target)
    with forebay.target.wire() as wire:
        assert wire.value("select inet_client_addr() is null") == "t"


def test_a_host_name_is_resolved(start: Start, server: Postgres, variant: Variant) -> None:
    """Off the loop, by the system's resolver."""
    forebay = start(configuration(server, variant, databases={"app": {"endpoints": [f"localhost:{server.port}"]}}))
    assert works(forebay.target)


def test_an_address_in_use_is_told(start: Start, server: Postgres, variant: Variant) -> None:
    """A second forebay on the same port must not start quietly beside the first."""
    forebay = start(configuration(server, variant))
    with pytest.raises(AssertionError, match="choose another port"):
        start(configuration(server, variant, listen={"port": forebay.port}))
    assert works(forebay.target)


def test_a_missing_folder_of_the_unix_socket_is_told(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path
) -> None:
    """`forebay check` can't: the folder may be made as the service starts."""
    missing = tmp_path / "run"
    with pytest.raises(AssertionError, match=re.escape(f"Make the folder {missing}")):
        start(configuration(server, variant, listen={"port": free_port(), "unix": str(missing)}))


def test_an_endpoint_that_does_not_answer_is_told_to_the_client(start: Start, variant: Variant) -> None:
    """57P03 with the cause, within the wait, and no spinning meanwhile."""
    forebay = start(configuration(free_port(), variant, server_defaults={"query_wait_timeout": "1s"}))
    before = forebay.cpu_s()
    with forebay.target.dial() as wire, pytest.raises(AssertionError, match="refused"):
        wire.log_in(user="app", database="app")
    assert forebay.cpu_s() - before < 0.5
