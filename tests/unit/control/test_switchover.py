"""What becomes of a switchover whose promotion fails, or of which nobody knows how it ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from forebay.admin.backend import EndpointRow, Refused, SwitchoverOrder
from forebay.config.resolved import ServerTls
from forebay.config.topology import Topology
from forebay.control.engine_link import Outcome
from forebay.control.switchover import line, promotion
from forebay.control.switchover.change import LAG_BYTES_MAX, Switchovers
from forebay.control.switchover.line import Line
from forebay.control.switchover.servers import Order

OLD, NEW = "10.0.0.5:5432", "10.0.0.6:5432"


class World:
    """Stands in for discovery, and for the servers at both endpoints."""

    def __init__(self) -> None:
        self.rows_: list[EndpointRow] = [row(OLD, "primary"), row(NEW, "replica")]
        self.follows = True
        self.can_be_held = True
        self.hangs = False
        # Somebody is told not to wait any more, as it is looked at what has become of it.
        self.looked: Callable[[], None] = lambda: None
        self.writes: bool | None = False
        self.promotes: bool | Refused | None = True
        # How often it has been told to, and how often it has to be.
        self.promoted = 0
        self.promoted_min: int | None = None
        self.source_: object | None = None
        self.told: list[str] = []
        self.promotes_now = asyncio.Event()

    def rows(self) -> list[EndpointRow]:
        return self.rows_

    def topology(self, database: str) -> Topology | None:
        return object() if database == "shop" else None  # type: ignore[return-value]

    def source(self, _database: str) -> object | None:
        return self.source_

    def hold(self, databases: list[str], endpoint: str, *, is_relieved: bool) -> bool:
        assert (databases, endpoint) == (["blog", "shop"], OLD)
        if not self.can_be_held:
            return False
        self._becomes(OLD, "relieved" if is_relieved else "held")
        return True

    def release(self, databases: set[str]) -> None:
        assert set(databases) == {"blog", "shop"}
        self._becomes(OLD, "primary")

    def look_now(self, databases: list[str]) -> None:
        """The promotion is believed."""
        self._becomes(OLD, "deposed")
        self._becomes(NEW, "primary")

    def _becomes(self, endpoint: str, role: str) -> None:
        self.rows_ = [replace(each, role=role) if each.endpoint == endpoint else each for each in self.rows_]

    @property
    def role(self) -> str:
        """Of the old primary."""
        return next(each.role for each in self.rows_ if each.endpoint == OLD)

    def tell(self, words: str, _detail: str | None) -> None:
        self.told.append(words)
        if words.startswith("promote:"):
            self.promotes_now.set()


def row(endpoint: str, role: str, database: str = "shop", lag: int = 0) -> EndpointRow:
    return EndpointRow(database, endpoint, role, "is in recovery", 1, 100, lag, 0.0, None)


class FakeLine:
    """One server; what it says is the world's to decide."""

    world: World
    user = "poll"
    dbname = "shop_production"
    may_promote = True
    marked = "none"

    def __init__(self, _topology: Topology, endpoint: str) -> None:
        self.endpoint = endpoint

    async def flushed(self) -> int:
        return 100

    async def replayed(self) -> int:
        return 100

    async def mark(self) -> int:
        FakeLine.marked = "in progress"
        return 7

    async def unmark(self) -> None:
        FakeLine.marked = "aborted"

    async def standing(self, mark: int) -> str | None:
        assert mark == 7
        return self.marked if self.world.follows else "committed"

    async def state(self) -> tuple[bool, bool, bool]:
        return True, False, self.may_promote

    async def can_write(self) -> bool | None:
        self.world.looked()
        await asyncio.sleep(0)
        return self.world.writes if self.endpoint == NEW else True

    async def promote(self) -> bool | None:
        if self.world.hangs:
            await asyncio.Event().wait()
        if isinstance(self.world.promotes, Refused):
            raise self.world.promotes
        self.world.promoted += 1
        self.world.writes = self.world.writes or self.world.promoted == self.world.promoted_min
        return self.world.promotes

    def close(self) -> None:
        pass


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Two databases on one cluster."""
    world = World()
    world.rows_ += [replace(each, database="blog") for each in world.rows_]
    monkeypatch.setattr(FakeLine, "world", world, raising=False)
    monkeypatch.setattr(line, "Line", FakeLine)
    return world


async def order(_kind: str, _argument: str | None) -> Outcome:
    return Outcome(done=1)


def switchovers(world: World, order: Order = order) -> Switchovers:
    class Config:
        databases = ()

    return Switchovers(world, order, Config)  # type: ignore[arg-type]


def refused(act: Coroutine[Any, Any, None]) -> str:
    with pytest.raises(Refused) as refusal:
        asyncio.run(act)
    return refusal.value.because


def test_a_promotion_that_may_come_yet_leaves_nothing_to_the_old_primary(world: World) -> None:
    """Else what the old one acknowledges is lost when the candidate is promoted after all."""
    both = switchovers(world)
    wanted = SwitchoverOrder(database="shop", limit_s=0.05)
    for promotes, is_slow in ((True, False), (None, False), (True, True)):
        world.promotes, world.hangs = promotes, is_slow
        words = refused(both.run(wanted, world.tell))
        assert "nothing goes back to 10.0.0.5:5432" in words
        assert world.role == "relieved"
        both.back("shop")
        assert world.role == "primary"
    with pytest.raises(Refused, match="is relieved"):
        both.back("shop")


def test_a_candidate_that_does_not_hear_is_told_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all wait until it looks by itself, after wal_retrieve_retry_interval: 5 s."""
    monkeypatch.setattr(promotion, "AGAIN_S", 0.01)
    world.promoted_min = 3
    asyncio.run(switchovers(world).run(SwitchoverOrder(database="shop", limit_s=20), world.tell))
    assert world.promoted == 3
    assert any(line.startswith("released: requests go to 10.0.0.6:5432") for line in world.told)


