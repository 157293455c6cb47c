"""What `run` and `up` share: a service on an event loop, and its failures as sentences."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from forebay._engine import Engine
from forebay.config import render
from forebay.control.front import let_in
from forebay.control.service import Service
from forebay.control.source import ConfigurationRefused, ConfigurationSource
from forebay.control.succession import Successor
from forebay.failure import Failure

Started = Callable[[Engine], Awaitable[None]]


def serve(
    source: ConfigurationSource,
    *,
    load: Sequence[str] = (),
    started: Started | None = None,
    watch: Callable[[], None] | None = None,
    successor: Successor | None = None,
    gives_place: bool = False,
    tried: str | None = None,
) -> None:
    """Serves until a signal or the console stops it.

    started: called once clients can connect. watch: called about once a second from then on. successor: it takes the
    place of a running process. gives_place: another process may take its place. tried: a database that opens a server
    by itself, which must succeed before `started`.

    Raises Failure for a configuration that can't be used and for a start that fails.
    """
    try:
        service = Service(source, load=load, watch=watch, successor=successor, gives_place=gives_place)
        asyncio.run(_serve(service, started or _nothing, tried))
    except Failure as failure:
        if successor is not None:
            successor.gives_up(failure.message)
        raise
    except ConfigurationRefused as refused:
        raise Failure(
            f"the configuration can't be used\n{render(refused.findings).rstrip()}",
            hint="`forebay check` prints the same findings; `forebay init` writes a sample to begin with.",
        ) from None


async def _serve(service: Service, started: Started, tried: str | None) -> None:
    async def begun(engine: Engine) -> None:
        if tried is not None:
            await let_in(service.snapshot, tried)
        await started(engine)

    await service.run(started=begun)


async def _nothing(_: Engine) -> None:
    pass
