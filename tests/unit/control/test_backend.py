"""Orders of the console: how long they may take, and what becomes of them when nobody waits for their end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from forebay.admin.backend import Refused
from forebay.control import backend
from forebay.control.backend import RunningBackend
from forebay.control.engine_link import Outcome

WATCHED = '{"worker":0,"clients":[%s],"servers":[],"pools":[],"paused":[],"disabled":[]}'
CONSOLE = (
    '{"id":1,"user":"ops","database":"pgbouncer","application_name":"","state":"idle","address":"unix","port":0,'
    '"age_us":0,"request_us":0,"wait_us":0,"server":null,"tls":"","prepared_statements":0}'
)


class FakeLink:
    """An engine of one worker. SUSPEND takes as long as the test wants, or until RESUME."""

    def __init__(self) -> None:
        self.is_watched = True
        self.is_flushed = asyncio.Event()
        self.orders: list[str] = []
        self._is_resumed = False

    async def order(self, kind: str, _argument: str | int | None) -> Outcome:
        if kind == "snapshot":
            return Outcome(snapshots=[WATCHED % (CONSOLE if self.is_watched else "")])
        self.orders.append(kind)
        if kind == "suspend":
            await self.is_flushed.wait()
            if self._is_resumed:
                return Outcome(refusals=["RESUME came before all was written"])
        elif kind == "resume":
            self._is_resumed = True
            self.is_flushed.set()
        return Outcome(done=1)


def running(suspend_timeout: float | None, *, is_moving: bool = False) -> tuple[RunningBackend, FakeLink]:
    """A backend; in PgBouncer's place with its setting."""
    process = None if suspend_timeout is None else SimpleNamespace(number=lambda _: suspend_timeout)
    unused = cast("Any", None)
    made = RunningBackend(
        unused, configuration=lambda: cast("Any", SimpleNamespace(process=process)), reload=unused, set_setting=unused,
        shutdown=unused, is_stopping=lambda: False, endpoints=list, switchovers=unused,
        is_moving=lambda: is_moving,
    )  # fmt: skip
    link = FakeLink()
    made.link = cast("Any", link)
    return made, link


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "LOOK_S", 0.01)


@pytest.mark.parametrize(("limit_s", "is_dropped"), [(0.05, True), (0.0, False)])
def test_suspend_drops_who_does_not_read_when_its_time_is_up(limit_s: float, is_dropped: bool) -> None:
    """0 is no limit, as with PgBouncer: nobody is dropped for it."""

    async def suspend() -> list[str]:
        made, link = running(limit_s)
        suspending = asyncio.ensure_future(made.suspend())
        await asyncio.wait({suspending}, timeout=10 if is_dropped else 0.3)
        link.is_flushed.set()
        await suspending
        return link.orders

    assert asyncio.run(suspend()) == ["suspend", *(["drop_unflushed"] if is_dropped else [])]


@pytest.mark.parametrize("is_flushed", [True, False])
def test_suspend_is_undone_when_no_console_is_left(is_flushed: bool) -> None:
    """An operator whose session breaks before the answer can't know that all clients are held."""

    async def suspend() -> list[str]:
        made, link = running(0.0)
        suspending = asyncio.ensure_future(made.suspend())
        link.is_watched = False
        if is_flushed:
            link.is_flushed.set()
            await suspending
        else:
            with pytest.raises(Refused):
                await asyncio.wait_for(suspending, 10)
        return link.orders

    assert asyncio.run(suspend())[:2] == ["suspend", "resume"]


@pytest.mark.parametrize("order", ["pause", "resume", "disable", "enable"])
def test_what_holds_on_is_refused_while_another_process_takes_over(order: str) -> None:
    """It has been told what is paused when it started: it would serve clients of a database that is paused since."""
    made, link = running(None, is_moving=True)
    with pytest.raises(Refused, match="another process is taking over"):
        asyncio.run(getattr(made, order)("app"))
    assert not link.orders
