"""read_write_split: what only reads is served by replicas, all else by the primary, whatever protocol it comes by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.clusters.test_roles import clustered, endpoints
from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres, free_port
from tests.harness.standby import caught_up
from tests.harness.wire import Wire, bind, describe, execute, flush, parse, query, row, sync

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

# Reads, and tells which server it ran on.
WHERE = "select current_setting('port')"

# Where a request goes hangs on it alone, and not on what its session has written before.
SPLIT: dict[str, Any] = {"read_write_split": True, "read_consistency": "eventual"}


@pytest.fixture
def forebay(server: Postgres, standby: Postgres, variant: Variant, start: Start) -> Forebay:
    """A forebay whose database sends reads to the standby."""
    caught_up(server, standby)
    split = clustered(server, standby, **SPLIT, pool_size=2, max_db_connections=3)
    started = start(configuration(server, variant, databases={"app": split}))
    endpoints(started, "app", 2)
    return started


@pytest.fixture
def wire(forebay: Forebay) -> Iterator[Wire]:
    with forebay.target.wire() as wire:
        yield wire


def ports(wire: Wire, *messages: bytes, readies: int = 1) -> list[str | None]:
    """Where each row that comes back was made."""
    wire.send(*messages)
    return [row(frame)[0] for frame in wire.ready(readies) if frame.tag == "D"]


def test_each_request_goes_where_it_can_be_done(server: Postgres, standby: Postgres, wire: Wire) -> None:
    """A write that meets a standby fails; a read on the primary is load that it need not have."""
    primary, replica = str(server.port), str(standby.port)
    where = query(WHERE)
    assert ports(wire, where) == [replica]
    assert ports(wire, query(f"{WHERE} from pg_locks for update")) in ([], [primary])
    # What is behind a read is looked at by itself; what is behind a write goes with it, and need not wait.
    insert = query("insert into scratch values (7, 'routed'); " + WHERE)
    assert ports(wire, where, insert, where, readies=3) == [replica, primary, primary]
    assert ports(wire, query("begin")) == []
    assert ports(wire, where) == [primary]
    assert ports(wire, query("commit")) == []
    assert ports(wire, where) == [replica]
    assert ports(wire, query("begin read only"), where, query("commit"), insert, readies=4) == [replica, primary]
    assert ports(wire, query("begin isolation level repeatable read read only"), where, readies=2) == [replica]
    assert ports(wire, where, query("rollback"), where, readies=3) == [replica, replica]
    wire.ask(query("delete from scratch where a = 7"))


def test_a_pipeline_goes_where_all_of_it_can_be_done(server: Postgres, standby: Postgres, wire: Wire) -> None:
    """What a server has begun it ends: the choice is made once, before anything of it is sent."""
    primary, replica = str(server.port), str(standby.port)
    read = (parse("", WHERE), bind(), execute())
    write = (parse("", "insert into scratch values (8, 'routed') returning current_setting('port')"), bind(), execute())
    assert ports(wire, *read, sync()) == [replica]
    assert ports(wire, *read, *write, sync()) == [primary, primary]
    assert ports(wire, *read, sync(), *write, sync(), *read, sync(), readies=3) == [replica, primary, primary]
    # A statement is prepared wherever it is needed.
    assert ports(wire, parse("mine", WHERE), describe("S", "mine"), sync()) == []
    assert ports(wire, bind(statement="mine"), execute(), sync()) == [replica]
    assert ports(wire, query("begin"), bind(statement="mine"), execute(), sync(), readies=2) == [primary]
    wire.ask(query("commit"))
    assert ports(wire, bind(statement="mine"), execute(), sync()) == [replica]
    wire.ask(parse("write", "delete from scratch where a = 8 returning current_setting('port')"), sync())
    assert set(ports(wire, bind(statement="write"), execute(), sync())) == {primary}
    # Nobody knows what comes behind a Flush.
    wire.send(*read, flush())
    assert [row(frame)[0] for frame in wire.read_until("C") if frame.tag == "D"] == [primary]
    wire.ask(sync())


def test_a_session_or_a_text_may_say_where_it_goes(server: Postgres, standby: Postgres, wire: Wire) -> None:
    """The application knows better which read must see what was just written."""
    primary, replica = str(server.port), str(standby.port)
    assert ports(wire, query(f"/* forebay: role=primary */ {WHERE}")) == [primary]
    assert ports(wire, parse("", f"/* forebay: role=primary */ {WHERE}"), bind(), execute(), sync()) == [primary]
    # What asks for the server itself is for the primary, unless it is said otherwise.
    own = "select pg_is_in_recovery()::text"
    assert ports(wire, query(own)) == ["false"]
    assert ports(wire, query(f"/* forebay: role=replica */ {own}")) == ["true"]
    wire.ask(query("set forebay.role = 'primary'"))
    assert ports(wire, query(WHERE)) == [primary]
    assert ports(wire, query(f"/* forebay: role=replica */ {WHERE}")) == [replica]
    wire.ask(query("set forebay.role = 'replica'"))
    assert ports(wire, query(own)) == ["true"]
    refused = [frame.fields for frame in wire.ask(query("insert into scratch values (9, 'x')")) if frame.tag == "E"]
    assert [fields["C"] for fields in refused] == ["25006"], "who asks for a replica gets its answer"
    wire.ask(query("set forebay.role = 'auto'"))
    assert ports(wire, query(WHERE)) == [replica]


def test_a_session_is_the_same_on_both_servers(forebay: Forebay, server: Postgres, standby: Postgres) -> None:
    """Settings, what is kept on a server, and limits over both."""
    replica, on_primary = str(standby.port), str(server.port)
    with forebay.target.connect(autocommit=True) as client:
        where = lambda: client.execute(WHERE).fetchone()  # noqa: E731
        client.execute("set datestyle to german")
        client.execute("set work_mem to '77MB'")
        assert client.execute("select current_setting('work_mem'), current_setting('port')").fetchone() == (
            "77MB",
            replica,
        )
        assert client.execute("select current_setting('datestyle')").fetchone() == ("German, DMY",)
        client.execute("create temp table mine (a int)")
        assert where() == (on_primary,), "what it owns is there"
        client.execute("drop table mine")
        until(lambda: where() == (replica,), within_s=10, what="it is free again")
        client.execute("listen news")
        assert where() == (on_primary,), "a standby hears nothing"
        client.execute("unlisten *")
        client.execute("set default_transaction_isolation to serializable")
        assert where() == (on_primary,), "a standby has no such transactions"
        client.execute("reset default_transaction_isolation")
    with forebay.target.connect(autocommit=True, options="-c default_transaction_isolation=SERIALIZABLE") as client:
        assert client.execute(WHERE).fetchone() == (on_primary,)
    clients = [forebay.target.connect() for _ in range(2)]
    for client in clients:
        client.execute("insert into scratch values (1, 'x')")
    readers = [forebay.target.connect(autocommit=True) for _ in range(4)]
    assert {reader.execute(WHERE).fetchone() for reader in readers} == {(replica,)}
    pools = {row["database"]: row for row in forebay.console("show pools") if row["user"] == "app"}
    assert set(pools) == {"app", "app:replicas"}
    servers = [row for row in forebay.console("show servers") if row["state"] not in ("login", "reading", "listening")]
    assert sum(row["database"] == "app" for row in servers) == 2
    assert len(servers) <= 3, "max_db_connections is over both pools"
    for client in (*clients, *readers):
        client.close()
    for name in ("app:replicas", "other:replicas"):
        with pytest.raises(psycopg.OperationalError, match=f'"{name}"'):
            forebay.target.at(dbname=name).connect()


def test_an_online_restart_keeps_a_transaction_on_its_replica(
    server: Postgres, standby: Postgres, variant: Variant, start: Start
) -> None:
    """Moved into the primary's pool, the server would be given to those who write."""
    primary, replica = str(server.port), str(standby.port)
    split = clustered(server, standby, **SPLIT)
    listen = {"port": free_port(), "address": ["127.0.0.1"]}
    forebay = start(configuration(server, variant, databases={"app": split}, listen=listen))
    endpoints(forebay, "app", 2)
    with forebay.target.wire() as reader, forebay.target.wire() as writer:
        assert ports(reader, query("begin read only"), query(WHERE), readies=2) == [replica]
        assert ports(writer, query("begin"), query(WHERE), readies=2) == [primary]
        forebay.upgrade()
        assert ports(reader, query(WHERE)) == [replica]
        assert ports(writer, query(WHERE)) == [primary]
        reader.ask(query("commit"))
        writer.ask(query("commit"))
        for wire in (reader, writer):
            # Until the new process has found the roles, nobody is served by a replica.
            until(lambda wire=wire: ports(wire, query(WHERE)) == [replica], within_s=10, what="replicas serve again")
            assert ports(wire, query(f"/* forebay: role=primary */ {WHERE}")) == [primary]
        used = {(row["database"], row["port"]) for row in forebay.console("show servers")}
        assert used <= {("app", primary), ("app:replicas", replica)}