def test_a_promotion_that_is_known_to_fail_is_undone(world: World) -> None:
    """And one that nobody has begun."""
    both = switchovers(world)
    for promotes, words in ((Refused("no right"), "no right"), (False, "can't be promoted")):
        world.promotes = promotes
        because = refused(both.run(SwitchoverOrder(database="shop"), world.tell))
        assert words in because
        assert because.endswith("undone: requests go on at 10.0.0.5:5432")
        assert world.role == "primary"


def test_who_has_told_somebody_to_promote_does_not_know_that_they_did_not(world: World) -> None:
    """The candidate may be told already, and is a replica until it has come so far."""
    both = switchovers(world)
    manual = SwitchoverOrder(database="shop", limit_s=0.05, is_manual=True)
    assert "nothing goes back to 10.0.0.5:5432" in refused(both.run(manual, world.tell))
    assert world.role == "relieved"
    both.back("shop")
    assert world.role == "primary"


def test_cancelling_undoes_until_the_candidate_is_asked(world: World) -> None:
    """Past that it goes on by itself. Who promotes by hand says with it that they do not."""

    async def cancels(wanted: SwitchoverOrder) -> None:
        both, world.promotes_now = switchovers(world), asyncio.Event()
        waiting = asyncio.ensure_future(both.run(wanted, world.tell))
        await world.promotes_now.wait()
        waiting.cancel()
        try:
            await both.call_off()
        finally:
            world.writes = world.writes or not wanted.is_manual
            await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    by_hand = SwitchoverOrder(database="shop", is_manual=True)
    asyncio.run(cancels(by_hand))
    assert world.role == "primary"
    for world.writes in (True, None):
        assert "nothing goes back" in refused(cancels(by_hand)), "it does not say that it is a replica still"
        switchovers(world).back("shop")
    world.writes = False
    assert "it goes on by itself" in refused(cancels(SwitchoverOrder(database="shop")))
    assert [each.role for each in world.rows_[:2]] == ["primary", "primary"], "released, and believed by then"


