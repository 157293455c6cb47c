"""etcd's v3 API over its HTTP gateway: calls to whichever of several servers answers, logins, watches.

Keys and values are base64 there, and 64-bit numbers are texts. What keys mean is for those who ask. Source: etcd
documentation, "Why gRPC gateway".
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any, Final

import msgspec

from forebay.config.source_address import Address
from forebay.control.discover.http import Http, NoAnswer, T, tls_of
from forebay.control.discover.member import SourceFailed
from forebay.control.discover.turns import LOGIN_HINT, Turns

PORT: Final = 2379
PLAIN, SECURE = "etcd", "etcd+https"
# What it says to who shows a certificate with a name while it has users.
_NAMED: Final = "CommonName of client"
_NAMED_HINT: Final = (
    "Name a certificate without a common name (CN): etcd's gateway takes no other one while its users have to log in."
)
# A watch that was ended is not begun again before that.
AGAIN_S: Final = 1.0


class Key(msgspec.Struct):
    """A key as etcd tells of it."""

    key: str
    value: str = ""
    create_revision: str = "0"
    mod_revision: str = "0"
    lease: str = "0"

    @property
    def text(self) -> str:
        """Its value."""
        return plain(self.value)

    @property
    def name(self) -> str:
        """The whole of it."""
        return plain(self.key)


class Header(msgspec.Struct):
    """Of the whole store."""

    revision: str = "0"


class _Token(msgspec.Struct):
    token: str


class _Error(msgspec.Struct):
    error: str = ""


class _Event(msgspec.Struct):
    kv: Key


class _Watched(msgspec.Struct):
    header: Header
    canceled: bool = False
    events: list[_Event] = []


class _Line(msgspec.Struct):
    result: _Watched


class Gateway:
    """The servers of one etcd. Belongs to one event loop. Reads certificates: make it on another thread."""

    def __init__(self, address: Address, *, timeout_s: float, login_hint: str = LOGIN_HINT) -> None:
        hosts = [each.at(PORT) for each in address.hosts]
        self._turns = Turns(hosts, kind="etcd", timeout_s=timeout_s, login_hint=login_hint)
        self._scheme = "https" if address.scheme == SECURE else "http"
        self.http = Http(timeout_s=timeout_s, tls=partial(tls_of, address) if self._scheme == "https" else None)
        self._user, self._password = address.user, address.password
        self._token: str | None = None

    async def ask(self, question: Callable[[str], Awaitable[T]]) -> tuple[str, T]:
        """Who answered, and what. Raises SourceFailed."""
        return await self._turns.ask(question)

    async def call(self, path: str, body: Any, of: type[T]) -> T:
        """The answer of whoever answers first; done twice, the call must be as good as once. Raises SourceFailed."""
        _, answer = await self._turns.ask(lambda host: self.post(host, path, body, of))
        return answer

    async def post(self, host: str, path: str, body: Any, of: type[T]) -> T:
        """The answer of one of them. Raises NoAnswer."""
        url = f"{self._scheme}://{host}/v3/{path}"
        try:
            return await self._post(url, body, of, await self._login(host))
        except NoAnswer as none:
            if self._token is None or none.status not in (400, 401, 403):
                raise
        # Tokens end after minutes, or when the user is changed.
        self._token = None
        return await self._post(url, body, of, await self._login(host))

    async def _post(self, url: str, body: Any, of: type[T], headers: dict[str, str]) -> T:
        """With what etcd says where it refuses."""
        try:
            return await self.http.post(url, body, of, headers=headers)
        except NoAnswer as none:
            if _NAMED in none.said:
                raise NoAnswer("it does not accept our certificate (it has a common name)", hint=_NAMED_HINT) from None
            if words := _words_of(none.said):
                raise NoAnswer(f"{none}: {words}", status=none.status, hint=none.hint) from None
            raise

    async def changes(self, host: str, prefix: str, revision: int, *, silence_s: float) -> AsyncGenerator[int, None]:
        """Revisions at which keys below the folder changed after `revision`; ends when nothing comes for silence_s.

        Raises SourceFailed.
        """
        asked = {"create_request": {**below(prefix), "start_revision": str(revision + 1)}}
        lines = self.http.lines(
            f"{self._scheme}://{host}/v3/watch", asked, _Line, headers=await self._login(host), silence_s=silence_s
        )
        try:
            async with contextlib.aclosing(lines):
                async for line in lines:
                    if line.result.canceled:
                        # The revision is gone from the store, or the right to watch: then it is so again at once.
                        await asyncio.sleep(AGAIN_S)
                        return
                    if line.result.events:
                        yield number(line.result.header.revision)
        except NoAnswer as none:
            self._token = None
            raise SourceFailed(f"the watch at etcd {host} ended: {none}") from None

    async def close(self) -> None:
        """Closes connections."""
        await self.http.close()

    async def _login(self, host: str) -> dict[str, str]:
        """The header that proves who asks; empty without a user."""
        if self._user is None:
            return {}
        if self._token is None:
            login = {"name": self._user, "password": self._password.text if self._password else ""}
            answer = await self._post(f"{self._scheme}://{host}/v3/auth/authenticate", login, _Token, {})
            self._token = answer.token
        return {"authorization": self._token}


def _words_of(said: str) -> str | None:
    """Of an error that etcd itself has written."""
    try:
        words = msgspec.json.decode(said, type=_Error).error
    except msgspec.DecodeError:
        return None
    return words if words.startswith("etcdserver: ") and words.isprintable() else None


def below(folder: str) -> dict[str, str]:
    """A range of all keys below a folder: 0 follows the slash."""
    return {"key": encoded(f"{folder}/"), "range_end": encoded(f"{folder}0")}


def encoded(text: str) -> str:
    """As keys and values are written."""
    return base64.b64encode(text.encode()).decode()


def plain(text: str) -> str:
    """What was encoded; empty where it was not."""
    try:
        return base64.b64decode(text).decode(errors="replace")
    except ValueError:
        return ""


def number(text: str) -> int:
    """A 64-bit number; 0 for anything else."""
    return int(text) if text.lstrip("-").isdecimal() and len(text) < 21 else 0
