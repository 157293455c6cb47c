"""Servers that go away: who notices, what they are told, and how soon all is well again. Rows of the fault matrix."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.ledger import Clients
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.toxi import Toxi
from tests.harness.wire import Frame, Wire, bind, copy_data, copy_done, execute, parse, query, startup, sync

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

# How a lost server is told: 57P01 when nothing can have been committed, 08007 when something may have been.
LOST = ("57P01", "08007")


def errors(frames: list[Frame]) -> list[str]:
    """SQLSTATEs."""
    return [frame.fields["C"] for frame in frames if frame.tag == "E"]


def terminate(server: Postgres, pid: str | None) -> None:
    """Kills one back end, as an administrator does, and waits until it is gone."""
    with server.target.at(user="postgres").wire() as admin:
        admin.rows(f"select pg_terminate_backend({pid})")
        gone = f"select count(*) from pg_stat_activity where pid = {pid}"
        until(lambda: admin.value(gone) == "0", within_s=5, what="the back end ends")


def is_busy(forebay: Forebay) -> bool:
    """Whether a server works for a client."""
    return any(one["state"] == "active" for one in forebay.console("show servers"))


def pids(forebay: Forebay) -> list[str | None]:
    """Back ends of the servers that forebay has."""
    return [one["remote_pid"] for one in forebay.console("show servers")]


def test_an_idle_server_that_is_killed_costs_nobody_anything(shared: Forebay, server: Postgres) -> None:
    """Row 1."""
    with shared.target.wire() as client:
        for _ in range(10):
            pid = client.value("select pg_backend_pid()")
            terminate(server, pid)
            until(lambda: pid not in pids(shared), within_s=5, what="forebay saw the end")  # noqa: B023
            assert client.value("select 'served'") == "served"


def test_a_server_killed_in_a_query_costs_its_client_one_error(shared: Forebay, server: Postgres) -> None:
    """Row 2: the session lives on."""
    with shared.target.wire() as client:
        for messages in (
            [query("select pg_sleep(20)")],
            [parse("", "select pg_sleep(20)"), bind(), execute(), sync()],
        ):
            pid = client.value("select pg_backend_pid()")
            client.send(*messages)
            terminate(server, pid)
            assert errors(client.ready())[-1] == "57P01"
            assert client.status == "I"
            assert client.value("select 'alive'") == "alive"


def test_a_server_killed_in_a_pipeline_is_answered_for_each_sync(shared: Forebay, server: Postgres) -> None:
    """A driver that counts must not wait for ever."""
    with shared.target.wire() as client:
        pid = client.value("select pg_backend_pid()")
        client.send(parse("", "select pg_sleep(20)"), bind(), execute(), sync())
        for _ in range(4):
            client.send(parse("", "select 1"), bind(), execute(), sync())
        terminate(server, pid)
        assert errors(client.ready(5))[0] in LOST
        assert client.value("select 'alive'") == "alive"


def test_a_server_killed_in_a_transaction_ends_it(shared: Forebay, server: Postgres) -> None:
    """Row 3: error, status I afterwards, nothing of the transaction is left."""
    with shared.target.wire() as client:
        client.ask(query("begin"))
        client.ask(query("insert into scratch values (303, 'lost')"))
        pid = client.value("select pg_backend_pid()")
        terminate(server, pid)
        assert errors(client.ask(query("select 1")))[-1:] == ["57P01"]
        assert client.status == "I"
        assert client.value("select count(*) from scratch where a = 303") == "0"


def test_a_commit_that_was_cut_off_is_told_as_unknown(start: Start, server: Postgres, variant: Variant) -> None:
    """Row 4: 08007, never "not committed"."""
    with Toxi(server.port) as toxi:
        forebay = start(configuration(toxi.port, variant))
        for commit in ([query("commit")], [parse("", "commit"), bind(), execute(), sync()]):
            with forebay.target.wire() as client:
                client.ask(query("begin"))
                client.ask(query("insert into scratch values (404, 'maybe')"))
                toxi.holds_replies.set()
                toxi.cuts_after = b"commit"
                client.send(*commit)
                frames = client.ready()
                toxi.cuts_after = None
                toxi.holds_replies.clear()
                assert errors(frames) == ["08007"]
                assert client.status == "I"
                assert client.value("select 1") == "1"
    with server.target.at(dbname="app").wire() as plain:
        plain.ask(query("delete from scratch where a = 404"))


def test_a_server_killed_in_a_copy_in_leaves_no_rows(shared: Forebay, server: Postgres) -> None:
    """Row 5: the error comes once, then ReadyForQuery."""
    with shared.target.wire() as client:
        pid = client.value("select pg_backend_pid()")
        client.send(query("copy scratch from stdin"), copy_data(b"505\tlost\n" * 1000))
        client.read_until("G")
        terminate(server, pid)
        client.send(copy_data(b"505\tlost\n" * 1000), copy_done())
        assert errors(client.ready())[-1] in LOST
        assert client.status == "I"
        assert client.value("select count(*) from scratch where a = 505") == "0"


def test_a_server_killed_in_a_copy_out_ends_the_stream_with_an_error(shared: Forebay, server: Postgres) -> None:
    """Row 5: the client must not take half the rows for all of them."""
    with shared.target.wire() as client:
        pid = client.value("select pg_backend_pid()")
        client.send(query("copy (select i, pg_sleep(0.001) from generate_series(1, 100000) i) to stdout"))
        client.read_until("H")
        terminate(server, pid)
        frames = client.ready()
        assert errors(frames)[-1] in LOST
        assert not [frame for frame in frames if frame.tag in "cC"]
        assert client.value("select 1") == "1"


def test_a_reset_of_the_network_is_told_once(start: Start, server: Postgres, variant: Variant) -> None:
    """Row 10: as a killed server; idle clients notice nothing."""
    with Toxi(server.port) as toxi:
        forebay = start(configuration(toxi.port, variant))
        with forebay.target.wire() as busy, forebay.target.wire() as idle:
            assert idle.value("select 1") == "1"
            for _ in range(3):
                busy.ask(query("begin"))
                busy.send(query("select pg_sleep(20)"))
                until(lambda: is_busy(forebay), within_s=5, what="the query runs")
                toxi.cut()
                assert errors(busy.ready()) == ["57P01"]
                assert busy.status == "I"
                # All connections were cut; a request that came before that is known would be lost with its server.
                until(lambda: not forebay.console("show servers"), within_s=5, what="the loss of the others is known")
                assert idle.value("select 2") == "2"


@pytest.mark.parametrize("how", ["SIGINT", "SIGQUIT", "SIGKILL"])
def test_a_restart_under_load_tells_each_client_the_truth(
    how: str, start: Start, mortal: Postgres, variant: Variant
) -> None:
    """Rows 6 and 7, and kill -9: every client gets a clean error or waits, service resumes by itself, and the ledger
    holds: what was acknowledged is there, what failed is not, no answer went to another client."""
    databases = {"app": {"pool_size": 8, "server_backoff_max": "200ms"}}
    forebay = start(configuration(mortal, variant, databases=databases))
    with Clients(forebay.target, 24) as clients:
        until(lambda: clients.ledger.served > 200, within_s=20, what="load runs")
        if how == "SIGKILL":
            mortal.kill()
        else:
            mortal.stop(signal.Signals[how])
        mortal.start()
        before, began = clients.ledger.served, time.monotonic()
        until(lambda: clients.ledger.served > before + 200, within_s=15, what="service resumes")
        assert time.monotonic() - began < 10
    clients.check(mortal.target.at(dbname="app"))
    assert set(clients.ledger.codes) <= {*LOST, "57P03", "57P02", "53300", "25P02"}, clients.ledger.codes
    assert len(clients.ledger.unknown) <= 24


def test_idle_clients_survive_a_restart(start: Start, mortal: Postgres, variant: Variant) -> None:
    """Row 6: they were not asked, so they are not told."""
    forebay = start(configuration(mortal, variant, server_defaults={"server_backoff_max": "200ms"}))
    wires = [forebay.target.wire() for _ in range(10)]
    try:
        for wire in wires:
            wire.ask(parse("kept", "select 'kept'"), sync())
        mortal.stop(signal.SIGQUIT)
        waiting = wires[0]
        waiting.send(query("select 'waited'"))
        mortal.start()
        assert errors(waiting.ready()) == []
        for wire in wires:
            assert errors(wire.ask(bind(statement="kept"), execute(), sync())) == []
    finally:
        for wire in wires:
            wire.close()


def test_a_server_that_is_full_is_not_stormed(start: Start, mortal: Postgres, variant: Variant) -> None:
    """Row 16: 53300 from the server means wait and try again slowly, not try again at once."""
    with mortal.target.at(user="postgres").wire() as admin:
        most = int(admin.value("show max_connections") or "")
        reserved = int(admin.value("show superuser_reserved_connections") or "")
    hogs: list[Wire] = []
    try:
        while len(hogs) < most - reserved:
            try:
                hogs.append(mortal.target.wire())
            except AssertionError:
                break
        log = mortal.folder / "log"
        before = log.read_text().count("too many clients") + log.read_text().count("remaining connection slots")
        forebay = start(configuration(mortal, variant, server_defaults={"query_wait_timeout": "3s"}))
        with forebay.target.dial() as late:
            late.send(startup(user="app", database="app"))
            began = time.monotonic()
            frames: list[Frame] = []
            reader = threading.Thread(target=lambda: frames.extend(late.read_until("Z")), daemon=True)
            reader.start()
            until(lambda: time.monotonic() - began > 1.5, within_s=5, what="tries add up")
            after = log.read_text().count("too many clients") + log.read_text().count("remaining connection slots")
            assert after - before <= 2 * 1.5 + 8
            hogs.pop().close()
            reader.join(10)
            assert frames
            assert frames[-1].tag == "Z"
    finally:
        for hog in hogs:
            hog.close()
