"""Who is let in, and how forebay itself logs in to servers."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from forebay._engine import scram_verifier

from tests.conftest import Start
from tests.harness.certificates import Pair
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import PASSWORD, Postgres, free_port
from tests.harness.target import Target
from tests.harness.wire import Wire, message, query, row, startup, text

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

METHODS = ("trust", "password", "md5", "scram-sha-256")
SERVER_USERS = ("app", "password_user", "md5_user", "scram_user")

# A server that asks for the plain password gets it over TLS only.
ENCRYPTED = {"tls.mode": "require"}

# Looks users up as an administrator would: in the server's own table.
QUERY = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1 AND rolcanlogin"


def known(user: str, target: Target, **options: Any) -> str | None:
    """Who the server says the session is."""
    with target.at(user=user, password=PASSWORD.format(user)).connect(**options) as connection:
        answer = connection.execute("select session_user").fetchone()
    return str(answer[0]) if answer else None


def refusal(target: Target) -> tuple[str, str]:
    """SQLSTATE-bearing words of a refused login: severity, and text without the user's name."""
    with pytest.raises(psycopg.OperationalError) as raised:
        target.connect().close()
    words = str(raised.value).partition("FATAL:")[2]
    assert words, raised.value
    return "FATAL", words.replace(target.user, "?").strip()


def lets_in(target: Target) -> bool:
    """Whether a login succeeds."""
    try:
        target.connect().close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture
def by_method(start: Start, server: Postgres, variant: Variant, method: str) -> Forebay:
    """A forebay that asks its clients for a proof of one kind."""
    return start(configuration(server, variant, auth={"type": method}, server_defaults=ENCRYPTED))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_towards_clients_and_servers(by_method: Forebay) -> None:
    """The plain secret serves each pair of them; the second login needs what the first one kept."""
    for _, user in itertools.product(range(2), SERVER_USERS):
        assert known(user, by_method.target) == user


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_wrong_password_and_an_unknown_user_are_told_alike(by_method: Forebay) -> None:
    """Whoever can tell the two apart can list the users."""
    told = {
        refusal(by_method.target.at(user=user, password=password))
        for user, password in (("scram_user", "wrong"), ("scram_user", ""), ("nobody_at_all", "wrong"))
        if password
    }
    assert len(told) == 1
    assert "FB601" in next(iter(told))[1] or "password" in next(iter(told))[1]
    assert known("scram_user", by_method.target) == "scram_user"


# Slow: it compares times, and on a busy machine they say nothing.
@pytest.mark.slow
@pytest.mark.parametrize("method", ["scram-sha-256"])
def test_an_unknown_user_is_refused_as_slowly_as_a_known_one(by_method: Forebay) -> None:
    """The time must not tell either."""

    def median(user: str) -> float:
        times = []
        for _ in range(15):
            began = time.perf_counter()
            refusal(by_method.target.at(user=user, password="wrong"))
            times.append(time.perf_counter() - began)
        return sorted(times)[7]

    assert median("nobody_at_all") == pytest.approx(median("scram_user"), rel=1.0)


@pytest.mark.parametrize("method", ["trust"])
def test_trust_lets_in_known_users_only(by_method: Forebay) -> None:
    """Trust is no proof, but no open door for any name either."""
    assert known("app", by_method.target) == "app"
    assert refusal(by_method.target.at(user="nobody_at_all"))[0] == "FATAL"


@pytest.mark.parametrize("method", ["scram-sha-256"])
def test_messages_out_of_turn_end_a_login(by_method: Forebay) -> None:
    """Nothing but an answer to the question is taken before the proof."""
    for early in (b"Q\0\0\0\x0dselect 1\0", b"p\0\0\0\x04", b"p\xff\xff\xff\xff", b"X\0\0\0\x04", b"S\0\0\0\x04"):
        with by_method.target.dial() as wire:
            wire.send(startup(user="scram_user", database="app"))
            wire.read()
            wire.send(early)
            assert [frame.tag for frame in wire.rest()] in ([], ["E"])


