"""Several addresses that can each answer: who answered last is asked first, others join in when that is slow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from forebay.control.discover.http import NoAnswer
from forebay.control.discover.member import SourceFailed

T = TypeVar("T")

# How long one that is asked has for itself; less where there are many, so that all are asked in half the timeout.
HEAD_START_S: Final = 0.2
# Causes that a message tells one by one.
TOLD_MAX: Final = 4
# Where all of them refuse us.
LOGIN_HINT: Final = "Check the user and the password in its address."


class Turns:
    """hosts: `host:port` each, at least one. kind: of the source, for messages. login_hint: for who is not let in."""

    def __init__(self, hosts: Sequence[str], *, kind: str, timeout_s: float, login_hint: str = LOGIN_HINT) -> None:
        self._hosts = list(hosts)
        self._kind = kind
        self._timeout_s = timeout_s
        self._login_hint = login_hint
        self._head_start_s = min(HEAD_START_S, timeout_s / 2 / len(hosts))

    async def ask(self, question: Callable[[str], Awaitable[T]]) -> tuple[str, T]:
        """Who answered, and what. The timeout is that of each for all of the question. Raises SourceFailed."""
        waiting = list(self._hosts)
        running: dict[asyncio.Future[T], str] = {}
        causes: dict[str, NoAnswer] = {}
        try:
            while waiting or running:
                if waiting:
                    host = waiting.pop(0)
                    running[asyncio.ensure_future(self._in_time(question, host))] = host
                alone_s = self._head_start_s if waiting else None
                done, _ = await asyncio.wait(running, timeout=alone_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    host = running.pop(task)
                    try:
                        answer = task.result()
                    except NoAnswer as none:
                        causes[host] = none
                        continue
                    self._prefer(host)
                    return host, answer
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        raise self._failed(causes)

    async def _in_time(self, question: Callable[[str], Awaitable[T]], host: str) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await question(host)
        except TimeoutError:
            raise NoAnswer(f"no answer within {self._timeout_s:g} s") from None

    def _prefer(self, host: str) -> None:
        self._hosts.remove(host)
        self._hosts.insert(0, host)

    def _failed(self, causes: dict[str, NoAnswer]) -> SourceFailed:
        told = [f"{host}: {cause}" for host, cause in list(causes.items())[:TOLD_MAX]]
        more = len(causes) - len(told)
        text = "; ".join(told) + (f"; and {more} more" if more else "")
        statuses = {cause.status for cause in causes.values()}
        hints = {cause.hint for cause in causes.values()}
        hint = self._login_hint if statuses <= {400, 401, 403} else hints.pop() if len(hints) == 1 else None
        return SourceFailed(f"{self._kind} gave no answer ({text})", hint=hint)
