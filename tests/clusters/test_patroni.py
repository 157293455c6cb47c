"""What sources of topology tell of a real cluster while its leader changes: Patroni and etcd, as others run them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest
from forebay.control.discover import registry
from forebay.control.discover.member import Role, Sighting, Source, SourceFailed, WatchedSource
from forebay.control.discover.registration import Means
from forebay.control.drill.ledger import Ledger
from forebay.control.drill.report import Report
from forebay.control.drill.run import Drill, Plan

from tests.clusters.switching import STEPS, Order
from tests.conftest import skip_without_uring
from tests.harness import patroni, pooler
from tests.harness.deadline import until
from tests.harness.patroni import NAMES, SCOPE, TTL_S, Cluster, Node
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres

T = TypeVar("T")

# How much later than the server itself says so a source may name it. Patroni's members write of themselves once a
# second; the rest is a busy machine.
LATE_S = 3.0
# What forebay may add to a promotion, 0.7 s, and a busy machine to that.
SERVED_S = 0.7 + 2.0
POOL_SIZE = 4
POLL_S = 0.05


@pytest.mark.timeout(400)
def test_sources_name_the_leader_through_a_switchover_and_a_crash(server: Postgres, tmp_path: Path) -> None:
    """Otherwise writes go to a server that was demoted, or the cluster stays down for forebay alone."""
    with patroni.running(server.programs) as cluster, contextlib.ExitStack() as stack:
        asyncio.run(_story(cluster, stack, tmp_path))


async def _story(cluster: Cluster, stack: contextlib.ExitStack, folder: Path) -> None:
    apis = ",".join(node.api for node in cluster.nodes.values())
    async with (
        _open(f"patroni://{apis}") as rest,
        _open(f"etcd://127.0.0.1:{cluster.etcd.port}/{SCOPE}") as etcd,
        _open(f"etcd://127.0.0.1:{cluster.etcd.port}/{SCOPE}") as watched,
    ):
        assert isinstance(watched, WatchedSource)
        first = await _seen(rest, _is_whole, within_s=90, of=cluster)
        (leader,) = first.primaries
        assert leader.name is not None
        before = await _seen(etcd, _is_whole, within_s=10, of=cluster)
        await _agrees(cluster, first, before)
        sessions = [_Session(forebay, stack) for forebay in _forebays(cluster, leader.name, folder, stack)]
        for session in sessions:
            session.is_at(cluster.nodes[leader.name], known=len(NAMES))
            session.is_told_the_same_after_a_reload()

        told: list[tuple[float, Sighting]] = []
        watching = asyncio.create_task(_note(watched, told))
        candidate, third = [name for name in NAMES if name != leader.name]
        change = _Change("switchover", {"rest": rest, "etcd": etcd}, told)
        # A switchover that fails says why, rather than that nobody is promoted.
        async with asyncio.TaskGroup() as both:
            both.create_task(asyncio.to_thread(_switch_over, sessions, cluster.nodes[candidate]))
            both.create_task(change.is_noticed(cluster.nodes[candidate]))
        again = await _seen(rest, _is_whole, within_s=60, of=cluster)
        after = await _seen(etcd, _is_whole, within_s=10, of=cluster)
        _grew(before, after)
        await _agrees(cluster, again, after)
        for session in sessions:
            await asyncio.to_thread(session.is_at, cluster.nodes[candidate], known=len(NAMES))

        change = _Change("crash", {"rest": rest, "etcd": etcd}, told)
        drilling = asyncio.create_task(asyncio.to_thread(_drill, sessions[0].forebay, cluster.nodes[candidate]))
        survivors = [cluster.nodes[name] for name in (leader.name, third)]
        promoted = asyncio.create_task(_promoted(survivors, within_s=TTL_S + 40))
        gone = await _seen(etcd, lambda seen: not seen.primaries, within_s=TTL_S + 10, of=cluster)
        assert gone.lease is None, "nobody may write while nobody holds the lease"
        heir, promoted_at = await promoted
        await change.is_noticed(heir)
        # The timeline is what the heir tells of itself, once a second.
        is_told = _leads(heir.name, above=after.primaries[0].timeline or 0)
        _grew(after, await _seen(etcd, is_told, within_s=10, of=cluster))

        for session in sessions:
            await asyncio.to_thread(session.is_at, heir, known=len(NAMES) - 1)

        _costs_what_was_under_way(await drilling, promoted_at)

        cluster.etcd.stop()
        with pytest.raises(SourceFailed, match=r"the watch at etcd|etcd gave no answer"):
            await asyncio.wait_for(watching, 10)
        with pytest.raises(
            SourceFailed, match=f"etcd gave no answer .127.0.0.1:{cluster.etcd.port}: connection refused"
        ):
            await etcd.look()
        # Patroni names no leader that nobody can vouch for, once it has asked for one.
        assert re.search(r"Patroni gave no answer .*no answer within 1 s", await _fails(rest, within_s=30))
        for session in sessions:
            await asyncio.to_thread(session.keeps_what_was_told)


def _switch_over(sessions: list[_Session], candidate: Node) -> None:
    """A planned one: the last forebay orders it of Patroni, while the others hold. Clients that write see nothing."""
    writers = [_Writer(session.forebay) for session in sessions]
    orders = [
        Order(session.forebay, f"switchover app to '127.0.0.1:{candidate.port}' manual timeout 60")
        for session in sessions[:-1]
    ]
    for order in orders:
        order.says("promote")
    orders.append(Order(sessions[-1].forebay, f"switchover app to '127.0.0.1:{candidate.port}'"))
    for order in reversed(orders):
        order.join(60)
        assert (order.error, [line.partition(":")[0] for line in order.told]) == (None, STEPS), order.told
        print("\n".join(order.told))
    for writer in writers:
        writer.ends()
    print("the longest writes took", [round(writer.longest_s, 3) for writer in writers])


class _Writer(threading.Thread):
    """A client that must not see an error."""

    def __init__(self, forebay: Forebay) -> None:
        super().__init__()
        self.target = forebay.target
        self.done, self.longest_s = 0, 0.0
        self.error: psycopg.Error | None = None
        self.is_over = threading.Event()
        self.start()
        until(lambda: self.done > 3 or self.error, within_s=10, what="it writes")

    def run(self) -> None:
        try:
            with self.target.connect(autocommit=True) as client:
                while not self.is_over.is_set():
                    began = time.monotonic()
                    client.execute("select pg_logical_emit_message(true, 'test', 'x')")
                    self.longest_s = max(self.longest_s, time.monotonic() - began)
                    self.done += 1
        except psycopg.Error as error:
            self.error = error

    def ends(self) -> None:
        """It goes on, and has seen nothing but a wait."""
        done = self.done
        until(lambda: self.done > done + 3 or self.error, within_s=20, what="it goes on")
        self.is_over.set()
        self.join()
        assert self.error is None, self.error


def _forebays(cluster: Cluster, leader: str, folder: Path, stack: contextlib.ExitStack) -> Iterator[Forebay]:
    """One that asks Patroni, and one that asks etcd. Each is given one endpoint, and learns the others."""
    apis = ",".join(node.api for node in cluster.nodes.values())
    store = f"127.0.0.1:{cluster.etcd.port}"
    for variant, kind, at in (
        (Variant("uring", 2), "patroni", apis),
        (Variant("epoll", 1), "etcd", f"{store}/{SCOPE}"),
    ):
        port = cluster.nodes[leader].port
        database = {"dbname": "postgres", "user": "postgres", "topology": kind, "topology_source": f"{kind}://{at}",
                    "poll_user": "postgres", "server_check_delay": "0s"}  # fmt: skip
        # Waits for as long as Patroni takes.
        drill = {**database, "query_wait_timeout": "90s"}
        del drill["user"]
        sections = configuration(port, variant, databases={"app": database, "drill": drill})
        with skip_without_uring(variant):
            yield stack.enter_context(pooler.running(folder / kind, sections, variant))


class _Session:
    """A client of a forebay, which stays while leaders change."""

    def __init__(self, forebay: Forebay, stack: contextlib.ExitStack) -> None:
        self.forebay = forebay
        self.client = stack.enter_context(forebay.target.connect(autocommit=True))
        self.told: dict[str | None, str | None] = {}

    def is_at(self, node: Node, *, known: int) -> None:
        """Waits until this is the primary of so many endpoints that answer, in both databases; the session goes on."""

        def rows() -> dict[str | None, str | None]:
            found = self.forebay.console("show endpoints")
            self.told = {row["endpoint"]: row["source"] for row in found}
            roles = {(row["database"], row["endpoint"]): row["role"] for row in found}
            primaries = [place for place, role in roles.items() if role == "primary"]
            is_there = sorted(primaries) == [(name, f"127.0.0.1:{node.port}") for name in ("app", "drill")]
            return self.told if is_there and [*roles.values()].count("replica") == 2 * (known - 1) else {}

        until(rows, within_s=30, what=f"{node.name} is the primary of {known}")
        assert set(self.told.values()) <= {"patroni", "etcd"}
        assert self.client.execute("select inet_server_port()").fetchone() == (node.port,)

    def is_told_the_same_after_a_reload(self) -> None:
        """Neither what the source told nor what was seen is forgotten; a source that can't be asked is refused."""
        before = self.forebay.sections
        name = 'databases."app"'
        address = f"{before[name]['topology_source']}?nope=1"
        refused = self.forebay.reload({**before, name: {**before[name], "topology_source": address}})
        assert (refused["event"], refused["because"][-20:]) == ("reload_refused", 'has no option "nope"')
        changed = {**before, name: {**before[name], "poll_interval": "400ms"}}
        assert self.forebay.reload(changed)["event"] == "reload"
        rows = self.forebay.console("show endpoints")
        assert {row["endpoint"]: row["source"] for row in rows} == self.told
        assert "unknown" not in {row["role"] for row in rows}

    def keeps_what_was_told(self) -> None:
        """The source is away."""
        until(lambda: self.forebay.events("topology_source_away"), within_s=10, what="it is told that it is away")
        assert {row["endpoint"] for row in self.forebay.console("show endpoints")} == set(self.told)
        told = [event["database"] for event in self.forebay.events("topology_source_away")]
        assert len(told) == len(set(told)), "once for each database"


