"""What load balancers and orchestrators are told: /readyz, /primary, /replica, and the notice before a drain."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import urllib.error
import urllib.request

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres, free_port
from tests.harness.wire import query, startup

pytestmark = pytest.mark.variants("uring-2", "epoll-1")


def status(forebay: Forebay, path: str) -> int:
    """Of an answer."""
    try:
        with urllib.request.urlopen(f"http://{forebay.started['metrics']}{path}", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_database_without_a_server_is_not_ready_and_the_others_are(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """A check for one database must not be passed by another one, nor by a typo in it."""
    databases = {"app": {}, "a b": {"endpoints": [f"127.0.0.1:{free_port()}"], "query_wait_timeout": "1s"}}
    forebay = start(configuration(server, variant, databases=databases))
    assert status(forebay, "/readyz?database=a+b") == 200, "nobody has asked for a server yet"
    with forebay.target.wire() as well, forebay.target.dial() as sick:
        assert well.value("select 1") == "1"
        assert sick.first(startup(user="app", database="a b"))[-1].tag == "E"
        until(lambda: status(forebay, "/readyz?database=a%20b") == 503, within_s=30, what="it is known to be away")
        assert status(forebay, "/readyz?database=a%20b&unready=404") == 404
        assert status(forebay, "/readyz?database=a%20b&exclude=servers") == 200
        assert status(forebay, "/primary?database=a%20b") == 503
        assert [status(forebay, path) for path in ("/readyz", "/readyz?database=app", "/primary?database=app")] == [
            200, 200, 200,
        ]  # fmt: skip
    for wrong in ("/readyz?database=ap", "/readyz?databse=app", "/primary", "/replica"):
        assert status(forebay, wrong) == 400, wrong


def test_a_disabled_database_is_not_ready(start: Start, server: Postgres, variant: Variant) -> None:
    """Its clients are refused."""
    forebay = start(configuration(server, variant))
    forebay.console("disable app")
    assert status(forebay, "/readyz?database=app&exclude=servers") == 503
    assert status(forebay, "/readyz") == 200
    forebay.console("enable app")
    assert status(forebay, "/readyz?database=app") == 200


def test_a_paused_forebay_is_ready(start: Start, server: Postgres, variant: Variant) -> None:
    """Its clients wait, which is what they are to do; elsewhere they would be served by what is to rest."""
    forebay = start(configuration(server, variant))
    forebay.console("pause")
    assert status(forebay, "/readyz?database=app") == 200
    forebay.console("resume")


def test_drain_changes_what_is_said_and_nothing_else(start: Start, server: Postgres, variant: Variant) -> None:
    """Load balancers take a while to look: whoever they send until then is served."""
    forebay = start(configuration(server, variant))
    with forebay.target.wire() as there:
        forebay.console("drain")
        assert {row["key"]: row["value"] for row in forebay.console("show state")}["draining"] == "yes"
        assert [status(forebay, path) for path in ("/readyz", "/primary?database=app", "/livez")] == [503, 503, 200]
        with forebay.target.wire() as new:
            assert (there.value("select 1"), new.value("select 1")) == ("1", "1")
        forebay.console("drain off")
        assert status(forebay, "/readyz") == 200


def test_a_drain_goes_on_in_the_process_that_takes_over(start: Start, server: Postgres, variant: Variant) -> None:
    """Else an upgrade of a host that is to be emptied fills it again."""
    listen = {"port": free_port(), "address": ["127.0.0.1"]}
    forebay = start(configuration(server, variant, listen=listen))
    forebay.console("drain")
    is_over = threading.Event()
    said: set[int] = set()

    def look() -> None:
        while not is_over.is_set():
            with contextlib.suppress(OSError):
                said.add(status(forebay, "/readyz"))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    with forebay.target.wire() as there:
        for _ in range(2):
            forebay.upgrade()
            until(lambda: status(forebay, "/readyz") == 503, within_s=30, what="the new process says so")
            assert {row["key"]: row["value"] for row in forebay.console("show state")}["draining"] == "yes"
        is_over.set()
        looking.join(30)
        assert said == {503}, "it has never been ready meanwhile"
        assert there.value("select 1") == "1"
        assert [one.get("because") for one in forebay.events("draining")] == [
            None, "the process before this one did", "the process before this one did",
        ]  # fmt: skip
        forebay.console("drain off")
        assert status(forebay, "/readyz") == 200
        forebay.upgrade()
        until(lambda: status(forebay, "/readyz") == 200, within_s=30, what="the new process is ready")
        assert {row["key"]: row["value"] for row in forebay.console("show state")}["draining"] == "no"


def test_nobody_takes_over_from_one_that_gives_notice(start: Start, server: Postgres, variant: Variant) -> None:
    """The new process would serve on where somebody has said to stop."""
    listen = {"port": free_port(), "address": ["127.0.0.1"]}
    forebay = start(configuration(server, variant, listen=listen, limits={"drain_notice": "1h"}))
    forebay.send_signal(signal.SIGTERM)
    until(lambda: forebay.events("draining"), within_s=30, what="it gives notice")
    with pytest.raises(AssertionError, match="a restart, a stop or a switchover is under way"):
        forebay.upgrade()
    forebay.send_signal(signal.SIGINT)
    assert forebay.process is not None
    assert forebay.process.wait(timeout=30) == 0
    forebay.process = None


def test_term_gives_notice_before_it_refuses_anybody(start: Start, server: Postgres, variant: Variant) -> None:
    """Else each deploy costs the clients that come between the stop and the next look of the load balancer."""
    forebay = start(configuration(server, variant, limits={"drain_notice": "5s", "drain_timeout": "30s"}))
    with forebay.target.wire() as there:
        there.ask(query("begin"))
        began = time.monotonic()
        forebay.send_signal(signal.SIGTERM)
        until(lambda: status(forebay, "/readyz") == 503, within_s=10, what="it says so")
        for _ in range(3):
            with forebay.target.wire() as new:
                assert new.value("select 1") == "1"
        until(lambda: forebay.events("stopping"), within_s=30, what="it begins to stop")
        assert time.monotonic() - began >= 5
        assert there.value("select 2") == "2"
        there.ask(query("commit"))
    assert forebay.process is not None
    assert forebay.process.wait(timeout=30) == 0
    forebay.process = None


def test_a_notice_can_be_cut_short(start: Start, server: Postgres, variant: Variant) -> None:
    """Ctrl-C after a stop that somebody has no time for."""
    forebay = start(configuration(server, variant, limits={"drain_notice": "1h"}))
    forebay.send_signal(signal.SIGTERM)
    until(lambda: forebay.events("draining"), within_s=10, what="it gives notice")
    forebay.send_signal(signal.SIGINT)
    assert forebay.process is not None
    assert forebay.process.wait(timeout=30) == 0
    forebay.process = None
