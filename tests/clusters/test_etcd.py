"""Topology out of a real etcd, with keys in it as Patroni writes them: logins, odd keys, watches that end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from forebay.control.discover import etcd as source_of_etcd
from forebay.control.discover import registry
from forebay.control.discover.member import Lease, Member, Role, Sighting, SourceFailed, TimedSource, WatchedSource
from forebay.control.discover.registration import Means

from tests.harness import etcd
from tests.harness.etcd import Etcd, encoded
from tests.harness.postgres import free_port

SECRET = "hunter2 of root"
WITHIN_S = 10.0


def member(number: int, **more: Any) -> dict[str, Any]:
    """What Patroni writes of one."""
    url = f"postgres://10.0.0.{number}:5432/postgres"
    told = {"conn_url": url, "api_url": "http://10.0.0.9:8008/patroni", "state": "running", "role": "replica"}
    return {**told, "timeline": 3, "xlog_location": 1000 * number, **more}


def write(store: Etcd, scope: str, leader: str, **keys: Any) -> str:
    """A cluster of two and some keys; returns the leader's lease."""
    lease: str = store.call("lease/grant", {"TTL": "60"})["ID"]
    store.put(f"{scope}/leader", leader, lease=lease)
    store.put(f"{scope}/members/one", member(1, role="primary"))
    store.put(f"{scope}/members/two", member(2, replication_state="streaming"))
    for name, value in keys.items():
        store.put(f"{scope}/{name}", value)
    return lease


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Etcd]:
    """An etcd of the test's own."""
    with etcd.running(tmp_path) as server:
        yield server


@contextlib.asynccontextmanager
async def opened(address: str) -> AsyncIterator[WatchedSource]:
    """A source for as long as the block lasts."""
    source = registry.build(address, Means())
    assert isinstance(source, WatchedSource)
    try:
        yield source
    finally:
        await source.close()


async def look(address: str) -> Sighting:
    """One look."""
    async with opened(address) as source:
        return await source.look()


def test_keys_are_reduced_to_a_sighting(store: Etcd) -> None:
    """And those that Patroni did not write, or that another release writes otherwise, are in nobody's way."""
    lease = write(store, "/service/shop", "one", initialize="77", status={"optime": 2500, "slots": {"x": 1}})
    # A scope whose name begins with that of another.
    write(store, "/service/shop2", "two")
    write(store, "/db/abroad", "one", config={"pause": True, "standby_cluster": {"host": "10.0.0.9"}})
    for name, value in (("bad", "no json"), ("bare", {"state": "starting"}), ("port", member(3, conn_url="x://h:y/"))):
        store.put(f"/service/shop/members/{name}", value)
    write(store, "/service/crowd", "one")
    for number in range(65):
        store.put(f"/service/crowd/members/m{number}", member(number))

    async def story() -> None:
        seen = await look(f"etcd://127.0.0.1:{free_port()},{store.host}/shop")
        one, two = seen.members
        assert one == Member(
            host="10.0.0.1", port=5432, role=Role.PRIMARY, source="etcd", name="one", timeline=3, lsn=1000,
            state="running", api="http://10.0.0.9:8008/patroni",
        )  # fmt: skip
        assert (two.role, two.lsn, two.lag_bytes, two.state) == (Role.REPLICA, 2000, 500, "streaming")
        assert (seen.system_identifier, seen.is_paused, seen.asked) == ("77", False, store.host)
        assert seen.lease is not None
        assert (seen.lease.holder, 50 <= (seen.lease.left_s or 0) <= 60) == ("one", True)
        assert [each.name for each in (await look(f"etcd://{store.host}/shop2")).primaries] == ["two"]

        abroad = await look(f"etcd://{store.host}/abroad?namespace=/db/")
        assert (abroad.primaries, abroad.holder, abroad.is_paused) == ((), abroad.members[0], True)
        for scope, told in (("none", "has no key below /service/none/"), ("crowd", "names more than 64 members")):
            with pytest.raises(SourceFailed, match=told):
                await look(f"etcd://{store.host}/{scope}")

        store.call("lease/revoke", {"ID": lease})
        seen = await look(f"etcd://{store.host}/shop")
        assert (seen.primaries, seen.lease, len(seen.members)) == ((), None, 2)

    asyncio.run(story())


