"""The outbox on the loop: questions answered, orders settled."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from forebay.admin.console import Asked
from forebay.control import engine_link
from forebay.control.claim import Claim
from forebay.control.engine_link import EngineLink
from forebay.control.secrets import LookupFailed
from forebay.observe.log import Log


class FakeEngine:
    """An engine whose outbox the test fills. Its workers are two."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.answered = asyncio.Event()
        self.reading, self.writing = os.pipe()
        self.log_reading, self.log_writing = os.pipe()
        os.set_blocking(self.reading, False)
        os.set_blocking(self.log_reading, False)
        self.answers: list[tuple[Any, ...]] = []
        self.orders: list[tuple[Any, ...]] = []
        self.takes = 0
        self.suspected: list[str] = []
        self._waiting: dict[str, list[Any]] = {}

    def put(self, **what: list[Any]) -> None:
        self._waiting.update(what)
        os.write(self.writing, b"!")

    def tell(self, name: str) -> None:
        """A line for the log."""
        self._waiting.setdefault("events", []).append((0.0, 1, name, None, 0, []))
        os.write(self.log_writing, b"!")

    def fileno(self) -> int:
        return self.reading

    def log_fileno(self) -> int:
        return self.log_reading

    def take(self) -> SimpleNamespace:
        self.takes += 1
        for bell in (self.reading, self.log_reading):
            with contextlib.suppress(BlockingIOError):
                os.read(bell, 64)
        waiting, self._waiting = self._waiting, {}
        empty: dict[str, Any] = {
            "events": [], "events_dropped": 0, "secrets": [], "verdicts": [], "consoles": [], "suspects": [],
            "called_off": [],
            "replies": [],
        }  # fmt: skip
        return SimpleNamespace(**{**empty, **waiting})

    def command(self, kind: str, argument: str | int | None) -> tuple[int, int]:
        self.orders.append((kind, argument))
        return len(self.orders), 2

    def answer_secret(self, worker: int, question: int, secret: str | None) -> None:
        if secret == "malformed":
            raise ValueError("the SCRAM verifier is malformed")
        self._answer("secret", worker, question, secret)

    def answer_verdict(self, worker: int, question: int, is_right: bool) -> None:
        self._answer("verdict", worker, question, is_right)

    def answer_console(self, worker: int, question: int, messages: bytes) -> None:
        self._answer("console", worker, question, messages)

    def tell_console(self, worker: int, question: int, messages: bytes) -> None:
        self.answers.append((worker, question, messages))

    def extend_question(self, worker: int, question: int) -> None:
        self._answer("extend", worker, question)

    def answer_failed(self, worker: int, question: int, because: str) -> None:
        self._answer("failed", worker, question, because)

    def _answer(self, *answer: Any) -> None:
        self.answers.append(answer)
        self.loop.call_soon_threadsafe(self.answered.set)

    def close(self) -> None:
        for end in (self.reading, self.writing, self.log_reading, self.log_writing):
            os.close(end)


async def find(database: str, user: str) -> str | None:
    if user == "unlucky":
        raise LookupFailed("the vault is down")
    if user == "buggy":
        raise RuntimeError("password=1234")
    return {"app": "secret", "odd": "malformed"}.get(user)


async def judge(claim: Claim) -> bool:
    if claim.user == "unlucky":
        raise LookupFailed("the directory is down")
    if claim.user == "buggy":
        raise RuntimeError(f"password={claim.password}")
    return (claim.method, claim.service, claim.database, claim.address) == ("ldap", 2, "shop", "10.0.0.1")


async def console(asked: Asked) -> bytes:
    if asked.text == "BREAK":
        raise RuntimeError("secret")
    return f"{asked.user}: {asked.text} {asked.step} {asked.formats}".encode()


def run(act: Callable[[FakeEngine, EngineLink], Awaitable[None]]) -> FakeEngine:
    """Runs `act` over a link to a fresh engine."""

    async def world() -> FakeEngine:
        engine = FakeEngine()
        link = EngineLink(
            engine,
            find_secret=find,
            judge=judge,
            answer_console=console,
            suspect=engine.suspected.append,  # type: ignore[arg-type]
        )
        try:
            async with asyncio.timeout(10):
                await act(engine, link)
        finally:
            link.close()
            engine.close()
        return engine

    return asyncio.run(world())


async def answered(engine: FakeEngine, count: int) -> None:
    """Returns once the engine got so many answers."""
    while len(engine.answers) < count:
        engine.answered.clear()
        await engine.answered.wait()


