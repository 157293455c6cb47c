"""A web server that answers as a test wants it, well or badly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

HEAD_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Request:
    """Names of headers are in small letters."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """body: bytes, or what is written as JSON. length: other than the true one, if given."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None

    def encoded(self) -> bytes:
        """As it goes over the wire."""
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        headers = {"content-length": len(body) if self.length is None else self.length, **self.headers}
        lines = [f"HTTP/1.1 {self.status} As told", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


Answer = Callable[[Request], Awaitable[Reply]]


@dataclass(slots=True)
class Web:
    """Where it listens, and what it has been asked."""

    port: int
    requests: list[Request] = field(default_factory=list)

    @property
    def host(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Web]:
    """A server for as long as the block lasts; an answer may take as long."""
    at_work: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        at_work.add(task)
        try:
            while (request := await _read(reader)) is not None:
                web.requests.append(request)
                writer.write((await answer(request)).encoded())
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            at_work.discard(task)
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0, ssl=tls, limit=HEAD_BYTES_MAX)
    web = Web(server.sockets[0].getsockname()[1])
    try:
        yield web
    finally:
        server.close()
        for task in list(at_work):
            task.cancel()
        await asyncio.gather(*at_work)


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    method, path, _ = first.split(" ")
    return Request(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))