@contextlib.asynccontextmanager
async def _open(address: str) -> AsyncIterator[Source]:
    source = await asyncio.to_thread(registry.build, address, Means())
    try:
        yield source
    finally:
        await source.close()


async def _until(ask: Callable[[], Awaitable[T | None]], *, within_s: float, what: Callable[[], str]) -> T:
    deadline = time.monotonic() + within_s
    while (found := await ask()) is None:
        assert time.monotonic() < deadline, f"not within {within_s} s: {what()}"
        await asyncio.sleep(POLL_S)
    return found


async def _seen(source: Source, is_wanted: Callable[[Sighting], bool], *, within_s: float, of: Cluster) -> Sighting:
    """The first sighting of this kind. Until there is one, the source may fail."""
    last: list[object] = []

    async def ask() -> Sighting | None:
        try:
            seen = await source.look()
        except SourceFailed as failed:
            last[:] = [failed]
            return None
        last[:] = [seen]
        return seen if is_wanted(seen) else None

    def what() -> str:
        return f"{last}\n" + "\n".join(node.log() for node in of.nodes.values())

    return await _until(ask, within_s=within_s, what=what)


async def _fails(source: Source, *, within_s: float) -> str:
    """What a source says that can't tell any more."""

    async def ask() -> str | None:
        try:
            await source.look()
        except SourceFailed as failed:
            return str(failed)
        return None

    return await _until(ask, within_s=within_s, what=lambda: "the source fails")


