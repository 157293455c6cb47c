"""A COMMIT whose answer was lost: with commit_check its client is told what became of it, and never anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import Start
from tests.harness import postgres
from tests.harness.certificates import Authority
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.standby import caught_up, standby_of
from tests.harness.toxi import Toxi
from tests.harness.wire import Frame, Wire, bind, execute, parse, query, sync

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

# As it ends in a message, and in no text of forebay's own.
COMMIT = b"commit\0"

SHAPES = {"simple": [query("commit")], "extended": [parse("", "commit"), bind(), execute(), sync()]}


@pytest.fixture
def toxi() -> Iterator[Toxi]:
    """Stands between forebay and a server; a test says which."""
    with Toxi(0) as proxy:
        yield proxy


@pytest.fixture
def serve(variant: Variant, start: Start, toxi: Toxi) -> Callable[..., Forebay]:
    """Starts a forebay that looks for COMMITs on a server behind the proxy."""

    def started(server: Postgres, **settings: object) -> Forebay:
        toxi.leads_to(server.port)
        checked = {"commit_check": True, "pool_size": 2, "server_backoff_max": "200ms", **settings}
        forebay = start(configuration(toxi.port, variant, databases={"app": checked}))
        with forebay.target.wire() as client:
            knows_inserts(forebay, client)
            # Others count what is there.
            assert errors(client.ask(query("delete from scratch where a = 0"))) == []
        return forebay

    return started


def errors(frames: list[Frame]) -> list[str]:
    """SQLSTATEs."""
    return [frame.fields["C"] for frame in frames if frame.tag == "E"]


def tags(frames: list[Frame]) -> str:
    """The types of messages, in order, but for what says how settings are."""
    return "".join(frame.tag for frame in frames if frame.tag != "S")


def inserts(client: Wire, key: int) -> None:
    """Opens a block that has written."""
    assert errors(client.ask(query("begin"))) == []
    assert errors(client.ask(query(f"insert into scratch values ({key}, 'maybe')"))) == []


def knows_inserts(forebay: Forebay, client: Wire, *, within_s: float = 30) -> None:
    """Waits until it is known what an insert does: until the catalogue is read, it may do anything to its session."""

    def is_known() -> bool:
        before = forebay.total("forebay_probes_total")
        inserts(client, 0)
        assert errors(client.ask(query("commit"))) == []
        return forebay.total("forebay_probes_total") == before

    until(is_known, within_s=within_s, what="what an insert does is known")


def outcomes(forebay: Forebay) -> list[str]:
    """What was found out of COMMITs."""
    return [event["outcome"] for event in forebay.events("commit_outcome")]


def is_there(server: Postgres, key: int) -> bool:
    """Whether what was inserted is in the database."""
    with server.target.at(dbname="app").wire() as plain:
        return plain.value(f"select count(*) from scratch where a = {key}") == "1"


def commits(client: Wire, toxi: Toxi, server: Postgres, key: int, shape: str = "simple") -> None:
    """Sends a COMMIT that is carried out, and cuts its answer off."""
    toxi.holds_replies_after = COMMIT
    client.send(*SHAPES[shape])
    until(lambda: is_there(server, key), within_s=30, what="it is committed")
    assert toxi.holds_replies.is_set(), "its answer was held back"
    toxi.holds_replies_after = None


@pytest.mark.parametrize("shape", SHAPES)
def test_a_commit_that_was_carried_out_is_answered(
    shape: str, serve: Callable[..., Forebay], server: Postgres, toxi: Toxi
) -> None:
    """Its client would run the transaction twice, or have to ask somebody."""
    forebay = serve(server)
    with forebay.target.wire() as client:
        inserts(client, 1)
        commits(client, toxi, server, 1, shape)
        toxi.cut()
        toxi.holds_replies.clear()
        frames = client.ready()
        assert errors(frames) == []
        assert tags(frames) == {"simple": "CZ", "extended": "12CZ"}[shape]
        assert client.status == "I"
        assert client.value("select count(*) from scratch where a = 1") == "1"
        client.ask(query("delete from scratch where a = 1"))
    until(lambda: outcomes(forebay) == ["committed"], within_s=10, what="the log tells it")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_commit_that_never_arrived_is_to_be_run_again(
    shape: str, serve: Callable[..., Forebay], server: Postgres, toxi: Toxi
) -> None:
    """40001 has a driver run the transaction again: nothing of it may be there."""
    forebay = serve(server)
    with forebay.target.wire() as client:
        inserts(client, 2)
        toxi.cuts_before = COMMIT
        client.send(*SHAPES[shape])
        frames = client.ready()
        toxi.cuts_before = None
        assert errors(frames) == ["40001"]
        assert client.status == "I"
        assert not is_there(server, 2)
        assert client.value("select 'served'") == "served"
    until(lambda: outcomes(forebay) == ["aborted"], within_s=10, what="the log tells it")


def busies(server: Postgres) -> None:
    """Others take ids of transactions that the server may give out again after a crash."""
    with server.target.at(dbname="app").wire() as other:
        for _ in range(20):
            assert errors(other.ask(query("insert into scratch values (33, 'of others')"))) == []


@pytest.mark.parametrize("arrives", [True, False], ids=["carried out", "never arrived"])
def test_a_commit_is_found_again_after_crashes(
    arrives: bool, serve: Callable[..., Forebay], mortal: Postgres, toxi: Toxi
) -> None:
    """kill -9, twice; meanwhile others commit, under ids that a server may give out again."""
    forebay = serve(mortal, query_wait_timeout="2min", server_connect_timeout="2min")
    with forebay.target.wire() as client:
        inserts(client, 3)
        toxi.refuses.set()
        if arrives:
            commits(client, toxi, mortal, 3)
            mortal.kill()
            toxi.cut()
            toxi.holds_replies.clear()
        else:
            toxi.cuts_before = COMMIT
            client.send(query("commit"))
            until(lambda: forebay.events("commit_in_doubt"), within_s=30, what="its server is lost")
            mortal.kill()
        mortal.start()
        busies(mortal)
        mortal.kill()
        mortal.start()
        busies(mortal)
        toxi.cuts_before = None
        toxi.refuses.clear()
        assert errors(client.ready()) == ([] if arrives else ["40001"])
        assert is_there(mortal, 3) == arrives
        assert client.value("select 'served'") == "served"
        client.ask(query("delete from scratch where a in (3, 33)"))


@pytest.mark.parametrize("is_replicated", [True, False], ids=["replicated", "not replicated"])
def test_a_promoted_standby_tells_what_it_has(
    is_replicated: bool, serve: Callable[..., Forebay], authority: Authority, toxi: Toxi
) -> None:
    """What a standby has not replayed before it was promoted has not been, whoever has taken its id there since."""
    with ExitStack() as stack:
        primary = stack.enter_context(postgres.running(18, authority, synchronous_commit="on"))
        standby = stack.enter_context(standby_of(primary))
        forebay = serve(primary, query_wait_timeout="2min", server_connect_timeout="2min")
        with primary.target.at(dbname="app").wire() as other:
            other.ask(query("insert into scratch values (44, 'before')"))
        caught_up(primary, standby)
        with forebay.target.wire() as client:
            if not is_replicated:
                with standby.target.at(user="postgres", dbname="app").wire() as admin:
                    admin.ask(query("alter system set primary_conninfo = ''"), query("select pg_reload_conf()"))
                    admin.ready()
                    gone = "select count(*) from pg_stat_wal_receiver"
                    until(lambda: admin.value(gone) == "0", within_s=30, what="it does not stream any more")
            inserts(client, 4)
            toxi.refuses.set()
            commits(client, toxi, primary, 4)
            if is_replicated:
                caught_up(primary, standby)
            primary.kill()
            toxi.cut()
            toxi.holds_replies.clear()
            with standby.target.at(user="postgres", dbname="app").wire() as admin:
                assert admin.value("select pg_promote()") == "t"
            busies(standby)
            toxi.leads_to(standby.port)
            toxi.refuses.clear()
            assert errors(client.ready()) == ([] if is_replicated else ["40001"])
            assert is_there(standby, 4) == is_replicated
            assert client.value("select 'served'") == "served"


def test_a_commit_that_is_not_replicated_is_not_acknowledged(
    serve: Callable[..., Forebay], authority: Authority
) -> None:
    """With synchronous replicas a COMMIT waits for them; a crash ends the wait, and leaves it on one machine."""
    with postgres.running(18, authority, synchronous_commit="on") as alone:
        forebay = serve(alone, query_wait_timeout="12s")
        with alone.target.at(user="postgres").wire() as admin:
            absent = query("alter system set synchronous_standby_names = 'absent'")
            assert errors(admin.ask(absent, query("select pg_reload_conf()"))) == []
            admin.ready()
            shown = "show synchronous_standby_names"
            until(lambda: admin.value(shown) == "absent", within_s=30, what="the setting is in force")
        with forebay.target.wire() as client:
            inserts(client, 5)
            client.send(query("commit"))
            waits = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'"
            with alone.target.at(user="postgres").wire() as admin:
                until(lambda: admin.value(waits) == "1", within_s=30, what="the commit waits")
            alone.kill()
            alone.start()
            assert is_there(alone, 5), "it is committed, but nowhere else"
            assert errors(client.ready()) == ["08007"]
            assert client.status == "I"
        assert forebay.events("commit_in_doubt"), "it was looked for"


def test_a_commit_is_not_sent_where_it_could_not_be_found_again(
    serve: Callable[..., Forebay], mortal: Postgres
) -> None:
    """In a transaction that has failed a COMMIT rolls back, and PostgreSQL calls that a success."""
    forebay = serve(mortal)
    emit = "function pg_logical_emit_message(boolean, text, text, boolean)"
    with forebay.target.wire() as client:
        with mortal.target.at(user="postgres", dbname="app").wire() as admin:
            assert errors(admin.ask(query(f"revoke execute on {emit} from public"))) == []
        for shape in SHAPES.values():
            inserts(client, 6)
            assert errors(client.ask(*shape)) == ["40000"]
            assert client.status == "E"
            assert errors(client.ask(query("rollback"))) == []
        assert not is_there(mortal, 6)
        with mortal.target.at(user="postgres", dbname="app").wire() as admin:
            assert errors(admin.ask(query(f"grant execute on {emit} to public"))) == []


def test_an_older_server_is_asked_nothing(serve: Callable[..., Forebay], server_15: Postgres, toxi: Toxi) -> None:
    """What it does not know would fail each COMMIT."""
    forebay = serve(server_15)
    with forebay.target.wire() as client:
        inserts(client, 7)
        assert errors(client.ask(query("commit"))) == []
        inserts(client, 8)
        toxi.cuts_before = COMMIT
        client.send(query("commit"))
        assert errors(client.ready()) == ["08007"]
        toxi.cuts_before = None
        client.ask(query("delete from scratch where a = 7"))
