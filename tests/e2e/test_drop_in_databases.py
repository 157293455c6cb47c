"""Lines of [databases] and of [users]: what each key of a pgbouncer.ini does, and who of the three decides."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import drop_in
from tests.harness.deadline import until
from tests.harness.drop_in import DropIn, Make
from tests.harness.postgres import PASSWORD, Postgres
from tests.harness.target import Target
from tests.harness.wire import Wire, query, startup

# What a worker knows to greet clients with, another may have to ask a server for.
ONE_WORKER = {"FOREBAY_ENGINE_WORKERS": "1"}


@pytest.fixture
def make(server: Postgres) -> Iterator[Make]:
    with drop_in.maker(server) as make:
        yield make


def shown(running: DropIn, table: str, name: str) -> dict[str, str | None]:
    """A row of a SHOW about databases or users."""
    (row,) = [row for row in running.console(f"show {table}") if row["name"] == name]
    return row


def fault(wire: Wire, sql: str) -> str:
    """The error that a query ends with."""
    (error,) = [frame.fields["M"] for frame in wire.ask(query(sql)) if frame.tag == "E"]
    return error


def refused(target: Target) -> str:
    """Why a login is refused."""
    frames = target.first(startup(user=target.user, database=target.dbname))
    return [frame.fields["M"] for frame in frames if frame.tag == "E"][-1]


def held(target: Target) -> Wire:
    """A client in a transaction: it has a server."""
    wire = target.wire()
    wire.ask(query("begin; select 1"))
    return wire


def pid(wire: Wire) -> str | None:
    """Of its server."""
    return wire.value("select pg_backend_pid()")


def test_where_a_databases_servers_are_and_who_they_are_logged_in_as(make: Make, server: Postgres) -> None:
    """host, port, dbname, user, password, load_balance_hosts, and what each server is told at its start."""
    unix, port = server.socket.parent, server.port
    databases = {
        "renamed": f"host=127.0.0.1 port={port} dbname=postgres",
        "itself": f"host=127.0.0.1 port={port}",
        "local": f"host={unix} port={port} dbname=app",
        "spread": f"host=127.0.0.1,{unix} port={port} dbname=app pool_size=2",
        "steady": f"host=127.0.0.1,{unix} port={port} dbname=app pool_size=2 load_balance_hosts=disable",
        "forced": f"user=scram_user password='{PASSWORD.format('scram_user')}' min_pool_size=2",
        "told": "client_encoding=LATIN1 datestyle='German, DMY' timezone=Asia/Tokyo application_name=fixed"
        " connect_query='select set_config(''app.marked'', current_database(), false)'",
    }
    running = make(databases)
    running.start(environment=ONE_WORKER)
    at = running.target.at

    def ready() -> list[str | None]:
        return [row["sv_idle"] for row in running.console("show pools") if row["database"] == "forced"]

    until(lambda: ready() == ["2"], within_s=10, what="min_pool_size servers of a forced user, before any client")
    for name, asked, told in (
        ("renamed", "select current_database()", "postgres"),
        ("local", "select inet_server_addr() is null", "t"),
        ("forced", "select current_user", "scram_user"),
        ("told", "show client_encoding", "LATIN1"),
        ("told", "show datestyle", "German, DMY"),
        ("told", "show timezone", "Asia/Tokyo"),
        ("told", "show application_name", "fixed"),
        ("told", "select current_setting('app.marked')", "app"),
    ):
        with at(dbname=name).wire() as wire:
            assert wire.value(asked) == told, (name, asked)
    assert 'database "itself" does not exist' in refused(at(dbname="itself")), "dbname is the name, if it is not given"
    for name, places in (("spread", 2), ("steady", 1)):
        with held(at(dbname=name)) as one, held(at(dbname=name)) as two:
            ways = {wire.value("select inet_server_addr() is null") for wire in (one, two)}
            assert len(ways) == places, name
        assert shown(running, "databases", name)["load_balance_hosts"] == ("round-robin" if places == 2 else "disable")
    assert shown(running, "databases", "forced")["force_user"] == "scram_user"


def test_how_many_and_how_long_is_each_databases_own(make: Make) -> None:
    """pool_size, reserve_pool_size, pool_mode, query_wait_timeout, server_lifetime, and limits over users."""
    databases = {
        "one": "pool_size=1 query_wait_timeout=0.3",
        "reserve": "pool_size=1 reserve_pool=1",
        "spare": "pool_size=1 reserve_pool_size=1",
        "session": "pool_mode=session pool_size=1 query_wait_timeout=0.3",
        "young": "server_lifetime=1 pool_size=1",
        "servers": "max_db_connections=1 query_wait_timeout=0.3",
        "clients": "max_db_client_connections=1",
    }
    running = make(databases, reserve_pool_timeout="0.2", default_pool_size="5", query_wait_timeout="20")
    running.start(environment=ONE_WORKER)
    at = running.target.at
    with held(at(dbname="one")), at(dbname="one").wire() as second:
        assert fault(second, "select 1") == "query_wait_timeout"
    for name in ("reserve", "spare"):
        with held(at(dbname=name)), held(at(dbname=name)) as second:
            assert pid(second), name
    with at(dbname="session").wire() as first, at(dbname="session").wire() as second:
        first.ask(query("create temp table mine ()"))
        assert fault(second, "select 1") == "query_wait_timeout", "its server is its own until it leaves"
        assert first.value("select count(*) from mine") == "0"
    with at(dbname="young").wire() as wire:
        before = pid(wire)
        until(lambda: pid(wire) != before, within_s=10, what="a server past its lifetime is another one")
    with held(at(dbname="servers")):
        assert refused(at(dbname="servers", user="other")) == "query_wait_timeout"
    with at(dbname="clients").wire():
        assert refused(at(dbname="clients", user="other")) == (
            "client connections exceeded (max_db_client_connections)"
        )
    sizes = {name: shown(running, "databases", name) for name in databases}
    assert [sizes[name]["pool_size"] for name in ("one", "session", "clients")] == ["1", "1", "5"]
    assert (sizes["reserve"]["reserve_pool_size"], sizes["session"]["pool_mode"]) == ("1", "session")
    assert (sizes["young"]["server_lifetime"], sizes["servers"]["max_connections"]) == ("1", "1")
    assert sizes["clients"]["max_client_connections"] == "1"


def test_a_databases_users_can_be_looked_up_in_a_way_of_its_own(make: Make, server: Postgres) -> None:
    """auth_user, auth_query, auth_dbname: of one database, while all others know the user list alone."""
    # Asked anywhere but in auth_dbname, it knows nobody.
    looked = (
        "select usename, passwd from pg_catalog.pg_shadow where usename = $1 and usename <> ''tls_user''"
        " and current_database() = ''elsewhere''"
    )
    databases = {
        "accounts": f"host=127.0.0.1 port={server.port} dbname=elsewhere",
        "looked": f"auth_user=lookup auth_query='{looked}' auth_dbname=accounts",
    }
    running = make(databases, auth_type="scram-sha-256")
    with (running.folder / "userlist.txt").open("a") as file:
        file.write(f'"lookup" "{PASSWORD.format("lookup")}"\n')
    running.start(environment=ONE_WORKER)

    def login(user: str, dbname: str) -> Target:
        return running.target.at(user=user, dbname=dbname, password=PASSWORD.format(user))

    with login("gone", "looked").connect() as client:
        assert client.execute("select current_user").fetchone() == ("gone",)
    for user, dbname in (("gone", "app"), ("tls_user", "looked")):
        with pytest.raises(Exception, match="authentication failed"):
            login(user, dbname).connect()


def test_users_of_all_databases_can_be_looked_up(make: Make, server: Postgres) -> None:
    """auth_user, auth_query, auth_dbname of [pgbouncer]: who asks, what, and in which database."""
    query = "select usename, passwd from pg_shadow where usename = $1 and current_database() = 'elsewhere'"
    lookups = {"auth_user": "lookup", "auth_query": query, "auth_dbname": "accounts"}
    databases = {"accounts": f"host=127.0.0.1 port={server.port} dbname=elsewhere"}
    for left_out in (None, "auth_dbname", "auth_user"):
        running = make(databases, auth_type="scram-sha-256")
        running.write(**{name: value for name, value in lookups.items() if name != left_out})
        with (running.folder / "userlist.txt").open("a") as file:
            file.write(f'"lookup" "{PASSWORD.format("lookup")}"\n')
        if left_out == "auth_user":
            assert running.run().returncode == 1, "nobody is named who asks"
            continue
        running.start(environment=ONE_WORKER)
        gone = running.target.at(user="gone", password=PASSWORD.format("gone"))
        if left_out is None:
            with gone.connect() as client:
                assert client.execute("select current_user").fetchone() == ("gone",)
        else:
            with pytest.raises(Exception, match="authentication failed"):
                gone.connect()
        running.close()


# What the server asks for first: AuthenticationOk, a password in the clear, its MD5, SASL.
ASKED = {"trust": 0, "plain": 3, "md5": 5, "scram-sha-256": 10}


@pytest.mark.parametrize("written", [*ASKED, "any"])
def test_clients_prove_who_they_are_as_auth_type_says(written: str, make: Make) -> None:
    """And who is not in auth_file is let in by `any` alone, as the database's user."""
    running = make({"forced": f"user=app password='{PASSWORD.format('app')}'"}, auth_type=written)
    running.start(environment=ONE_WORKER)
    known = running.target.at(dbname="forced" if written == "any" else "app")
    with known.dial() as wire:
        wire.send(startup(user="app", database=known.dbname))
        asked = wire.read()
        assert (asked.tag, asked.body[3]) == ("R", ASKED.get(written, 0))
    if written in ("any", "trust"):
        frames = running.target.first(startup(user="stranger", database="forced"))
        assert ("E" in [frame.tag for frame in frames]) == (written == "trust")
    if written not in ("any", "trust"):
        with running.target.at(password=PASSWORD.format("app")).connect() as client:
            assert client.execute("select 1").fetchone() == (1,)
        with pytest.raises(Exception, match="authentication failed"):
            running.target.at(password="wrong").connect()