def test_patronis_own_times_are_read_where_it_keeps_them(store: Etcd) -> None:
    """They say how long a lost primary is waited for; where they are not set, its defaults hold."""
    write(store, "/service/shop", "one", config={"ttl": 20, "loop_wait": 5, "slots": {}})
    write(store, "/service/plain", "one")

    async def story() -> None:
        for scope, expected in (("shop", (20, 5)), ("plain", (30, 10))):
            async with opened(f"etcd://{store.host}/{scope}") as source:
                assert isinstance(source, TimedSource)
                times = await source.times()
                assert (times.lease_s, times.round_s) == expected

    asyncio.run(story())


def test_a_watch_tells_of_each_change_and_outlives_what_can_be_outlived(
    store: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Revisions that etcd has dropped, and a silence that may be that of a dead server, are looked over once more."""
    write(store, "/service/shop", "one")

    async def story() -> None:
        async with opened(f"etcd://{store.host}/shop") as source:
            watch = source.watch()

            async def told(what: dict[str, Any]) -> Sighting:
                """The next sighting after a change of keys."""
                for key, value in what.items():
                    await asyncio.to_thread(store.put, f"/service/{key}", value)
                return await asyncio.wait_for(anext(watch), WITHIN_S)

            first = await told({})
            assert [each.name for each in first.primaries] == ["one"]
            # Nobody watches between two questions: what has changed by now is gone when the watch begins.
            await asyncio.to_thread(store.put, "/service/shop/leader", "two")
            await asyncio.to_thread(store.put, "/service/shop/status", {"optime": 1})
            revision = (await asyncio.to_thread(store.call, "kv/range", {"key": encoded("x")}))["header"]["revision"]
            await asyncio.to_thread(store.call, "kv/compaction", {"revision": revision})
            second = await told({})
            assert [each.name for each in second.primaries] == ["two"]
            assert second.lease is not None
            assert second.lease.left_s is None, "this one was written without a lease"
            monkeypatch.setattr(source_of_etcd, "SILENCE_S", 0.3)
            third = await told({"other/leader": "x", "shop/members/one": member(1, timeline=4)})
            assert {each.name: each.timeline for each in third.members} == {"one": 4, "two": 3}
            # After a silence the watch is begun anew, with what is true then.
            assert await told({}) == third
            await asyncio.to_thread(store.stop)
            with pytest.raises(SourceFailed, match=store.host):
                await asyncio.wait_for(_rest(watch), WITHIN_S)

    asyncio.run(story())


async def _rest(watch: AsyncGenerator[Sighting, None]) -> list[Sighting]:
    return [seen async for seen in watch]


def test_logins(store: Etcd) -> None:
    """Tokens end, after minutes or with a change of the password; that must not cost a look."""
    write(store, "/service/shop", "one")
    store.call("auth/user/add", {"name": "root", "password": SECRET})
    store.call("auth/user/grant", {"user": "root", "role": "root"})
    store.call("auth/enable", {})
    login = f"root:{SECRET.replace(' ', '%20')}"

    async def refused(address: str) -> str:
        with pytest.raises(SourceFailed) as failed:
            await look(address)
        assert SECRET not in f"{failed.value} {failed.value.hint}"
        assert failed.value.hint == "Check the user and the password in its address."
        return str(failed.value)

    async def story() -> None:
        async with opened(f"etcd://{login}@{store.host}/shop") as source:
            seen = await source.look()
            assert seen.lease is not None
            assert seen.lease == Lease(holder="one", term=seen.lease.term, left_s=seen.lease.left_s)
            watch = source.watch()
            assert (await asyncio.wait_for(anext(watch), WITHIN_S)).primaries == seen.primaries
            await watch.aclose()
            token = store.call("auth/authenticate", {"name": "root", "password": SECRET})["token"]
            store.call("auth/user/changepw", {"name": "root", "password": SECRET}, token=token)
            assert (await source.look()).primaries == seen.primaries
        assert "HTTP status 400" in await refused(f"etcd://root:wrong@{store.host}/shop")
        assert "HTTP status" in await refused(f"etcd://{store.host}/shop")

    asyncio.run(story())
