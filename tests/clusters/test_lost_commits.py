"""A COMMIT that a failover has cut off: with commit_check the new primary tells what became of it, if it can."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import Start
from tests.faults.test_commit_check import busies, commits, errors, inserts, is_there, knows_inserts, outcomes
from tests.harness import postgres
from tests.harness.certificates import Authority
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.standby import caught_up, standby_of
from tests.harness.toxi import Toxi
from tests.harness.wire import Wire, query

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

WITHIN_S = 60.0


class Pair:
    """A primary and its standby, each behind a proxy, and a forebay that finds out which is which."""

    def __init__(self, stack: ExitStack, authority: Authority) -> None:
        self.primary = stack.enter_context(postgres.running(18, authority, synchronous_commit="on"))
        self.standby = stack.enter_context(standby_of(self.primary))
        self.to_primary = stack.enter_context(Toxi(self.primary.port))
        self.to_standby = stack.enter_context(Toxi(self.standby.port))

    @property
    def endpoints(self) -> list[str]:
        """As forebay reaches them."""
        return [f"127.0.0.1:{proxy.port}" for proxy in (self.to_primary, self.to_standby)]

    def roles(self, forebay: Forebay) -> list[str | None]:
        """By forebay's account."""
        found = {row["endpoint"]: row["role"] for row in forebay.console("show endpoints")}
        return [found[name] for name in self.endpoints]

    def stops_streaming(self) -> None:
        """What the primary writes from here on the standby does not get."""
        with self.standby.target.at(user="postgres", dbname="app").wire() as admin:
            admin.ask(query("alter system set primary_conninfo = ''"), query("select pg_reload_conf()"))
            admin.ready()
            gone = "select count(*) from pg_stat_wal_receiver"
            until(lambda: admin.value(gone) == "0", within_s=WITHIN_S, what="it does not stream any more")

    def kills_primary(self) -> None:
        """kill -9, and nobody gets there any more."""
        self.to_primary.refuses.set()
        self.primary.kill()
        self.to_primary.cut()
        self.to_primary.holds_replies.clear()

    def promotes(self) -> None:
        """Others take ids there that the primary had given out."""
        with self.standby.target.at(user="postgres", dbname="app").wire() as admin:
            assert admin.value("select pg_promote()") == "t"
        busies(self.standby)


@pytest.fixture
def pair(authority: Authority) -> Iterator[Pair]:
    """Both may be killed."""
    with ExitStack() as stack:
        yield Pair(stack, authority)


@pytest.fixture
def serve(variant: Variant, start: Start, pair: Pair) -> Callable[..., Forebay]:
    """Starts a forebay before both that looks for COMMITs."""

    def started(**settings: object) -> Forebay:
        checked = {
            "endpoints": pair.endpoints, "topology": "poll", "poll_user": "app", "commit_check": True, "pool_size": 2,
            "server_backoff_max": "200ms", **settings,
        }  # fmt: skip
        forebay = start(configuration(pair.primary, variant, databases={"app": checked}))
        until(
            lambda: pair.roles(forebay) == ["primary", "replica"],
            within_s=WITHIN_S,
            what="the roles are known",
        )
        with forebay.target.wire() as client:
            knows_inserts(forebay, client, within_s=WITHIN_S)
        caught_up(pair.primary, pair.standby)
        return forebay

    return started


def goes_on(client: Wire, pair: Pair) -> None:
    """The session is served by the new primary."""
    assert client.status == "I"
    assert errors(client.ask(query("insert into scratch values (9, 'goes on')"))) == []
    assert is_there(pair.standby, 9)


@pytest.mark.parametrize("is_split", [False, True], ids=["", "split"])
def test_a_commit_that_the_new_primary_has_is_answered(
    is_split: bool, pair: Pair, serve: Callable[..., Forebay]
) -> None:
    """Its client would run the transaction twice, or have to ask somebody."""
    forebay = serve(read_write_split=is_split)
    with forebay.target.wire() as client:
        inserts(client, 1)
        commits(client, pair.to_primary, pair.primary, 1)
        caught_up(pair.primary, pair.standby)
        pair.kills_primary()
        until(lambda: forebay.events("commit_in_doubt"), within_s=WITHIN_S, what="the COMMIT is looked for")
        pair.promotes()
        assert errors(client.ready()) == []
        assert is_there(pair.standby, 1)
        goes_on(client, pair)
    until(lambda: outcomes(forebay) == ["committed"], within_s=WITHIN_S, what="the log tells it")


@pytest.mark.parametrize("arrives", [True, False], ids=["carried out", "never arrived"])
def test_a_commit_that_the_new_primary_lacks_is_to_be_run_again(
    arrives: bool, pair: Pair, serve: Callable[..., Forebay]
) -> None:
    """The old primary may have carried it out: what was not replicated is lost, and its id another's by now."""
    forebay = serve()
    with forebay.target.wire() as client:
        pair.stops_streaming()
        inserts(client, 2)
        if arrives:
            commits(client, pair.to_primary, pair.primary, 2)
        else:
            pair.to_primary.refuses.set()
            pair.to_primary.cuts_before = b"commit\0"
            client.send(query("commit"))
            until(lambda: forebay.events("commit_in_doubt"), within_s=WITHIN_S, what="the COMMIT is looked for")
        pair.kills_primary()
        pair.promotes()
        frames = client.ready()
        assert errors(frames) == ["40001"]
        assert [frame.fields["H"][-7:] for frame in frames if frame.tag == "E"] == ["(FB407)"]
        assert not is_there(pair.standby, 2)
        goes_on(client, pair)
    until(lambda: outcomes(forebay) == ["aborted"], within_s=WITHIN_S, what="the log tells it")


def test_a_new_primary_that_was_restarted_since_can_tell_nothing(pair: Pair, serve: Callable[..., Forebay]) -> None:
    """It knows no more where its timeline begins: what has that id there may be another transaction."""
    forebay = serve()
    with forebay.target.wire() as client:
        inserts(client, 3)
        pair.to_standby.refuses.set()
        commits(client, pair.to_primary, pair.primary, 3)
        caught_up(pair.primary, pair.standby)
        pair.to_standby.cut()
        pair.kills_primary()
        pair.promotes()
        pair.standby.stop(signal.SIGINT)
        pair.standby.start()
        pair.to_standby.refuses.clear()
        assert errors(client.ready()) == ["08007"]
        goes_on(client, pair)
    until(lambda: outcomes(forebay) == ["unknown"], within_s=WITHIN_S, what="the log tells it")


def test_a_commit_is_in_doubt_for_as_long_as_a_wait_may_last(pair: Pair, serve: Callable[..., Forebay]) -> None:
    """While nobody is promoted a standby tells nothing, and nobody waits for ever."""
    forebay = serve(query_wait_timeout="3s")
    with forebay.target.wire() as client:
        inserts(client, 4)
        commits(client, pair.to_primary, pair.primary, 4)
        pair.kills_primary()
        assert errors(client.ready()) == ["08007"]
        assert client.status == "I"
    assert forebay.events("commit_in_doubt"), "it was looked for"
    assert outcomes(forebay) == []