LIMITS = {
    "query_timeout": ("app", ["select pg_sleep(20)"], "query timeout"),
    "idle_transaction_timeout": ("other", ["begin"], "idle transaction timeout"),
    "transaction_timeout": ("scram_user", ["begin"], "transaction timeout"),
    "client_idle_timeout": ("md5_user", [], "client_idle_timeout"),
}


def test_a_users_limits_beat_the_databases_and_the_global_ones(make: Make, server: Postgres) -> None:
    """One user each has a limit of 0.3 s; for all others it is a minute."""
    users = {user: f"{name}=0.3" for name, (user, _, _) in LIMITS.items()}
    running = make(users=users, default_pool_size="5", **dict.fromkeys(LIMITS, "60"))
    running.start(environment=ONE_WORKER)
    for name, (user, asks, words) in LIMITS.items():
        with running.target.at(user=user).wire() as wire:
            frames = [frame for sql in asks for frame in wire.ask(query(sql))]
            frames += wire.rest() if name != "query_timeout" else []
            assert [frame.fields["M"] for frame in frames if frame.tag == "E"] == [words]
    with running.target.at(user="app").wire() as wire:
        wire.ask(query("begin"))
        assert wire.value("select pg_sleep(0.2) is null") == "f"
        assert fault(wire, "select pg_sleep(20)") == "query timeout", "its own limit is the only one that is short"