def _is_whole(seen: Sighting) -> bool:
    """One leader, and all others stream from it on its timeline."""
    others = [each for each in seen.members if each.role is Role.REPLICA and each.state == "streaming"]
    return (
        len(seen.primaries) == 1
        and len(others) == len(NAMES) - 1
        and len({each.timeline for each in seen.members}) == 1
    )


def _leads(name: str, *, above: int = 0) -> Callable[[Sighting], bool]:
    return lambda seen: [each.name for each in seen.primaries if (each.timeline or 0) > above] == [name]


async def _agrees(cluster: Cluster, rest: Sighting, etcd: Sighting) -> None:
    """Both sources tell the same, and what the servers themselves say."""
    told = [
        {(each.host, each.port, each.role, each.name, each.timeline) for each in one.members} for one in (rest, etcd)
    ]
    assert told[0] == told[1]
    assert {each.port: each.name for each in rest.members} == {node.port: name for name, node in cluster.nodes.items()}
    (leader,) = etcd.primaries
    assert etcd.holder == leader
    assert rest.lease is not None
    assert rest.lease.holder == leader.name
    assert etcd.lease is not None
    assert etcd.lease.left_s is not None
    assert 0 < etcd.lease.left_s <= TTL_S
    assert (rest.is_paused, etcd.is_paused) == (False, False)
    for each in rest.members:
        (row,) = await _ask(
            cluster.nodes[each.name or ""],
            "select pg_is_in_recovery(), system_identifier::text from pg_control_system()",
        )
        assert row[0] == (each.role is Role.REPLICA)
        assert row[1] == etcd.system_identifier
        assert (each.lag_bytes is None) == (each.role is Role.PRIMARY)
        assert each.role is Role.PRIMARY or (each.lsn or 0) > 0


