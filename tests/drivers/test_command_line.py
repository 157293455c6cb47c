"""psql and pgbench."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.harness.pooler import Forebay
from tests.harness.postgres import Postgres
from tests.harness.target import Target


def run(server: Postgres, program: str, *arguments: str, stdin: str | None = None) -> str:
    """What a program of the server's release prints. Raises AssertionError if it fails."""
    done = subprocess.run(
        [server.programs.path(program), *arguments], capture_output=True, text=True, timeout=100, input=stdin,
        env=server.programs.environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


SCRIPT = r"""
\set ON_ERROR_STOP on
select 1 as one \gdesc
select $1 || $2 as joined \bind 'a' 'b' \g
begin;
create temp table here (a int) on commit drop;
\copy here from program 'seq 100'
select sum(a) from here;
\copy (select a from here order by a limit 3) to stdout
rollback;
select id, name from people order by id limit 2 \watch i=0.01 c=2
\d people
select 1 \; select 2 \; select 3;
\encoding LATIN1
show client_encoding;
"""


def test_psql_prints_the_same(shared: Forebay, direct: Target, server: Postgres) -> None:
    """Its backslash commands use the extended protocol, COPY and several statements in one query."""

    def printed(target: Target) -> str:
        text = run(server, "psql", "-X", "-q", target.dsn(), "-f", "-", stdin=SCRIPT)
        return re.sub(r"\w{3} \w{3} +\d+ [\d:]+ \d{4} \(every.*", "(time)", text)

    assert printed(shared.target) == printed(direct)


def test_psql_stops_a_copy_that_fails(shared: Forebay, direct: Target, server: Postgres) -> None:
    """The error is that of the server, and the session goes on."""
    script = "\\copy scratch from program 'echo not a number'\nselect 'after';\n"
    pooled, plain = (run(server, "psql", "-XA", t.dsn(), "-f", "-", stdin=script) for t in (shared.target, direct))
    assert pooled == plain
    assert "after" in pooled


@pytest.fixture(scope="session")
def accounts(server: Postgres) -> Target:
    """A database with pgbench's tables."""
    target = server.target.at(dbname="app")
    run(server, "pgbench", "-i", "-q", "-s", "2", "--unlogged-tables", target.dsn())
    return target


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
@pytest.mark.parametrize("script", ["tpcb-like", "select-only"])
def test_pgbench_runs_without_an_error(
    script: str, mode: str, shared: Forebay, accounts: Target, server: Postgres, tmp_path: Path
) -> None:
    """40 clients over 4 servers, a thread each since PQprepare blocks its thread.

    The sum of the balances proves that no transaction was torn.
    """
    target = shared.target.at(dbname="wide")
    text = run(
        server, "pgbench", "-n", "-b", script, "-M", mode, "-c", "40", "-j", "40", "-t", "25", target.dsn(),
    )  # fmt: skip
    assert "number of failed transactions: 0" in text
    assert "number of transactions actually processed: 1000/1000" in text
    with accounts.wire() as wire:
        assert wire.value("select sum(abalance) from pgbench_accounts") == wire.value(
            "select sum(bbalance) from pgbench_branches"
        )


def test_pgbench_with_a_connection_for_each_transaction(shared: Forebay, accounts: Target, server: Postgres) -> None:
    """Connecting is what poolers are for."""
    target = shared.target.at(dbname="wide")
    text = run(server, "pgbench", "-n", "-S", "-C", "-c", "8", "-t", "25", target.dsn())
    assert "number of failed transactions: 0" in text


def test_pgbench_in_pipelines(shared: Forebay, accounts: Target, server: Postgres, tmp_path: Path) -> None:
    """\\startpipeline, with transactions inside."""
    script = tmp_path / "pipeline.sql"
    script.write_text(
        "\\startpipeline\n"
        + "".join(f"select abalance + {i} from pgbench_accounts where aid = {i + 1};\n" for i in range(10))
        + "begin;\nupdate pgbench_accounts set filler = 'x' where aid = 1;\ncommit;\n\\endpipeline\n"
    )
    for mode in ("extended", "prepared"):
        text = run(
            server, "pgbench", "-n", "-f", str(script), "-M", mode, "-c", "8", "-t", "20",
            shared.target.at(dbname="wide").dsn(),
        )  # fmt: skip
        assert "number of failed transactions: 0" in text
