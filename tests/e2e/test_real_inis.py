"""Twenty pgbouncer.ini of the kinds that people have: told what is to be told, converted, and served with."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from forebay.config import Finding, check, load, load_text, render
from forebay.config.advice.facts import Facts
from forebay.config.convert import convert, same
from psycopg.conninfo import make_conninfo

from tests.e2e import real_inis
from tests.e2e.real_inis import FOLDER, NAMES, World, copied, expected, logins, startable
from tests.harness import account, drop_in
from tests.harness.certificates import Authority
from tests.harness.deadline import until
from tests.harness.postgres import PASSWORD, Postgres, free_port

START_S = 60.0
OPEN_FILES = 20_000
# What the process itself does, which `forebay check` mentions wherever it stands.
OF_THE_PROCESS = "FBC100"
ROLES = ("web", "batch", "odoo", "ops")
LOOKUP = """
create schema if not exists pooler;
create or replace function public.user_search(uname text) returns table (usename name, passwd text)
  language sql security definer as 'select usename, passwd from pg_shadow where usename = uname';
create or replace function pooler.user_lookup(uname text) returns table (usename name, passwd text)
  language sql security definer as 'select usename, passwd from pg_shadow where usename = uname';
create or replace function pooler.get_auth(uname text) returns table (username name, password text)
  language sql security definer as 'select usename, passwd from pg_shadow where usename = uname';