@pytest.mark.parametrize("becomes", ["replica", "astray", "lagging"])
def test_replicas_that_stay_with_the_old_primary_are_named(
    world: World, becomes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They get no reads from then on, and replay what leads them past the place at which the new primary began."""
    third = "10.0.0.7:5432"
    world.rows_ += [row(third, "replica", each) for each in ("shop", "blog")]
    world.promoted_min = 1
    look_now = world.look_now

    def believed(databases: list[str]) -> None:
        look_now(databases)
        world._becomes(third, becomes)

    monkeypatch.setattr(world, "look_now", believed)
    asyncio.run(switchovers(world).run(SwitchoverOrder(database="shop", candidate=NEW), world.tell))
    assert [each for each in world.told if each.startswith(third)] == [
        f"{third} goes on after {OLD}, and gets no reads: have it follow {NEW} at once"
    ]


def test_the_right_to_promote_is_asked_for_where_it_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rights to functions are of one database: a GRANT in another one changes nothing."""
    monkeypatch.setattr(FakeLine, "may_promote", False)
    said = refused(switchovers(world).run(SwitchoverOrder(database="shop"), world.tell))
    assert 'TO "poll" on the primary, in the database "shop_production"' in said


def test_nothing_is_held_for_what_can_not_be_done(world: World) -> None:
    """All would wait for nothing."""
    both, wanted = switchovers(world), SwitchoverOrder(database="shop")
    assert "has no topology" in refused(both.run(SwitchoverOrder(database="else"), world.tell))
    world.source_ = object()
    assert "SWITCHOVER … MANUAL" in refused(both.run(SwitchoverOrder(database="shop"), world.tell))
    world.source_, world.follows = None, False
    assert "does not follow 10.0.0.5:5432" in refused(both.run(SwitchoverOrder(database="shop"), world.tell))
    world.rows_ = [row(OLD, "primary"), row(NEW, "replica", lag=LAG_BYTES_MAX + 1)]
    assert "bytes behind" in refused(both.run(SwitchoverOrder(database="shop"), world.tell))
    world.rows_ = [row(OLD, "primary"), row(NEW, "lagging")]
    assert "no replica that could take over" in refused(both.run(SwitchoverOrder(database="shop"), world.tell))
    world.rows_ = [row(OLD, "down"), row(NEW, "replica")]
    assert "has no primary" in refused(both.run(SwitchoverOrder(database="shop"), world.tell))
    world.rows_ = [row(OLD, "primary"), row(NEW, "replica"), row(OLD, "primary", "blog")]
    assert "blog: 10.0.0.5:5432 is the primary there too" in refused(both.run(wanted, world.tell))
    world.rows_ = [row(OLD, "primary"), row(NEW, "replica"), row(OLD, "down", "blog"), row(NEW, "replica", "blog")]
    assert "no primary at the moment by the account of blog (down)" in refused(both.run(wanted, world.tell))
    assert world.told == []


def test_a_primary_that_is_lost_as_it_is_to_be_held_is_not(world: World) -> None:
    """Its clients would not wait while another one is promoted."""
    world.can_be_held = False
    assert "has just been lost" in refused(switchovers(world).run(SwitchoverOrder(database="shop"), world.tell))
    assert (world.role, world.told) == ("primary", [])


def test_an_impatient_cancel_leaves_nobody_held(world: World) -> None:
    """It comes again while the first one is undone."""

    async def play() -> None:
        both, wanted = switchovers(world), SwitchoverOrder(database="shop", is_manual=True)
        waiting = asyncio.ensure_future(both.run(wanted, world.tell))
        await world.promotes_now.wait()
        running = both._running
        assert running is not None
        world.looked = running.cancel  # type: ignore[assignment]
        with contextlib.suppress(Refused, asyncio.CancelledError):
            await both.call_off()
        assert world.role == "primary"
        with contextlib.suppress(Refused, asyncio.CancelledError):
            await waiting

    asyncio.run(play())


def test_back_says_what_it_can_not_release(world: World) -> None:
    """And releases what nobody holds any more."""
    both = switchovers(world)
    world.hold(["blog", "shop"], OLD, is_relieved=False)
    both.back("shop")
    assert world.role == "primary"
    world.rows_ = [replace(each, role="deposed") if each.endpoint == OLD else each for each in world.rows_]
    with pytest.raises(Refused, match=r"5432 is deposed, .* an online restart") as told:
        both.back("shop")
    assert "start forebay anew" in told.value.because


class Deaf:
    """A connection to a server that has stopped: it answers nothing, not even that it was cancelled."""

    socket = -1

    def __init__(self) -> None:
        self.pgconn = self
        self.asked: list[bytes] = []

    async def execute(self, sql: bytes) -> None:
        self.asked.append(sql)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    def finish(self) -> None:
        pass


def test_a_server_that_hangs_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """All would wait for as long as it does; what was asked of it may be done all the same."""
    deaf = Deaf()

    async def connect(**_given: Any) -> Deaf:
        return deaf

    async def play() -> None:
        asked = Line(shop, NEW)
        assert await asked.can_write() is None
        assert await asked.promote() is None, "nobody knows"
        with pytest.raises(Refused, match=r"no answer within 0\.05 s"):
            await asked.flushed()
        assert len(deaf.asked) == 3
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    monkeypatch.setattr("psycopg.AsyncConnection.connect", connect)
    monkeypatch.setattr(line, "SILENCE_S", 0.05)
    tls = ServerTls("disable", None, None, None)
    shop = Topology("poll", "shop", (OLD, NEW), "shop", "poll", None, tls, 1.0, 1.0, 2, 0, is_followed=False)
    asyncio.run(asyncio.wait_for(play(), 5))


def test_a_report_on_a_replica_holds_nobody_up(world: World) -> None:
    """That of a replica which was ejected, and gets nothing else until it has ended."""
    held: list[dict[str, object]] = []

    async def holds(kind: str, _argument: str | None) -> Outcome:
        if kind == "wait_close":
            await asyncio.Event().wait()
        return Outcome(done=1, snapshots=[msgspec.json.encode({"servers": held}).decode()])

    def server(database: str, address: str) -> dict[str, object]:
        server: dict[str, object] = dict.fromkeys(
            ("id", "age_us", "request_us", "remote_pid", "prepared_statements"), 0
        ) | dict.fromkeys(("user", "application_name", "tls"), "")
        about = {"database": database, "address": address, "port": 5432, "client": 3}
        return {**server, **about, "state": "active", "close_needed": True}

    both, wanted = switchovers(world, holds), SwitchoverOrder(database="shop", end_s=0.5)
    held[:] = [server("shop:replicas", "10.0.0.6"), server("else", "10.0.0.5")]
    world.writes = True
    asyncio.run(both.run(wanted, world.tell))
    assert world.told[-2].startswith("released")
    for where in (server("shop:replicas", "10.0.0.5"), server("blog", "unix"), server("shop", "10.9.9.9")):
        world.rows_ = [replace(row(OLD, "primary"), database=each) for each in ("shop", "blog")]
        world.rows_ += [replace(row(NEW, "replica"), database=each) for each in ("shop", "blog")]
        held[:] = [where]
        assert "still in use at 10.0.0.5:5432" in refused(both.run(wanted, world.tell)), where
