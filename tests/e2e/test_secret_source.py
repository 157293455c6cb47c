"""`@forebay.secret_source`, end to end: real clients, a real server, functions that work, raise and hang."""

from __future__ import annotations

import contextlib
import shutil
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.target import Target

pytestmark = pytest.mark.variants("epoll-1", "uring-2")

CHECKOUT = Path(__file__).resolve().parents[2]
PASSWORD = "secret of scram_user"


def asking(server: Postgres, variant: Variant, folder: Path, source: str, **auth: Any) -> dict[str, Any]:
    """A configuration that knows nobody but `source`, with the users that must log in by password."""
    path = folder / "vault.py"
    path.write_text(source)
    sections = configuration(
        server, variant, auth={"type": "scram-sha-256", "secret_source": str(path), "ask_timeout": "500ms", **auth}
    )
    return {name: section for name, section in sections.items() if name not in ("users.scram_user", "users.gone")}


def who(target: Target, **login: Any) -> Any:
    """The user as the server sees it."""
    with target.at(user="scram_user", password=PASSWORD, **login).connect() as connection:
        return connection.execute("select current_user").fetchone()


def refused(target: Target) -> None:
    """A login that must fail; closed again if it does not."""
    target.connect().close()


def ops(running: Forebay) -> Target:
    """The console, for who may do everything."""
    return running.target.at(user="ops", dbname="forebay", password="secret of ops")


FOUND = f"""
import forebay

@forebay.secret_source
{{kind}} vault(request: forebay.SecretRequest) -> str | None:
    print("asked", flush=True, file=open(__file__ + ".calls", "a"))
    return {{{{"scram_user": {PASSWORD!r}}}}}.get(request.user)
"""


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_user_whom_only_a_function_knows_logs_in(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path, kind: str
) -> None:
    """And the password serves the server's login as well; the answer is kept."""
    running = start(asking(server, variant, tmp_path, FOUND.format(kind=kind)))
    for _ in range(3):
        assert who(running.target) == ("scram_user",)
    calls = (tmp_path / "vault.py.calls").read_text().splitlines()
    assert 1 <= len(calls) <= variant.workers, "the cache is each worker's own"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        refused(running.target.at(user="scram_user", password="wrong"))


HANGS = """
import asyncio, threading, time
import forebay

@forebay.secret_source
{hang}
"""

HANGING = {
    "plain": "def vault(request):\n    threading.Event().wait()",
    "async": "async def vault(request):\n    await asyncio.Event().wait()",
    "blocking the loop": "async def vault(request):\n    threading.Event().wait()",
}


@pytest.mark.parametrize("hang", HANGING.values(), ids=HANGING.keys())
def test_a_function_that_hangs_holds_up_nobody_but_its_own_client(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path, hang: str
) -> None:
    """A vault that is down: its users can't log in, everybody else works, and the log says why."""
    running = start(asking(server, variant, tmp_path, HANGS.format(hang=hang)))
    with running.target.at(user="app", password="secret of app").connect(autocommit=True) as known:
        for _ in range(2):
            with pytest.raises(psycopg.OperationalError):
                who(running.target)
            assert known.execute("select 1").fetchone() == (1,)
    with ops(running).connect(autocommit=True) as console:
        assert console.execute("SHOW VERSION").fetchone()
    failed = until(lambda: running.events("secret_source_failed"), within_s=10, what="the log tells")
    assert failed[0]["source"] == "vault.py:vault"
    assert failed[0]["because"] == "no answer within 0.5 s"


def test_a_function_that_raises_is_told_without_its_words_and_the_next_one_is_asked(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path
) -> None:
    """Exceptions quote what they choke on, and that may be the secret."""
    source = f"""
import forebay

@forebay.secret_source
def broken(request):
    raise RuntimeError("the password is {PASSWORD}")

@forebay.secret_source
async def works(request):
    return {PASSWORD!r}
"""
    running = start(asking(server, variant, tmp_path, source))
    assert who(running.target) == ("scram_user",)
    assert running.events("secret_source_failed")[0]["because"] == "it raised RuntimeError"
    assert PASSWORD not in running.log_path.read_text()


