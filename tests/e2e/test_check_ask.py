"""`forebay check --ask`: what servers accept is learned from them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import forebay
from tests.harness.postgres import PASSWORD, Postgres, free_port
from tests.harness.web import Reply, Request, serving

INI = """\
[databases]
app = host=127.0.0.1 port={port} {more}
other = host=localhost port={port} dbname=app pool_size=1
* = host={socket} port={port}
[pgbouncer]
auth_file = userlist.txt
pool_mode = transaction
default_pool_size = {size}
server_idle_timeout = 7200
"""


@pytest.fixture
def written(tmp_path: Path, server: Postgres) -> Any:
    def write(*, size: int = 20, more: str = "", port: int = server.port) -> Path:
        (tmp_path / "userlist.txt").write_text(f'"app" "{PASSWORD.format("app")}"\n')
        (tmp_path / "userlist.txt").chmod(0o600)
        text = INI.format(port=port, socket=server.folder, size=size, more=more)
        (tmp_path / "pgbouncer.ini").write_text(text)
        return tmp_path / "pgbouncer.ini"

    return write


def test_the_server_tells_what_it_accepts(server: Postgres, written: Any) -> None:
    """Nobody knows max_connections by heart, and it is the number that all pools must fit."""
    with server.target.connect(user="postgres") as admin:
        names = ("max_connections", "superuser_reserved_connections", "reserved_connections")
        most, *reserved = (int(admin.execute(f"show {name}").fetchone()[0]) for name in names)  # type: ignore[index, arg-type]
        room = most - sum(reserved)
    done = forebay("check", "--ask", "--json", "--instances", "3", str(written(size=room // 3)))
    document = json.loads(done.stdout)
    assert (done.returncode, document["ok"]) == (0, True), done.stderr
    (finding,) = [one for one in document["findings"] if one["code"] == "FBC101"]
    assert finding["line"] == 8
    # By address, by name and by Unix socket it is one server.
    servers = 3 * (2 * (room // 3) + 1)
    assert finding["message"].startswith(f"up to {servers} servers may be opened at 127.0.0.1:{server.port}, which has")
    assert f"max_connections {most} less {sum(reserved)} reserved is {room}" in finding["hint"]
    done = forebay("check", "--ask", str(written(size=room // 3)))
    assert "FBC101" not in done.stdout, done.stdout


def test_a_server_that_ends_idle_sessions_first_and_a_roles_limit_are_told(server: Postgres, written: Any) -> None:
    with server.target.connect(user="postgres", autocommit=True) as admin:
        admin.execute("alter role app set idle_session_timeout = '1h'")
        admin.execute("alter role app connection limit 17")
        try:
            done = forebay("check", "--ask", str(written()))
        finally:
            admin.execute("alter role app reset idle_session_timeout")
            admin.execute("alter role app connection limit -1")
    assert 'servers may be opened as user "app" at 127.0.0.1' in done.stdout, done.stdout
    assert "its CONNECTION LIMIT is 17" in done.stdout
    assert "server_idle_timeout 2h is longer than idle_session_timeout 1h of 127.0.0.1" in done.stdout, done.stdout


def test_a_server_that_cannot_be_asked_is_told(server: Postgres, written: Any) -> None:
    """Exit status 3: a script that checks before a start should know."""
    port = free_port()
    done = forebay("check", "--ask", str(written(more="user=nobody_here password=wrong")))
    assert done.returncode == 3
    assert f"127.0.0.1:{server.port} could not be asked: " in done.stdout
    assert 'role "nobody_here" does not exist' in done.stdout
    assert "wrong" not in done.stdout
    done = forebay("check", "--ask", str(written(port=port)))
    assert done.returncode == 3
    assert "Connection refused" in done.stdout


def test_who_asks_for_roles_is_let_in_or_told(server: Postgres, tmp_path: Path) -> None:
    """An endpoint that does not let it in gets no role, and serves nobody: better known before the start."""
    path = tmp_path / "forebay.toml"
    text = (
        f'[databases.app]\nendpoints = ["127.0.0.1:{server.port}"]\ntopology = "poll"\npoll_user = "{{user}}"\n'
        f'tls.mode = "disable"\n[users.app]\nsecret = "{PASSWORD.format("app")}"\n'
    )
    path.touch(mode=0o600)
    for user, status in (("not_there", 3), ("app", 0)):
        path.write_text(text.format(user=user))
        done = forebay("check", "--ask", str(path))
        assert done.returncode == status, done.stdout + done.stderr
        is_told = 'role "not_there" does not exist (poll_user "not_there")' in done.stdout
        assert is_told is (user == "not_there"), done.stdout


def test_how_long_a_failover_takes_is_added_up(server: Postgres, tmp_path: Path) -> None:
    """Whoever sets ttl or poll_interval wants to know what comes of it, before the night when it matters."""
    path = tmp_path / "forebay.toml"
    path.touch(mode=0o600)
    text = (
        f'[databases.app]\nendpoints = ["127.0.0.1:{server.port}"]\n{{topology}}\npoll_user = "app"\npool_size = 20\n'
        f'query_wait_timeout = "10s"\npoll_interval = "200ms"\ntls.mode = "disable"\n'
        f'[users.app]\nsecret = "{PASSWORD.format("app")}"\n'
    )
    path.write_text(text.format(topology='topology = "poll"'))
    done = forebay("check", "--ask", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["noticed", "2.30", "s", "2.20", "s"] in [line[:5] for line in lines], done.stdout
    assert "pool_size 20 in 5 turns of server_opening_max 4" in done.stdout
    assert "promoted" not in [line[0] for line in lines if line]

    async def patroni(request: Request) -> Reply:
        assert request.path == "/config"
        return Reply(body={"ttl": 20, "loop_wait": 5, "retry_timeout": 10, "postgresql": {"use_pg_rewind": True}})

    async def story() -> None:
        async with serving(patroni) as web:
            source = f'topology = "patroni"\ntopology_source = "patroni://{web.host}"'
            path.write_text(text.format(topology=source))
            done = await asyncio.to_thread(forebay, "check", "--ask", str(path))
            assert done.returncode == 0, done.stdout + done.stderr
            parts = [line.split()[:5] for line in done.stdout.splitlines()]
            assert ["promoted", "25.00", "s", "20.00", "s"] in parts, done.stdout
            assert "longer than query_wait_timeout 10s" in done.stdout
            done = await asyncio.to_thread(forebay, "check", "--ask", "--json", str(path))
            (failover,) = json.loads(done.stdout)["failovers"]
            assert (failover["database"], round(failover["worst_s"], 3)) == ("app", 25.355)

    asyncio.run(story())
    # Nobody listens there any more.
    done = forebay("check", "--ask", str(path))
    assert done.returncode == 3
    assert "could not be asked how long that takes: Patroni gave no answer" in done.stdout