def test_what_a_replica_refuses_is_done_by_the_primary(
    server: Postgres, standby: Postgres, variant: Variant, start: Start
) -> None:
    """Functions that have begun to write since the catalogue was read: who calls them must not hear 25006."""
    primary, replica = str(server.port), str(standby.port)
    direct = server.target.at(dbname="app").connect(autocommit=True)

    def define(body: str) -> None:
        for name in "abcdefg":
            head = f"create or replace function quiet_{name}() returns text language plpgsql as $$begin {body}"
            direct.execute(f"{head} return current_setting('port'); end$$".encode())
        caught_up(server, standby)

    define("")
    split = clustered(server, standby, **SPLIT, catalogue_refresh="1h")
    forebay = start(configuration(server, variant, databases={"app": split}, log={"level": "debug"}))
    endpoints(forebay, "app", 2)
    call = {name: f"select quiet_{name}()" for name in "abcdefg"}
    turned = lambda: len(forebay.events("turned_to_primary"))  # noqa: E731
    with forebay.target.wire() as wire:
        until(lambda: ports(wire, query(call["a"])) == [replica], within_s=10, what="the catalogue is known")
        define("insert into scratch values (77, 'quiet');")
        # Which server it is, is reported.
        said = lambda *sent: "".join(frame.tag for frame in wire.ask(*sent) if frame.tag != "S")  # noqa: E731
        assert said(query(call["a"])) == "TDCZ", "the primary's answer, and nothing else"
        read = (parse("", WHERE), bind(), execute())
        # A name that was made along is made once.
        named = (parse("mine", call["b"]), bind(statement="mine"), describe("P"), execute(), sync())
        assert said(*named) == "12TDCZ"
        assert ports(wire, bind(statement="mine"), execute(), sync()) == [primary]
        assert ports(wire, *read, parse("", call["c"]), bind(), execute(), sync()) == [primary, primary]
        between = (parse("", call["d"]), bind(), execute())
        assert ports(wire, *read, sync(), *between, sync(), *read, sync(), readies=3) == [replica, primary, primary]
        until(lambda: turned() >= 4, within_s=5, what="it is told")
        # Whatever it is called with, what the replica was asked is done once.
        assert ports(wire, query(f"{call['a']} -- again")) == [primary]
        assert ports(wire, *between, sync()) == [primary]
        assert direct.execute("select count(*) from scratch where a = 77").fetchone() == (7,)
        errors = lambda *sent: [frame.fields["C"] for frame in wire.ask(*sent) if frame.tag == "E"]  # noqa: E731
        assert errors(query(f"/* forebay: role=replica */ {call['a']}")) == ["25006"], "it was asked for"
        wire.ask(query("begin read only"))
        assert errors(query(call["e"])) == ["25006"], "the transaction is there"
        wire.ask(query("rollback"))
    because = {row["reason"] for row in forebay.console(f"explain route app '{call['c']}'")}
    assert because == {"it writes: a replica has refused it"}
    rows = forebay.console("explain route app 'select * from people'")
    assert [(row["intent"], row["role"], row["endpoint"]) for row in rows] == [
        ("replica", "replica", f"127.0.0.1:{standby.port}")
    ], "the database knows what people is"
    direct.execute("delete from scratch where a = 77")
    for name in "abcdefg":
        direct.execute(f"drop function quiet_{name}()".encode())
    direct.close()