def test_a_verifier_serves_clients_and_passes_through_to_the_server(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """No plain password anywhere: the client's proof gives the key with which forebay logs in."""
    with server.target.at(user="postgres").wire() as admin:
        verifier = admin.value("select rolpassword from pg_authid where rolname = 'scram_user'")
    section = {"secret": {"verifier": verifier}}
    forebay = start(configuration(server, variant, auth={"type": "scram-sha-256"}, **{"users.scram_user": section}))
    for _ in range(3):
        assert known("scram_user", forebay.target) == "scram_user"


def test_a_verifier_of_another_password_lets_nobody_in(start: Start, server: Postgres, variant: Variant) -> None:
    """The verifier decides, not the server's own."""
    section = {"secret": {"verifier": scram_verifier("another", salt=b"salt" * 4)}}
    forebay = start(configuration(server, variant, auth={"type": "scram-sha-256"}, **{"users.scram_user": section}))
    assert refusal(forebay.target.at(user="scram_user", password=PASSWORD.format("scram_user")))[0] == "FATAL"


def test_an_md5_hash_serves_clients_and_servers(start: Start, server: Postgres, variant: Variant) -> None:
    """As old userlist.txt files have them."""
    with server.target.at(user="postgres").wire() as admin:
        stored = admin.value("select rolpassword from pg_authid where rolname = 'md5_user'")
    forebay = start(configuration(server, variant, auth={"type": "md5"}, **{"users.md5_user": {"secret": stored}}))
    assert known("md5_user", forebay.target) == "md5_user"


def test_md5_turns_to_scram_for_a_scram_secret(start: Start, server: Postgres, variant: Variant) -> None:
    """A verifier can't be checked with MD5."""
    with server.target.at(user="postgres").wire() as admin:
        verifier = admin.value("select rolpassword from pg_authid where rolname = 'scram_user'")
    section = {"secret": {"verifier": verifier}}
    forebay = start(configuration(server, variant, auth={"type": "md5"}, **{"users.scram_user": section}))
    assert known("scram_user", forebay.target) == "scram_user"


@pytest.mark.parametrize("channel_binding", ["disable", "prefer", "require"])
def test_scram_is_bound_to_the_channel(
    channel_binding: str, start: Start, server: Postgres, variant: Variant, tls: tuple[Pair, Any]
) -> None:
    """SCRAM-SHA-256-PLUS: a man in the middle with another certificate is found out."""
    listen = {"tls.certificate": tls[0].certificate, "tls.key": tls[0].key}
    forebay = start(configuration(server, variant, auth={"type": "scram-sha-256"}, listen=listen))
    options = {"sslmode": "require", "channel_binding": channel_binding}
    assert known("scram_user", forebay.target, **options) == "scram_user"


def test_channel_binding_can_not_be_required_without_tls(start: Start, server: Postgres, variant: Variant) -> None:
    """libpq refuses by itself: forebay does not offer -PLUS on plain connections."""
    forebay = start(configuration(server, variant, auth={"type": "scram-sha-256"}))
    with pytest.raises(psycopg.OperationalError, match="channel binding"):
        known("scram_user", forebay.target, channel_binding="require")


def looked_up(server: Postgres, variant: Variant, **auth: Any) -> dict[str, Any]:
    """A configuration that knows only who may look others up."""
    absent: dict[str, Any] = {f"users.{user}": {"_absent": True} for user in (*SERVER_USERS, "other", "gone")}
    lookup = {"users.lookup": {"secret": {"env": "SECRET_lookup"}}}
    return configuration(server, variant, auth={"type": "scram-sha-256", **auth}, **absent, **lookup)


def test_auth_query_finds_users(start: Start, server: Postgres, variant: Variant) -> None:
    """Users are kept in one place: the server."""
    sections = looked_up(server, variant, query=QUERY, user="lookup")
    forebay = start(sections)
    for _ in range(2):
        assert known("scram_user", forebay.target) == "scram_user"
    assert refusal(forebay.target.at(user="scram_user", password="wrong")) == refusal(
        forebay.target.at(user="nobody_at_all", password="wrong")
    )


@pytest.mark.variants("epoll-1")
def test_auth_query_asks_the_first_endpoint_that_answers(start: Start, server: Postgres, variant: Variant) -> None:
    """Else nobody could log in to a cluster whose first endpoint is down."""
    sections = looked_up(server, variant, query=QUERY, user="lookup")
    sections['databases."app"'] |= {"endpoints": [f"127.0.0.1:{free_port()}", f"127.0.0.1:{server.port}"]}
    assert known("scram_user", start(sections).target) == "scram_user"


@pytest.mark.variants("uring-2", "epoll-1")
def test_limits_of_each_user_hold_for_those_that_are_found(start: Start, server: Postgres, variant: Variant) -> None:
    """They are in no [users.NAME]: one of them could take all servers, and all places."""
    sections = looked_up(server, variant, query=QUERY, user="lookup") | {"auth": {
        "type": "password", "query": QUERY, "user": "lookup",
    }}  # fmt: skip
    sections["limits"] = {"max_user_connections": 1, "max_user_client_connections": 2}
    forebay = start(sections)
    target = forebay.target.at(user="scram_user", password=PASSWORD.format("scram_user"))
    with target.wire() as one, target.wire() as two:
        one.ask(query("begin"))
        # Its reader has no name yet while it logs in.
        until(lambda: forebay.catalogue_loads() > 0, within_s=10, what="the catalogue is read")
        two.send(query("select 'later'"))
        with server.target.at(user="postgres").wire() as watcher:
            mine = "usename = 'scram_user' and application_name <> 'forebay catalogue'"
            assert watcher.value(f"select count(*) from pg_stat_activity where {mine}") == "1"
        with pytest.raises(AssertionError, match="max_user_client_connections"):
            target.wire()
        one.ask(query("commit"))
        assert [row(frame) for frame in two.ready() if frame.tag == "D"] == [["later"]]


@contextlib.contextmanager
def rotating(server: Postgres) -> Iterator[Wire]:
    """A superuser, while there is a role of that name whose password is 'first'."""
    with server.target.at(user="postgres").wire() as admin:
        admin.rows("create role rotating login password 'first'")
        try:
            yield admin
        finally:
            admin.rows("drop role rotating")


def test_a_changed_password_is_asked_for_when_the_old_one_is_not_what_is_proved(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """Nobody can log in for as long as what was looked up is kept: a minute, by default."""
    with rotating(server) as admin:
        target = start(looked_up(server, variant, query=QUERY, user="lookup", cache_for="1h")).target
        target = target.at(user="rotating")
        assert lets_in(target.at(password="first"))
        admin.rows("alter role rotating password 'second'")
        # Each worker keeps what it was told.
        until(lambda: lets_in(target.at(password="second")), within_s=30, what="the new one is asked for")


def test_a_changed_password_is_taken_over_after_the_cache_time(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """Row 18: no restart for a rotated password."""
    with rotating(server) as admin:
        caching = {"cache_for": "100ms", "cache_negative_for": "0s"}
        sections = looked_up(server, variant, query=QUERY, user="lookup", **caching)
        target = start(sections).target.at(user="rotating")
        assert lets_in(target.at(password="first"))
        admin.rows("alter role rotating password 'second'")
        until(lambda: lets_in(target.at(password="second")), within_s=5, what="the new password works")
        until(lambda: not lets_in(target.at(password="first")), within_s=5, what="the old one does not")


SOURCE = """
import forebay, time

@forebay.secret_source
def find(request):
    if request.user == "hangs":
        time.sleep(3600)
    if request.user == "fails":
        raise RuntimeError("the vault is sealed")
    return {"scram_user": "secret of scram_user"}.get(request.user)
"""


def test_a_secret_source_finds_users_and_may_hang(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path
) -> None:
    """Row 38: a hanging vault costs its own logins their deadline, nobody else anything."""
    source = tmp_path / "vault.py"
    source.write_text(SOURCE)
    forebay = start(looked_up(server, variant, secret_source=str(source), ask_timeout="2s"))
    assert known("scram_user", forebay.target) == "scram_user"
    with forebay.target.at(user="hangs").dial() as hanging:
        began = time.monotonic()
        hanging.send(startup(user="hangs", database="app"))
        assert known("scram_user", forebay.target) == "scram_user"
        assert time.monotonic() - began < 2
        assert [frame.fields["C"] for frame in hanging.rest() if frame.tag == "E"] == ["28000"]
        assert time.monotonic() - began >= 2
    refusal(forebay.target.at(user="fails", password="x"))
    refusal(forebay.target.at(user="unknown", password="x"))


@pytest.mark.parametrize("kind", ["file", "command"])
def test_secrets_from_a_file_and_a_command(
    kind: str, start: Start, server: Postgres, variant: Variant, tmp_path: Path
) -> None:
    """The configuration itself holds none."""
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_text(PASSWORD.format("scram_user") + "\n")
    secret: dict[str, Any] = {"file": str(path)} if kind == "file" else {"command": ["cat", str(path)]}
    forebay = start(
        configuration(server, variant, auth={"type": "scram-sha-256"}, **{"users.scram_user": {"secret": secret}})
    )
    assert known("scram_user", forebay.target) == "scram_user"


def test_a_forced_user_hides_who_the_client_is(start: Start, server: Postgres, variant: Variant) -> None:
    """Clients prove who they are to forebay; the server sees the forced user."""
    databases = {"app": {"user": "scram_user", "secret": {"env": "SECRET_scram_user"}}}
    forebay = start(configuration(server, variant, auth={"type": "scram-sha-256"}, databases=databases))
    assert known("other", forebay.target) == "scram_user"


def test_a_server_that_refuses_forebay_is_named_to_the_client(start: Start, server: Postgres, variant: Variant) -> None:
    """The operator must see whose password is wrong: forebay's, not the client's."""
    databases = {"app": {"user": "scram_user", "secret": {"env": "WRONG"}, "query_wait_timeout": "2s"}}
    sections = configuration(server, variant, databases=databases)
    forebay = start(sections, environment={"WRONG": "not the password"})
    with forebay.target.dial() as wire:
        wire.send(startup(user="other", database="app"))
        errors = [frame.fields for frame in wire.rest() if frame.tag == "E"]
    assert errors
    assert "not the password" not in forebay.log_path.read_text()
    assert errors[0]["C"] in ("08004", "53300", "57P03")


def test_a_plain_password_goes_to_no_server_without_encryption(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """Whoever answers at the server's address could ask for it."""
    told = refusal(start(configuration(server, variant)).target.at(user="password_user"))
    assert "without encryption" in told[1]


def test_no_secret_is_in_the_log(start: Start, server: Postgres, variant: Variant) -> None:
    """At any level."""
    sections = configuration(
        server, variant, auth={"type": "scram-sha-256"}, log={"level": "debug"}, server_defaults=ENCRYPTED
    )
    forebay = start(sections)
    for user in SERVER_USERS:
        known(user, forebay.target)
        refusal(forebay.target.at(user=user, password="a wrong guess"))
    text = forebay.log_path.read_text()
    assert not [user for user in SERVER_USERS if PASSWORD.format(user) in text]
    assert "a wrong guess" not in text
    assert "SCRAM-SHA-256$" not in text


def test_a_database_has_a_lookup_of_its_own(start: Start, server: Postgres, variant: Variant) -> None:
    """Its users are looked up where it says; a user whose limits alone are known is one of them."""
    sections = looked_up(server, variant)
    own = {"auth_user": "lookup", "auth_query": QUERY, "auth_dbname": "accounts"}
    plain = sections['databases."app"']
    sections |= {'databases."app"': {**plain, **own}, "databases.wide": plain}
    sections["databases.accounts"] = {"endpoints": [f"127.0.0.1:{server.port}"], "dbname": "elsewhere"}
    sections["users.md5_user"] = {"pool_mode": "session"}
    forebay = start({**sections, "auth": {"type": "md5"}})
    assert known("scram_user", forebay.target) == "scram_user"
    assert known("md5_user", forebay.target) == "md5_user"
    for user in ("scram_user", "nobody_at_all"):
        wide = forebay.target.at(user=user, dbname="wide", password=PASSWORD.format(user))
        assert "password authentication failed" in refusal(wide)[1]
    operator = forebay.target.at(user="ops", dbname="forebay", password=PASSWORD.format("ops"))
    with operator.connect(autocommit=True) as console:
        console.execute("disable accounts")
    told = refusal(forebay.target.at(user="other", password=PASSWORD.format("other")))
    assert 'authentication database "accounts" is disabled' in told[1]


def test_iterations_of_derived_verifiers_are_a_setting(start: Start, server: Postgres, variant: Variant) -> None:
    """Known and unknown users are shown the same number, so that it tells nobody who exists."""
    forebay = start(configuration(server, variant, auth={"type": "scram-sha-256", "scram_iterations": 777}))
    first = b"n,,n=,r=rOprNGfwEbeRWgbNEkqO"
    for user in ("app", "nobody_at_all"):
        with forebay.target.dial() as wire:
            wire.send(startup(user=user, database="app"))
            wire.read()
            wire.send(message("p", text("SCRAM-SHA-256"), len(first).to_bytes(4), first))
            assert wire.read().body.endswith(b",i=777")
    assert known("app", forebay.target) == "app"


@pytest.mark.parametrize("method", ["password", "scram-sha-256"])
def test_a_password_may_be_as_long_as_a_token(method: str, start: Start, server: Postgres, variant: Variant) -> None:
    """Tokens in place of passwords run to many kilobytes."""
    token = "t" * 65_530
    section = {"users.app": {"secret": {"env": "TOKEN"}}}
    sections = configuration(server, variant, auth={"type": method}, **section)
    forebay = start(sections, environment={"TOKEN": token})
    assert lets_in(forebay.target.at(password=token))
    assert not lets_in(forebay.target.at(password=token[:-1]))