grant usage on schema pooler to public;
"""


@pytest.fixture(scope="module")
def world(server: Postgres, authority: Authority) -> World:
    """Roles and databases that the files name."""
    with server.target.connect(user="postgres", autocommit=True) as admin:
        for role in (*ROLES, "pooler"):
            admin.execute(f"create role {role} login password '{PASSWORD.format(role)}'")  # type: ignore[arg-type]
        for name in ("shop", "analytics"):
            admin.execute(f"create database {name}")  # type: ignore[arg-type]
        stored = dict(admin.execute("select rolname, rolpassword from pg_authid where rolpassword like 'SCRAM%'"))  # type: ignore[arg-type]
    digests = {name: hashlib.md5((PASSWORD.format(name) + name).encode()).hexdigest() for name in (*ROLES, "old")}
    md5 = {name: f"md5{digest}" for name, digest in digests.items()}
    for name in ("postgres", "shop"):
        with server.target.connect(user="postgres", dbname=name, autocommit=True) as admin:
            admin.execute(LOOKUP)  # type: ignore[arg-type]
    return World(server, authority, {"SCRAM": stored, "MD5": md5, "PLAIN": {}})


def findings_of(ini: Path) -> list[Finding]:
    return check(ini, environ={}, facts=Facts(descriptors=OPEN_FILES))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_to_be_known_of_it_is_told(name: str, world: World, tmp_path: Path) -> None:
    """Neither a mistake without its warning nor a warning without a mistake."""
    findings = findings_of(copied(name, tmp_path, world))
    wanted = [one for path in sorted(FOLDER.glob(f"{name[:2]}-*.ini")) for one in expected(path)]
    for one in wanted:
        there = [
            found
            for found in findings
            if (found.code, found.severity, Path(found.path).name, found.line)
            == (one.code, one.severity, one.file, one.line)
        ]
        assert there or not one.is_sure, f"{one} is missing:\n{render(findings)}"
        assert all(one.words in found.message for found in there), render(there)
    at = {(one.code, one.file, one.line) for one in wanted}
    unexpected = [
        found
        for found in findings
        if found.code != OF_THE_PROCESS and (found.code, Path(found.path).name, found.line) not in at
    ]
    assert not unexpected, render(unexpected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("inline", [False, True], ids=["", "inline"])
def test_it_converts_to_the_same(name: str, inline: bool, world: World, tmp_path: Path) -> None:
    ini = copied(name, tmp_path, world)
    loaded = load(ini, environ={})
    made = convert(ini, target=tmp_path / "forebay.toml", inline_secrets=inline)
    assert (made.text is None) == (loaded.config is None)
    if made.text is None or loaded.config is None:
        return
    for path, secret in made.secrets.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        real_inis.written(tmp_path / path, secret)
    again = load_text(made.text, folder=tmp_path, environ={})
    assert again.config is not None, render(again.findings)
    assert same(loaded.config, again.config)
    assert loaded.config.engine.to_json() == again.config.engine.to_json()
    assert ("secret of" in made.text) <= inline


@dataclass
class Started:
    """A process with one of the files. is_refused: forebay lacks something that the file wants."""

    ini: Path
    port: int
    process: subprocess.Popen[bytes]
    is_refused: bool

    def said(self) -> str:
        return (self.ini.parent / "stderr").read_text()


@pytest.fixture(scope="module")
def started(world: World) -> Iterator[dict[str, Started]]:
    """All of them at once, before one server."""
    with ExitStack() as stack:
        started = {name: start(name, stack.enter_context(drop_in.folder()), world) for name in NAMES}
        yield started
        for one in started.values():
            one.process.kill()
            one.process.wait()


def start(name: str, folder: Path, world: World) -> Started:
    port = free_port()
    ini = startable(name, folder, world, port)
    return launched(ini, port, is_refused=any(finding.is_error for finding in findings_of(ini)))


def launched(ini: Path, port: int, *, is_refused: bool) -> Started:
    become = ["-u", account.UNPRIVILEGED] if account.is_root() else []
    environment = {**os.environ, "FOREBAY_ENGINE_IO": "epoll", "FOREBAY_ENGINE_WORKERS": "1"}
    with (ini.parent / "stderr").open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", drop_in.PROGRAM, *become, str(ini)], stdin=subprocess.DEVNULL, stdout=file,
            stderr=file, cwd="/", start_new_session=True, env=environment,
        )  # fmt: skip
    return Started(ini, port, process, is_refused)


@pytest.mark.parametrize("name", NAMES)
def test_it_serves(name: str, started: dict[str, Started], authority: Authority) -> None:
    """As the file says who may log in, and how."""
    running = started[name]
    if running.is_refused:
        assert running.process.wait(START_S) == 1
        assert "error FBC" in running.said()
        return
    for login in logins(FOLDER / f"{name}.ini"):
        given = dict(pair.split("=") for pair in login.replace("=CA", f"={authority.certificate}").split())
        parameters = make_conninfo(
            host="127.0.0.1", port=running.port, password=PASSWORD.format(given["user"]), connect_timeout=5, **given
        )
        with connected(running, parameters) as connection:
            for _ in range(2):
                assert connection.execute("select current_user, 1").fetchone() == (given["user"], 1), running.said()


def connected(running: Started, parameters: str) -> psycopg.Connection[tuple[object, ...]]:
    """A connection once it listens; what it says otherwise is told."""

    def listens() -> bool:
        assert running.process.poll() is None, running.said()
        return "process up:" in running.said()

    until(listens, within_s=START_S, what=f"{running.ini.name} serves: {running.said()}")
    try:
        return psycopg.connect(parameters, autocommit=True)
    except psycopg.OperationalError as error:
        raise AssertionError(f"{error}\n{running.said()}") from None


def test_a_file_without_a_database_waits_for_its_first(server: Postgres) -> None:
    """PgBouncer's packages start with such a file; the database comes with a reload."""
    port = free_port()
    text = f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = trust\nauth_file = userlist.txt\n"
    with drop_in.folder() as folder:
        text += f"unix_socket_dir = {folder}\n[databases]\n"
        real_inis.written(folder / "userlist.txt", '"app" ""\n')
        real_inis.written(folder / "pgbouncer.ini", text)
        running = launched(folder / "pgbouncer.ini", port, is_refused=False)
        try:
            parameters = make_conninfo(host="127.0.0.1", port=port, user="app", dbname="app", connect_timeout=5)
            with pytest.raises(AssertionError, match="no such database: app"):
                connected(running, parameters)
            real_inis.written(folder / "pgbouncer.ini", f"{text}app = host=127.0.0.1 port={server.port}\n")
            running.process.send_signal(signal.SIGHUP)
            until(lambda: "databases.app: added" in running.said(), within_s=START_S, what="it is there")
            with connected(running, parameters) as connection:
                assert connection.execute("select 1").fetchone() == (1,)
        finally:
            running.process.kill()
            running.process.wait()