async def _ask(node: Node, sql: str) -> list[tuple[object, ...]]:
    connection = await psycopg.AsyncConnection.connect(node.target.dsn(), autocommit=True)
    async with connection:
        return await (await connection.execute(sql)).fetchall()  # type: ignore[arg-type]


async def _first_writable(nodes: list[Node], *, within_s: float) -> Node:
    async def ask() -> Node | None:
        for node in nodes:
            with contextlib.suppress(psycopg.OperationalError):
                if await _ask(node, "select pg_is_in_recovery()") == [(False,)]:
                    return node
        return None

    return await _until(ask, within_s=within_s, what=lambda: "one of them is promoted")


async def _promoted(nodes: list[Node], *, within_s: float) -> tuple[Node, float]:
    return await _first_writable(nodes, within_s=within_s), time.time()


def _drill(forebay: Forebay, leader: Node) -> Report:
    """The leader is killed under load: as `forebay drill` does, and at the same moment as here."""
    with psycopg.connect(leader.target.dsn(), autocommit=True) as admin:
        admin.execute("create role app login")
        admin.execute("alter role app set synchronous_commit = on")
        admin.execute("grant create on database postgres to app")
    parameters = {"host": "127.0.0.1", "port": forebay.target.port, "dbname": "drill", "user": "app"}
    plan = Plan(how="kill", clients=8, rate=100, reads=0.5, before_s=1, after_s=1, within_s=TTL_S + 60)
    return Drill(parameters, Ledger(parameters), plan, lambda _tell: leader.kill()).run()


def _costs_what_was_under_way(found: Report, promoted_at: float) -> None:
    """And no acknowledged write, for one of the others had each."""
    print(found.text(), f"served again {found.resumed_at - promoted_at:.3f} s after the heir said that it can write")
    assert set(found.errors) <= {"57P01", "08007"}, found.errors
    assert sum(found.errors.values()) + found.sessions_lost <= POOL_SIZE
    assert found.is_sound
    assert found.resumed_at - promoted_at < SERVED_S


async def _note(source: WatchedSource, told: list[tuple[float, Sighting]]) -> None:
    async for seen in source.watch():
        told.append((time.monotonic(), seen))


@dataclass(slots=True)
class _Change:
    """Of the leader, which begins when this is made. told: what a watch has told, and when."""

    what: str
    sources: dict[str, Source]
    told: list[tuple[float, Sighting]]
    began: float = field(default_factory=time.monotonic)

    async def is_noticed(self, heir: Node) -> None:
        """Measures when each source names the heir, against the heir's own word."""
        at, *named = await asyncio.gather(
            self._writes(heir), *(self._names(heir, each) for each in self.sources.values()), self._is_told(heir)
        )
        late = {name: round(one - at, 3) for name, one in zip([*self.sources, "watch"], named, strict=True)}
        print(f"after the {self.what}, {heir.name} is named {late} s after it says itself that it can write")
        assert max(late.values()) < LATE_S, late

    async def _writes(self, heir: Node) -> float:
        await _first_writable([heir], within_s=60)
        return time.monotonic()

    async def _names(self, heir: Node, source: Source) -> float:
        async def ask() -> float | None:
            with contextlib.suppress(SourceFailed):
                if _leads(heir.name)(await source.look()):
                    return time.monotonic()
            return None

        return await _until(ask, within_s=60, what=lambda: f"{heir.name} is named after the {self.what}")

    async def _is_told(self, heir: Node) -> float:
        async def ask() -> float | None:
            return next((at for at, seen in self.told if at > self.began and _leads(heir.name)(seen)), None)

        return await _until(ask, within_s=60, what=lambda: f"the watch names {heir.name} after the {self.what}")


def _grew(before: Sighting, after: Sighting) -> None:
    """A leader that comes later can be told from one that comes back."""
    assert before.lease is not None
    assert after.lease is not None
    assert (after.lease.term or 0) > (before.lease.term or 0) > 0
    assert (after.primaries[0].timeline or 0) > (before.primaries[0].timeline or 0) > 0