def test_a_users_places_are_its_own(make: Make) -> None:
    """How many servers and clients a user has, over all databases or in each."""
    users = {
        "app": "pool_mode=session pool_size=1 query_wait_timeout=0.3",
        "other": "pool_size=1 reserve_pool_size=1",
        "scram_user": "max_user_connections=1 query_wait_timeout=0.3",
        "md5_user": "max_user_client_connections=1",
    }
    databases = {"wide": "pool_size=5 query_wait_timeout=20", "second": "pool_size=5"}
    running = make(databases, users, default_pool_size="5", reserve_pool_timeout="0.2", max_user_client_connections="3")
    running.start(environment=ONE_WORKER)
    at = running.target.at
    with at(user="app", dbname="wide").wire() as first, at(user="app", dbname="wide").wire() as second:
        first.ask(query("create temp table mine ()"))
        assert fault(second, "select 1") == "query_wait_timeout"
    other = at(user="other", dbname="wide")
    with other.wire() as third, held(other), held(other) as second:
        assert pid(second), "of the reserve"
        third.send(query("select 1"))
        until(lambda: any(row["cl_waiting"] == "1" for row in running.console("show pools")), within_s=5,
              what="a third waits")  # fmt: skip
    with held(at(user="scram_user", dbname="wide")):
        assert refused(at(user="scram_user", dbname="second")) == "query_wait_timeout", "over all databases"
    with at(user="md5_user").wire():
        assert (
            refused(at(user="md5_user", dbname="wide")) == "client connections exceeded (max_user_client_connections)"
        )
    with other.wire(), other.wire(), other.wire():
        assert refused(other) == "client connections exceeded (max_user_client_connections)", "the global limit"
    app = shown(running, "users", "app")
    assert (app["pool_mode"], (app["pool_size"] or "").strip()) == ("session", "1")
    assert (shown(running, "users", "other")["reserve_pool_size"] or "").strip() == "1"
    assert shown(running, "users", "scram_user")["max_user_connections"] == "1"