def test_the_engine_is_told_that_the_console_is_still_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PAUSE may wait for hours, and the engine gives a console that says nothing up after seconds."""
    monkeypatch.setattr(engine_link, "EXTEND_S", 0.01)
    finish = asyncio.Event()

    async def act(engine: FakeEngine, link: EngineLink) -> None:
        async def slow(_: Asked) -> bytes:
            await finish.wait()
            return b"done"

        link._answer_console = slow
        engine.put(consoles=[(1, 9, "ops", False, "PAUSE", "query", [])])
        await answered(engine, 3)
        finish.set()
        await asyncio.gather(*link._answering)

    *before, last = run(act).answers
    assert set(before) == {("extend", 1, 9)}
    assert last == ("console", 1, 9, b"done")


def test_every_question_gets_exactly_one_answer() -> None:
    """A question without one is a client that hangs until its login times out."""

    async def act(engine: FakeEngine, _: EngineLink) -> None:
        users = ("app", "nobody", "unlucky", "odd", "buggy")
        engine.put(secrets=[(1, number, "shop", user) for number, user in enumerate(users)])
        await answered(engine, 5)
        engine.put(
            consoles=[(0, 7, "ops", False, "SHOW POOLS", "execute", [1]), (0, 8, "ops", False, "BREAK", "query", [])]
        )
        await answered(engine, 7)
        claims = ("app", "unlucky", "buggy")
        engine.put(
            verdicts=[(0, 10 + n, "ldap", 2, "shop", user, "hunter2", "10.0.0.1") for n, user in enumerate(claims)]
        )
        await answered(engine, 10)

    by_question = {answer[2]: answer for answer in run(act).answers}
    assert by_question[0] == ("secret", 1, 0, "secret")
    assert by_question[1] == ("secret", 1, 1, None)
    assert by_question[2] == ("failed", 1, 2, "the vault is down")
    assert by_question[3] == ("failed", 1, 3, "the SCRAM verifier is malformed")
    assert by_question[4] == ("failed", 1, 4, "internal error: RuntimeError")
    assert by_question[7] == ("console", 0, 7, b"ops: SHOW POOLS execute [1]")
    assert by_question[8][3].startswith(b"E")
    assert b"secret" not in by_question[8][3]
    assert by_question[10] == ("verdict", 0, 10, True)
    assert by_question[11] == ("failed", 0, 11, "the directory is down")
    assert by_question[12] == ("failed", 0, 12, "internal error: RuntimeError")
    assert "hunter2" not in repr(Claim("ldap", 0, "shop", "app", "hunter2", "10.0.0.1"))


def test_an_order_is_settled_when_every_worker_replied() -> None:
    """PAUSE that answers after the first worker lets the others' transactions run into the restart."""

    async def act(engine: FakeEngine, link: EngineLink) -> None:
        ordered = asyncio.ensure_future(link.order("pause", "shop"))
        await asyncio.sleep(0)
        engine.put(replies=[(1, "done", None)])
        link.drain()
        assert not ordered.done()
        engine.put(replies=[(1, "refused", "no such database"), (99, "done", None)])
        outcome = await ordered
        assert (outcome.done, outcome.refusals) == (1, ["no such database"])

    assert run(act).orders == [("pause", "shop")]


def test_questions_beyond_the_limit_are_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login storm must not pile up without end."""
    monkeypatch.setattr(engine_link, "QUESTIONS_MAX", 1)

    async def act(engine: FakeEngine, _: EngineLink) -> None:
        engine.put(secrets=[(0, 1, "shop", "app"), (0, 2, "shop", "app")])
        await answered(engine, 2)
        # Services 1 and 2 of each kind are apart: one that hangs shuts out nobody else's users.
        asked = [("ldap", 1), ("ldap", 1), ("ldap", 2), ("pam", 1)]
        engine.put(
            verdicts=[
                (0, 10 + number, method, service, "shop", "app", "x", "unix")
                for number, (method, service) in enumerate(asked)
            ]
        )
        await answered(engine, 6)

    answers = {answer[2]: answer[0] for answer in run(act).answers}
    assert answers == {1: "secret", 2: "failed", 10: "verdict", 11: "failed", 12: "verdict", 13: "verdict"}


def test_lines_of_the_log_are_taken_many_at_a_time(log: Log, tmp_path: Path) -> None:
    """A loop that wakes for each client that comes or goes takes more of a core than the clients themselves."""
    path = tmp_path / "forebay.log"
    log.configure(level=1, form="text", sinks=[path])

    async def act(engine: FakeEngine, _: EngineLink) -> None:
        for round_ in range(2):
            for number in range(10):
                engine.tell(f"told_{round_}_{number}")
                await asyncio.sleep(0)
            while f"told_{round_}_9" not in path.read_text():  # noqa: ASYNC110  (a file has no event)
                await asyncio.sleep(0.001)
        engine.tell("last")

    engine = run(act)
    names = [line.split("event=")[1].split()[0] for line in path.read_text().splitlines()]
    assert names == [f"told_{round_}_{number}" for round_ in range(2) for number in range(10)] + ["last"]
    assert engine.takes <= 6, "each round's lines, and what was left at the end"
