"""What of a source's answer counts for a database."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from forebay._engine import Cluster
from forebay.admin.backend import EndpointRow
from forebay.config import load_text
from forebay.config.resolve import Config
from forebay.control.discover import Discovery
from forebay.control.discover.member import Member, Role, Sighting, SourceFailed
from forebay.control.discover.risk import Risk
from forebay.control.discover.told import Account, Told, account_of


def sighting(*members: tuple[str, Role]) -> Sighting:
    """An answer of a source."""
    return Sighting(
        members=tuple(Member(host=h, port=5432, role=role, source="etcd") for h, role in members), asked="x"
    )


@pytest.mark.parametrize(
    ("members", "account"),
    [
        # In one order whatever the answer's, so that equal answers move nothing.
        ([("b", Role.REPLICA), ("a", Role.PRIMARY)], Account(("a:5432", "b:5432"), ("a:5432",))),
        # Nobody holds the lease: nobody may write.
        ([("a", Role.REPLICA), ("b", Role.REPLICA)], Account(("a:5432", "b:5432"), ())),
        # A name server knows of no roles: what the endpoints say decides.
        ([("fd00::1", Role.UNKNOWN)], Account(("[fd00::1]:5432",), None)),
        # A host that is none may be anything to whoever reads it, such as the path of a socket.
        ([("/tmp", Role.PRIMARY), ("a", Role.REPLICA)], Account(("a:5432",), ())),
    ],
)
def test_a_sighting_is_endpoints_and_who_may_write(members: list[tuple[str, Role]], account: Account) -> None:
    assert account_of(sighting(*members)) == account


def test_a_sighting_without_a_host_that_can_be_used_is_none() -> None:
    with pytest.raises(SourceFailed, match="no host"):
        account_of(sighting(("a b", Role.PRIMARY)))


@dataclass
class Following:
    """One that is told what the test says."""

    account: Account | None
    cluster: Cluster = field(default_factory=lambda: Cluster(["a:5432"], 2, 0))
    risk: Risk = field(default_factory=lambda: Risk(configured("").topologies[0]))

    def start(self) -> None: ...

    async def close(self) -> None: ...


def configured(address: str, interval: str = "500ms") -> Config:
    """A database that a source tells of; without one, its endpoints are polled."""
    source = f"topology = 'patroni'\ntopology_source = '{address}'" if address else "topology = 'poll'"
    told = f"{source}\npoll_user = 'app'\npoll_interval = '{interval}'"
    text = f"[databases.app]\nendpoints = ['a:5432']\n{told}\n[users.app]\nsecret = {{ env = 'APP' }}\n"
    loaded = load_text(text, environ={"APP": "x"})
    assert loaded.config is not None, loaded.findings
    return loaded.config


def test_what_was_told_holds_until_it_is_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a reload that asks another host, nor by what is told while that is under way: it is in force nowhere."""
    before, later = Account(("b:5432", "c:5432"), ("b:5432",)), Account(("d:5432",), ("d:5432",))
    followed: list[Following] = []

    def following(_: Discovery, *made: Any) -> Following:
        followed.append(Following(made[1].account))
        return followed[-1]

    async def no_move() -> None: ...

    async def play() -> None:
        monkeypatch.setattr("forebay.control.discover.build_source", lambda *_: None)
        monkeypatch.setattr(Discovery, "_follower", following)
        monkeypatch.setattr(Discovery, "_drop_made", lambda _: no_move())
        discovery = Discovery(lambda *_: None, no_move, {})
        first = configured("patroni://p1:8008")
        await discovery.follow(first.topologies)
        assert followed[0].account is None
        followed[0].account = before
        for changed in (configured("patroni://p2:8008"), configured("patroni://p2:8008", "600ms")):
            engine = discovery.overlaid(changed.engine, changed.topologies)
            assert [list(one.endpoints) for one in engine.databases] == [["b:5432", "c:5432"]]
            followed[-1].account = later
            await discovery.follow(changed.topologies)
            assert followed[-1].account == before

    asyncio.run(play())
    assert len(followed) == 3


def test_a_question_of_forebay_s_own_goes_to_the_primary_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """auth.query would ask a primary that was deposed, or none that is up."""
    roles = {"a:1": "down", "b:1": "deposed", "c:1": "replica", "d:1": "primary", "e:1": "stranger"}

    @dataclass
    class Seeing(Following):
        def rows(self) -> list[EndpointRow]:
            row = {"reason": "", "timeline": None, "lsn": None, "lag": None, "answered_s": None, "error": None}
            return [EndpointRow(database="app", endpoint=each, role=role, **row) for each, role in roles.items()]

    async def play() -> None:
        monkeypatch.setattr(Discovery, "_follower", lambda *_: Seeing(None))
        discovery = Discovery(lambda *_: None, lambda: asyncio.sleep(0), {})
        await discovery.follow(configured("patroni://p1:8008").topologies)
        assert list(discovery.by_use("app", ("a:1",))) == ["d:1", "c:1", "a:1"]
        assert list(discovery.by_use("other", ("x:1", "y:1"))) == ["x:1", "y:1"]
        roles.update(dict.fromkeys(roles, "stranger"))
        assert list(discovery.by_use("app", ("a:1",))) == [], "they are other systems"
        roles.clear()
        assert list(discovery.by_use("app", ("a:1",))) == ["a:1"]

    asyncio.run(play())


