"""read_consistency: what a session reads from replicas that are behind."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.clusters.test_roles import clustered, endpoints
from tests.conftest import Start
from tests.harness import postgres
from tests.harness.certificates import Authority
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres, free_port
from tests.harness.standby import caught_up, standby_of
from tests.harness.wire import bind, execute, parse, query, row, sync

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

# How late the standby replays what was committed.
DELAY_S = 0.5
# Longer than it takes until it is known again how far replicas are.
REST_S = 1.2
# The newest write that can be seen, and from where.
LAST = "select current_setting('port'), coalesce(max(a), 0) from behind"


@pytest.fixture(scope="module")
def behind(server: Postgres) -> Iterator[Postgres]:
    """A standby that tests keep behind, and a table that they write to."""
    with server.target.at(dbname="app").connect(autocommit=True) as direct:
        direct.execute("create table behind (a int primary key)")
        with standby_of(server) as standby:
            yield standby
        direct.execute("drop table behind")


@pytest.fixture
def forebay(server: Postgres, behind: Postgres, variant: Variant, start: Start) -> Forebay:
    """A forebay whose database sends reads to that standby."""
    with server.target.at(dbname="app").connect(autocommit=True) as direct:
        direct.execute("truncate behind")
    caught_up(server, behind)
    settings = {"read_write_split": True, "pool_size": 4}
    databases = {"app": clustered(server, behind, **settings, dbname="app"),
                 "loose": clustered(server, behind, **settings, dbname="app", read_consistency="eventual")}  # fmt: skip
    listen = {"port": free_port(), "address": ["127.0.0.1"]}
    started = start(configuration(server, variant, databases=databases, listen=listen))
    for name in databases:
        endpoints(started, name, 2)
    with started.target.connect(autocommit=True) as reader:
        until(lambda: last(reader)[0] == behind.port, within_s=10, what="the catalogue is known")
    return started


def last(client: psycopg.Connection) -> tuple[int, int]:
    """The server that a read was served by, and the newest write that it saw."""
    found = client.execute(LAST).fetchone()
    assert found is not None
    return int(found[0]), int(found[1])


def after_a_rest(client: psycopg.Connection) -> tuple[int, int]:
    """The same, by a session that has read nothing for a while: what it had seen, the replicas have by then."""
    time.sleep(REST_S)
    return last(client)


def replays(standby: Postgres, how: str) -> None:
    """Has a standby stop to replay, or go on."""
    with standby.target.connect(user="postgres", autocommit=True) as asked:
        asked.execute(f"select pg_wal_replay_{how}()".encode())


def test_a_session_sees_what_it_has_written(forebay: Forebay, server: Postgres, behind: Postgres) -> None:
    """The write that an application has just made is what it shows next."""
    app, loose = forebay.target, forebay.target.at(dbname="loose")
    clients = [app.connect(autocommit=True) for _ in range(2)] + [loose.connect(autocommit=True) for _ in range(2)]
    writer, other, eventual, strict = clients
    strict.execute("set forebay.read_consistency to 'session'")
    replays(behind, "pause")
    try:
        for number, client in enumerate((writer, eventual, strict), 1):
            client.execute("insert into behind values (%s)", [number])
        assert last(writer) == (server.port, 3)
        assert last(strict) == (server.port, 3)
        assert last(other) == (behind.port, 0), "who has written nothing is served by the replica"
        assert last(eventual) == (behind.port, 0)
        writer.execute("set forebay.read_consistency to 'eventual'")
        assert last(writer) == (behind.port, 0)
        loose_again = loose.connect(autocommit=True)
        loose_again.execute("set forebay.read_consistency to 'primary'")
        assert [last(loose_again)[0] for _ in range(3)] == [server.port] * 3
        loose_again.close()
        writer.execute("set forebay.read_consistency to 'session'")
        with app.wire() as wire:
            # Nobody has looked at what comes behind a read: it writes, and what is read next must see that.
            where = query(LAST)
            wire.send(
                query("insert into behind values (7)"), where, where, query("insert into behind values (8)"), where
            )
            assert [row(frame) for frame in wire.ready(5) if frame.tag == "D"] == [
                [str(server.port), seen] for seen in ("7", "7", "8")
            ]
            read = (parse("", LAST), bind(), execute(), sync())
            wire.send(*read, query("begin read only"), where, query("commit"))
            assert [row(frame)[1] for frame in wire.ready(4) if frame.tag == "D"] == ["8", "8"]
    finally:
        replays(behind, "resume")
    for client in (writer, strict):
        until(lambda client=client: after_a_rest(client) == (behind.port, 8), within_s=30, what="the replica has it")
    for client in clients:
        client.close()


def test_an_online_restart_keeps_what_a_session_has_written(
    forebay: Forebay, server: Postgres, behind: Postgres
) -> None:
    """The new process has seen no write of it."""
    with forebay.target.wire() as writer:
        replays(behind, "pause")
        try:
            writer.ask(query("insert into behind values (1)"))
            forebay.upgrade()
            where = lambda wire: [row(frame) for frame in wire.ask(query(LAST)) if frame.tag == "D"]  # noqa: E731

            def others() -> list[list[str | None]]:
                # Until the new process has read the catalogue, what a session does may be anything.
                with forebay.target.wire() as other:
                    return where(other)

            until(lambda: others() == [[str(behind.port), "0"]], within_s=10, what="the replica serves again")
            assert where(writer) == [[str(server.port), "1"]]
        finally:
            replays(behind, "resume")
        until(lambda: where(writer) == [[str(behind.port), "1"]], within_s=30, what="the replica has it")


@pytest.fixture
def uneven(server: Postgres, standby: Postgres, behind: Postgres, variant: Variant, start: Start) -> Iterator[Forebay]:
    """A forebay before two replicas, of which one stands still; sessions of `loose` may go back."""
    with server.target.at(dbname="app").connect(autocommit=True) as direct:
        direct.execute("truncate behind")
    for replica in (standby, behind):
        caught_up(server, replica)
    settings = {"read_write_split": True, "pool_size": 8, "dbname": "app", "load_balance": "round_robin"}
    nodes = server, standby, behind
    databases = {
        "app": clustered(*nodes, **settings, read_consistency="session"),
        "loose": clustered(*nodes, **settings),
    }
    listen = {"port": free_port(), "address": ["127.0.0.1"]}
    forebay = start(configuration(server, variant, databases=databases, listen=listen))
    replays(behind, "pause")
    try:
        for name in databases:
            endpoints(forebay, name, 3)
        with forebay.target.at(dbname="loose").connect(autocommit=True) as reader:
            # What is done before the catalogue is known may be a write.
            reader.execute("set forebay.read_consistency to 'eventual'")
            served = lambda: {last(reader)[0] for _ in range(4)} == {standby.port, behind.port}  # noqa: E731
            until(served, within_s=30, what="the replicas serve")
        yield forebay
    finally:
        replays(behind, "resume")


def test_a_replica_that_stands_still_keeps_no_reads_from_the_others(
    uneven: Forebay, standby: Postgres, behind: Postgres
) -> None:
    """Those who write would be served by the primary for as long as it does."""
    with uneven.target.at(dbname="loose").connect(autocommit=True) as writer:
        for number in (1, 2):
            writer.execute("insert into behind values (%s)", [number])
            until(lambda: last(writer)[0] == standby.port, within_s=30, what="the other replica serves")
            assert {last(writer) for _ in range(10)} == {(standby.port, number)}, "it has all that was written"


def test_a_session_never_sees_what_is_older_than_it_has_seen(
    uneven: Forebay, server: Postgres, standby: Postgres, behind: Postgres
) -> None:
    """A list that has an entry, then has not, then has it again."""
    with contextlib.ExitStack() as stack:
        goes_on(stack, uneven, server, standby, behind)


def goes_on(
    stack: contextlib.ExitStack, uneven: Forebay, server: Postgres, standby: Postgres, behind: Postgres
) -> None:
    """Its clients live as long as `stack`."""
    with server.target.at(dbname="app").connect(autocommit=True) as direct:
        direct.execute("insert into behind values (1)")
    caught_up(server, standby)
    with uneven.target.at(dbname="loose").connect(autocommit=True) as loose:
        goes_back = lambda: {last(loose)[1] for _ in range(8)} == {0, 1}  # noqa: E731
        until(goes_back, within_s=30, what="who may go back does")
    before: dict[psycopg.Connection, tuple[int, int]] = {}

    def at_both() -> bool:
        for client in [stack.enter_context(uneven.target.connect(autocommit=True)) for _ in range(6)]:
            before[client] = last(client)
            if before[client][0] == server.port:
                del before[client]
                client.close()
        return {port for port, _ in before.values()} == {standby.port, behind.port}

    until(at_both, within_s=30, what="sessions read at either")

    def go_on(*served: int) -> None:
        for client, (_, number) in before.items():
            found = [last(client) for _ in range(8)]
            numbers = [number, *(seen for _, seen in found)]
            assert numbers == sorted(numbers), f"{numbers} by {[port for port, _ in found]}"
            assert {port for port, _ in found} <= set(served)
            before[client] = found[-1]

    # The primary serves who finds no server that fits where it was.
    go_on(server.port, standby.port, behind.port)
    # Those of one replica are lost: it might have been killed, and have begun again before what it has shown.
    at = lambda: {  # noqa: E731
        int(row["remote_pid"] or 0) for row in uneven.console("show servers") if row["port"] == str(standby.port)
    }
    lost = at()
    with standby.target.connect(user="postgres", autocommit=True) as admin:
        admin.execute("select pg_terminate_backend(pid) from unnest(%s::int[]) as of(pid)", [list(lost)])
    until(lambda: not lost & at(), within_s=30, what="they are gone")
    go_on(server.port, standby.port, behind.port)
    at_standby = [client for client, (_, number) in before.items() if number == 1]
    assert at_standby
    for client in at_standby:
        until(lambda client=client: after_a_rest(client) == (standby.port, 1), within_s=30, what="it is known again")
    uneven.upgrade()
    go_on(server.port, standby.port, behind.port)


def test_a_replica_of_another_branch_serves_nobody(authority: Authority, variant: Variant, start: Start) -> None:
    """It is further on than the one that was promoted, and lacks all that was written since."""
    with contextlib.ExitStack() as stack:
        lost = stack.enter_context(postgres.running(18, authority))
        heir, stray = (stack.enter_context(standby_of(lost)) for _ in range(2))
        with heir.target.connect(user="postgres", autocommit=True) as asked:
            asked.execute("alter system set primary_conninfo to ''")
            asked.execute("select pg_reload_conf()")
            gone = lambda: asked.execute("select count(*) from pg_stat_wal_receiver").fetchone() == (0,)  # noqa: E731
            until(gone, within_s=30, what="it receives nothing more")
            with lost.target.at(dbname="app").connect(autocommit=True) as direct:
                direct.execute("insert into scratch select i, 'lost' from generate_series(1, 20000) i")
            caught_up(lost, stray)
            lost.stop(signal.SIGINT)
            asked.execute("select pg_promote()")
        split = clustered(heir, stray, read_write_split=True, poll_interval="100ms")
        forebay = start(configuration(heir, variant, databases={"app": split}))
        roles = lambda: {row["role"] for row in endpoints(forebay, "app", 2).values()}  # noqa: E731
        # By its position alone: it follows nobody.
        until(lambda: roles() == {"primary", "astray"}, within_s=30, what="it is known to be on another branch")
        sql = "select current_setting('port')::int, count(*) from people where note = 'new'"
        with forebay.target.connect(autocommit=True) as reader, forebay.target.connect(autocommit=True) as writer:
            reader.execute("set forebay.read_consistency to 'eventual'")
            writer.execute("update people set note = 'new' where id = 1")
            ends_at = time.monotonic() + 2
            while time.monotonic() < ends_at:
                for client in (reader, writer):
                    assert client.execute(sql).fetchone() == (heir.port, 1)


def test_reads_behind_a_write_wait_no_longer_than_the_replica(
    forebay: Forebay, server: Postgres, behind: Postgres
) -> None:
    """Too soon is a stale read, and never is a replica without work."""
    with behind.target.connect(user="postgres", autocommit=True) as asked:
        asked.execute(f"alter system set recovery_min_apply_delay to '{DELAY_S:g}s'".encode())
        asked.execute("select pg_reload_conf()")
        try:
            with forebay.target.connect(autocommit=True) as client:
                seen, took = [], []
                for number in range(1, 4):
                    client.execute("insert into behind values (%s)", [number])
                    began = time.monotonic()
                    while (found := last(client))[0] != behind.port:
                        seen.append(found)
                        assert time.monotonic() < began + 10, "the replica is never asked again"
                    took.append(time.monotonic() - began)
                    assert found[1] == number, "the replica did not have it yet"
                    assert last(client) == (behind.port, number)
                print(f"reads at the primary {len(seen)}, until a replica serves: {[f'{s:.3f}' for s in took]} s")
                assert min(took) > DELAY_S / 2
        finally:
            asked.execute("alter system reset recovery_min_apply_delay")
            asked.execute("select pg_reload_conf()")
