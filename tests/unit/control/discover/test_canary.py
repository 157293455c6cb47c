"""What a write canary makes of what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from forebay.config.resolved import ServerTls
from forebay.config.topology import Topology
from forebay.control.discover import canary
from forebay.control.discover.canary import Canary

ONE, TWO = "10.0.0.5:5432", "10.0.0.6:5432"
SHOP = Topology("poll", "shop", (ONE, TWO), "shop", "poll", None, ServerTls("disable", None, None, None),
                1.0, 1.0, 2, 0, is_followed=False, canary_s=0.01, canary_timeout_s=0.05)  # fmt: skip


class Server:
    """Stands in for the driver and for the server behind it."""

    def __init__(self) -> None:
        self.closed = False
        self.pgconn = self.info = self
        self.backend_pid = 7
        self.waits_for: tuple[str, str] | None = ("IO", "WALSync")
        self.fails: psycopg.Error | None = None
        self.refuses: psycopg.Error | None = None
        self.answers = asyncio.Event()
        self.sent: list[str] = []

    async def connect(self, **parameters: Any) -> Server:
        if self.refuses is not None:
            raise self.refuses
        self.closed = False
        self.host = parameters["host"]
        return self

    async def execute(self, sql: bytes) -> Server:
        if b"pg_stat_activity" not in sql:
            self.sent.append(self.host)
            await self.answers.wait()
            if self.fails is not None:
                raise self.fails
        return self

    async def fetchone(self) -> tuple[str, str] | None:
        return self.waits_for

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def finish(self) -> None:
        self.closed = True


class Scene:
    """A canary, and what it told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, topology: Topology = SHOP) -> None:
        self.server = Server()
        self.events: list[tuple[str, str | None]] = []
        self.suspicions = 0
        self.told: list[tuple[str, bool | None]] = []
        monkeypatch.setattr("psycopg.AsyncConnection.connect", self.server.connect)
        monkeypatch.setattr(canary, "event", lambda _level, name, **of: self.events.append((name, of.get("because"))))
        self.canary = Canary(topology, self._suspect, lambda *told: self.told.append(told))

    def _suspect(self) -> None:
        self.suspicions += 1

    async def until(self, is_so: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not is_so():  # noqa: ASYNC110 - what is waited for is nobody's event
                await asyncio.sleep(0.005)

    def state(self, endpoint: str = ONE) -> str | None:
        return self.canary.of(endpoint)[0]


def play(monkeypatch: pytest.MonkeyPatch, story: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        scene = Scene(monkeypatch)
        scene.canary.start()
        scene.canary.follow(ONE)
        await story(scene)
        await scene.canary.close()

    asyncio.run(whole())


def test_a_commit_that_hangs_is_told_with_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """And that it is over, once each. Nothing else is sent meanwhile: each would hang as well."""

    async def story(scene: Scene) -> None:
        await scene.until(lambda: scene.state() == "late: its server waits for IO/WALSync")
        scene.server.waits_for = ("IPC", "SyncRep")
        words = "no synchronous standby confirms what was committed (SyncRep)"
        await scene.until(lambda: scene.state() == f"late: {words}")
        assert scene.server.sent == ["10.0.0.5"]
        assert scene.suspicions == 1
        assert scene.told[-1] == (ONE, False)
        scene.server.answers.set()
        await scene.until(lambda: len(scene.server.sent) > 3)
        assert scene.state() == "confirmed"
        assert scene.told[-1] == (ONE, True)
        assert scene.events == [("canary_late", "its server waits for IO/WALSync"), ("canary_late", words),
                                ("canary_confirmed", None)]  # fmt: skip
        assert scene.suspicions == 1

    play(monkeypatch, story)


def test_what_is_refused_is_no_suspicion_and_what_fails_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A right that is missing says nothing of the server; a disk that is full does, and it is told once."""

    async def story(scene: Scene) -> None:
        scene.server.answers.set()
        scene.server.fails = psycopg.errors.InsufficientPrivilege("permission denied")
        await scene.until(lambda: scene.state() == "refused: permission denied")
        scene.server.fails, scene.server.refuses = None, psycopg.OperationalError("FATAL:  too many clients")
        await scene.until(lambda: (scene.state() or "").startswith("refused: FATAL:  too many"))
        assert (scene.suspicions, scene.told[-1]) == (0, (ONE, None))
        scene.server.fails, scene.server.refuses = psycopg.errors.DiskFull("no space left"), None
        sent = len(scene.server.sent)
        await scene.until(lambda: scene.state() == "failed: no space left" and len(scene.server.sent) > sent + 3)
        assert (scene.suspicions, scene.told[-1]) == (1, (ONE, False))
        assert [name for name, _ in scene.events] == ["canary_refused", "canary_refused", "canary_failed"]

    play(monkeypatch, story)


def test_a_lost_connection_and_a_demotion_are_for_the_poll_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """They say that the endpoint is gone, or is no primary any more, and not that it can't commit."""

    async def story(scene: Scene) -> None:
        scene.server.answers.set()
        for error in (psycopg.OperationalError("server closed the connection"),
                      psycopg.errors.AdminShutdown("terminating connection"),
                      psycopg.errors.ReadOnlySqlTransaction("recovery is in progress")):  # fmt: skip
            before, scene.server.fails = scene.suspicions, error
            await scene.until(lambda before=before: scene.suspicions > before)
        assert scene.state() is None
        assert scene.events == []

    play(monkeypatch, story)


def test_the_next_primary_is_sent_one_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever hangs at the one before; of that nothing is said any more."""

    async def story(scene: Scene) -> None:
        await scene.until(lambda: (scene.state() or "").startswith("late"))
        scene.server.answers = asyncio.Event()
        scene.canary.follow(TWO)
        await scene.until(lambda: scene.server.sent[-1] == "10.0.0.6")
        scene.server.answers.set()
        await scene.until(lambda: scene.state(TWO) == "confirmed")
        assert scene.state(ONE) is None
        assert (ONE, None) in scene.told[1:]
        scene.canary.follow(None)
        await scene.until(lambda: scene.server.closed)
        sent = len(scene.server.sent)
        await asyncio.sleep(0.05)
        assert len(scene.server.sent) == sent

    play(monkeypatch, story)


def test_its_own_pause_is_nobody_else_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stood still for 10 s finds each wait too long."""
    moments = iter(range(0, 1_000_000, 10))
    monkeypatch.setattr(canary, "time", SimpleNamespace(monotonic=lambda: float(next(moments))))

    async def story(scene: Scene) -> None:
        await asyncio.sleep(0.3)
        assert scene.state() is None
        assert scene.events == []
        scene.server.answers.set()
        await scene.until(lambda: scene.state() == "confirmed")

    async def whole() -> None:
        scene = Scene(monkeypatch, replace(SHOP, canary_timeout_s=0.02))
        scene.canary.start()
        scene.canary.follow(ONE)
        await story(scene)
        await scene.canary.close()

    asyncio.run(whole())