def test_a_reload_loads_the_functions_again_or_keeps_the_old_ones(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path
) -> None:
    """A syntax error in the new file must lock nobody out."""
    right, wrong = FOUND.format(kind="def"), FOUND.format(kind="def").replace(PASSWORD, "not this one")
    running = start(asking(server, variant, tmp_path, wrong, cache_for="0s", cache_negative_for="0s"))
    with pytest.raises(psycopg.OperationalError):
        who(running.target)
    (tmp_path / "vault.py").write_text(right)
    assert running.reload()["event"] == "reload"
    assert who(running.target) == ("scram_user",)
    (tmp_path / "vault.py").write_text("def broken(:\n")
    refused = running.reload()
    assert refused["event"] == "reload_refused"
    assert "SyntaxError" in str(refused["because"])
    assert who(running.target) == ("scram_user",)


def test_auth_query_answers_for_users_that_nobody_else_knows(start: Start, server: Postgres, variant: Variant) -> None:
    """The server's own verifier is enough: the client's proof serves both logins."""
    sections = configuration(
        server, variant,
        auth={
            "type": "scram-sha-256", "user": "lookup", "dbname": "app",
            "query": "select rolname::text, rolpassword from pg_authid where rolname = $1 and rolcanlogin",
        },
    )  # fmt: skip
    sections["users.lookup"] = {"secret": {"env": "SECRET_lookup"}}
    del sections["users.scram_user"]
    running = start(sections, environment={"SECRET_lookup": "secret of lookup"})
    assert who(running.target) == ("scram_user",)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        refused(running.target.at(user="scram_user", password="wrong"))
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        refused(running.target.at(user="nobody_at_all", password="x"))


def test_the_example_of_the_docs_works(start: Start, server: Postgres, variant: Variant, tmp_path: Path) -> None:
    """Its file is what people copy."""
    folder = shutil.copytree(CHECKOUT / "examples" / "secret_source", tmp_path / "example")
    (folder / "secrets.json").write_text(f'{{"app/scram_user": "{PASSWORD}"}}')
    sections = configuration(server, variant, auth={"type": "scram-sha-256", "secret_source": str(folder / "vault.py")})
    del sections["users.scram_user"]
    running: Forebay = start(sections)
    assert who(running.target) == ("scram_user",)


HOLDS = """
import ctypes
import pathlib
import forebay

@forebay.secret_source
def vault(request):
    pathlib.Path(__file__ + ".began").touch()
    # PyDLL keeps the interpreter lock over the call, as a badly written extension does.
    ctypes.PyDLL(None).sleep(8)
    pathlib.Path(__file__ + ".ended").touch()
"""


def test_a_function_that_holds_the_interpreter_lock_stops_no_traffic(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path
) -> None:
    """The worst that Python can do: logins of known users, transactions and /livez go on."""
    running = start(asking(server, variant, tmp_path, HOLDS))
    app = running.target.at(user="app", password="secret of app")
    began, ended = tmp_path / "vault.py.began", tmp_path / "vault.py.ended"

    def log_in() -> None:
        with contextlib.suppress(psycopg.OperationalError):
            who(running.target)

    with app.connect(autocommit=True) as before:
        waiting = threading.Thread(target=log_in)
        waiting.start()
        until(began.exists, within_s=10, what="the function is called")
        for _ in range(100):
            assert before.execute("select 1").fetchone() == (1,)
        with app.connect() as after:
            assert after.execute("select 2").fetchone() == (2,)
        assert running.metrics("/livez")
        assert not ended.exists(), "all of that happened while the lock was held"
        waiting.join(timeout=30)
    until(ended.exists, within_s=20, what="the lock is let go")