def test_another_process_s_knowledge_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or an online restart would forget endpoints that were told, and which primary is deposed."""
    found: list[tuple[tuple[int, int] | None, Account | None]] = []

    def following(_: Discovery, topology: Any, before: Any) -> Following:
        found.append((before.cluster.memory() if before.cluster else None, before.account))
        return Following(before.account)

    async def play() -> None:
        monkeypatch.setattr(Discovery, "_follower", following)
        predecessor, successor, other = (Discovery(lambda *_: None, lambda: asyncio.sleep(0), {}) for _ in range(3))
        config, polled = configured("patroni://p1:8008"), configured("")
        await predecessor.follow(config.topologies)
        (_, follower) = predecessor._followers["app"]
        assert isinstance(follower, Following)
        follower.cluster.heard(0, (False, 7, False, 100, 42), 0)
        follower.cluster.decide()
        follower.account = told = Account(("b:5432", "c:5432"), None)
        legacy = json.loads(json.dumps(predecessor.legacy()))

        successor.inherit(legacy)
        engine = successor.overlaid(config.engine, config.topologies)
        assert [list(one.endpoints) for one in engine.databases] == [["b:5432", "c:5432"]]
        await successor.follow(config.topologies)
        # Of another kind, its endpoints are its own; what was seen of them holds.
        other.inherit(legacy)
        assert other.overlaid(polled.engine, polled.topologies) == polled.engine
        await other.follow(polled.topologies)
        assert found == [(None, None), ((42, 7), told), ((42, 7), None)]

    asyncio.run(play())


def test_who_wants_to_know_now_does_not_wait_for_a_watch() -> None:
    """It may be that of a peer behind a cut cable: until that is noticed, the old primary would be the named one."""
    first, second, third = (sighting((name, Role.PRIMARY)) for name in "abc")
    more = asyncio.Event()

    class Watched:
        async def watch(self) -> AsyncGenerator[Sighting, None]:
            yield first
            await more.wait()
            yield third

        async def look(self) -> Sighting:
            return second

        async def close(self) -> None: ...

    async def play() -> None:
        (topology,) = configured("patroni://p1:8008").topologies
        told = Told(topology, Watched(), lambda *_: None, lambda: asyncio.sleep(0))
        async with contextlib.aclosing(told._sightings()) as sightings:
            assert await anext(sightings) is first
            told._is_due.set()
            assert await asyncio.wait_for(anext(sightings), 5) is second
            more.set()
            assert await anext(sightings) is third
            assert await anext(sightings, None) is None
            assert await tasks_left() == 0
        more.clear()
        sightings = told._sightings()
        assert await anext(sightings) is first
        waiting = asyncio.ensure_future(anext(sightings))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert await tasks_left() == 0, "who closes it leaves nothing behind"

    async def tasks_left() -> int:
        return len(asyncio.all_tasks() - {asyncio.current_task()})

    asyncio.run(play())


@pytest.mark.parametrize(
    ("ttl_s", "topology", "waited_s"),
    [
        (None, {}, 0.5),
        (0.0, {}, 0.5),
        (0.2, {}, 0.5),
        (7.0, {}, 7.0),
        (300.0, {}, 15.0),
        (None, {"interval_s": 60.0}, 60.0),
        (None, {"interval_s": 60.0, "is_lease_enough": True}, 15.0),
    ],
)
def test_what_a_source_calls_good_is_not_asked_for_again_before(
    ttl_s: float | None, topology: dict[str, Any], waited_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server is asked twice a second otherwise for what it has said holds for a minute."""
    waited: list[float] = []

    class Names:
        async def look(self) -> Sighting:
            return replace(sighting(("a", Role.UNKNOWN)), ttl_s=ttl_s)

        async def close(self) -> None: ...

    async def wait(_: Told, seconds: float) -> None:
        waited.append(seconds)

    async def play() -> None:
        (told_of,) = configured("patroni://p1:8008").topologies
        told = Told(replace(told_of, **topology), Names(), lambda *_: None, lambda: asyncio.sleep(0))
        async with contextlib.aclosing(told._sightings()) as sightings:
            await anext(sightings)
            await anext(sightings)

    monkeypatch.setattr(Told, "_wait", wait)
    asyncio.run(play())
    assert waited == [waited_s]
