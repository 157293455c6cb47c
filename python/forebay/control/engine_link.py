"""The engine's outbox on the control loop: events to the log, questions to whoever answers, replies to who ordered.

All of it runs on the thread of the loop, so nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from forebay._engine import Engine
from forebay._generated.errors import internal
from forebay.admin.answer import encode_error
from forebay.admin.console import Asked
from forebay.control.claim import Claim
from forebay.control.secrets import LookupFailed
from forebay.observe.log import event, log_engine_events

# How long lines of the log wait for more of them: a loop that wakes for each costs more than to write it.
LOG_DELAY_S: Final = 0.02

# Questions under way at once, with one directory or service that judges passwords, or with all others; each holds a
# client that waits, so more would only wait longer.
QUESTIONS_MAX: Final = 1024
# How often the engine is told that the console is still at work: more often than it gives up.
EXTEND_S: Final = 10.0

FindSecret = Callable[[str, str], Awaitable[str | None]]
Judge = Callable[[Claim], Awaitable[bool]]
AnswerConsole = Callable[[Asked], Awaitable[bytes]]


@dataclass(slots=True)
class Outcome:
    """What the workers replied to one order."""

    done: int = 0
    refusals: list[str] = field(default_factory=list)
    snapshots: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Pending:
    missing: int
    outcome: Outcome
    future: asyncio.Future[Outcome]


class EngineLink:
    """Connects a running engine to the loop under which it is made."""

    def __init__(
        self,
        engine: Engine,
        *,
        find_secret: FindSecret,
        judge: Judge,
        answer_console: AnswerConsole,
        suspect: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._suspect = suspect
        self._find_secret = find_secret
        self._judge = judge
        self._answer_console = answer_console
        self._pending: dict[int, _Pending] = {}
        self._answering: set[asyncio.Task[None]] = set()
        # Statements of the console that are being answered, by worker and question.
        self._asked: dict[tuple[int, int], Asked] = {}
        # By who is asked, so that a directory that hangs takes no place from other questions.
        self._judging: defaultdict[tuple[str, int], set[asyncio.Task[None]]] = defaultdict(set)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(engine.fileno(), self.drain)
        self._loop.add_reader(engine.log_fileno(), self._drain_soon)
        self._drains_at: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Leaves the loop, after a last look at the outbox. Orders under way are cancelled."""
        self._loop.remove_reader(self._engine.fileno())
        self._loop.remove_reader(self._engine.log_fileno())
        if self._drains_at:
            self._drains_at.cancel()
        self.drain()
        for pending in self._pending.values():
            pending.future.cancel()
        for task in self._answering.union(*self._judging.values()):
            task.cancel()

    async def order(self, kind: str, argument: str | int | None = None) -> Outcome:
        """Sends a command to every worker and waits for all replies.

        kind: as Engine.command names it. A caller that stops waiting takes nothing back.
        """
        command, workers = self._engine.command(kind, argument)
        pending = _Pending(workers, Outcome(), self._loop.create_future())
        self._pending[command] = pending
        try:
            return await pending.future
        finally:
            self._pending.pop(command, None)

    def drain(self) -> None:
        """Takes all that waits in the outbox."""
        batch = self._engine.take()
        if batch.events:
            log_engine_events(batch.events)
        if batch.events_dropped:
            event(logging.WARNING, "events_dropped", count=batch.events_dropped)
        for worker, question, database, user in batch.secrets:
            self._begin(self._answering, worker, question, self._secret(worker, question, database, user))
        for worker, question, method, service, database, user, password, address in batch.verdicts:
            claim = Claim(method, service, database, user, password, address)
            self._begin(self._judging[method, service], worker, question, self._verdict(worker, question, claim))
        for worker, question, user, is_own, text, step, formats in batch.consoles:
            asked = Asked(user, text, is_own, step, formats, tell=partial(self._engine.tell_console, worker, question))
            self._begin(self._answering, worker, question, self._console(worker, question, asked))
        for called_off in batch.called_off:
            # Behind the first step of the statement that it is about, which may have come in the same batch.
            self._loop.call_soon(self._call_off, called_off)
        for database in batch.suspects:
            self._suspect(database)
        for command, kind, payload in batch.replies:
            self._settle(command, kind, payload)

    def _drain_soon(self) -> None:
        self._loop.remove_reader(self._engine.log_fileno())
        self._drains_at = self._loop.call_later(LOG_DELAY_S, self._drain_now)

    def _drain_now(self) -> None:
        self._loop.add_reader(self._engine.log_fileno(), self._drain_soon)
        self.drain()

    def _begin(
        self, under_way: set[asyncio.Task[None]], worker: int, question: int, answering: Awaitable[None]
    ) -> None:
        if len(under_way) >= QUESTIONS_MAX:
            self._engine.answer_failed(worker, question, f"{QUESTIONS_MAX} questions are under way already")
            asyncio.ensure_future(answering).cancel()
            return
        task = asyncio.ensure_future(answering)
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    async def _secret(self, worker: int, question: int, database: str, user: str) -> None:
        try:
            secret = await self._find_secret(database, user)
            # Deriving a verifier takes milliseconds that the loop does not have.
            await asyncio.to_thread(self._engine.answer_secret, worker, question, secret)
        except LookupFailed as failed:
            self._engine.answer_failed(worker, question, str(failed))
        except ValueError as error:
            # Not a secret that a login can be checked against; the engine's words name no part of it.
            event(logging.ERROR, "secret_unusable", database=database, user=user, because=str(error))
            self._engine.answer_failed(worker, question, str(error))
        except Exception as error:
            event(logging.ERROR, "secret_failed", code="FB999", error=type(error).__name__)
            self._engine.answer_failed(worker, question, f"internal error: {type(error).__name__}")

    async def _verdict(self, worker: int, question: int, claim: Claim) -> None:
        try:
            self._engine.answer_verdict(worker, question, await self._judge(claim))
        except LookupFailed as failed:
            event(
                logging.WARNING, f"{claim.method}_failed", user=claim.user, database=claim.database, because=str(failed)
            )
            self._engine.answer_failed(worker, question, str(failed))
        except Exception as error:
            event(logging.ERROR, "verdict_failed", code="FB999", error=type(error).__name__)
            self._engine.answer_failed(worker, question, f"internal error: {type(error).__name__}")

    def _call_off(self, statement: tuple[int, int]) -> None:
        if asked := self._asked.get(statement):
            asked.is_called_off.set()

    async def _console(self, worker: int, question: int, asked: Asked) -> None:
        self._asked[worker, question] = asked
        answering = asyncio.ensure_future(self._answer_console(asked))
        try:
            while not (await asyncio.wait({answering}, timeout=EXTEND_S))[0]:
                self._engine.extend_question(worker, question)
            answer = answering.result()
        except Exception as error:
            event(logging.ERROR, "console_failed", code="FB999", error=type(error).__name__)
            answer = encode_error(internal(cause=type(error).__name__))
        finally:
            answering.cancel()
            self._asked.pop((worker, question), None)
        self._engine.answer_console(worker, question, answer)

    def _settle(self, command: int, kind: str, payload: str | None) -> None:
        pending = self._pending.get(command)
        if pending is None:
            return
        if kind == "snapshot" and payload is not None:
            pending.outcome.snapshots.append(payload)
        elif kind == "refused":
            pending.outcome.refusals.append(payload or "")
        else:
            pending.outcome.done += 1
        pending.missing -= 1
        if pending.missing == 0 and not pending.future.done():
            pending.future.set_result(pending.outcome)
