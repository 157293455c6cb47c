"""The ways out that wait for others, without a limit: PgBouncer's WAIT_FOR_CLIENTS and WAIT_FOR_SERVERS.

Both close the TCP listeners at once, so that a process which shares the port gets every new client; the Unix socket
stays for the console.
"""

from __future__ import annotations

import asyncio
from typing import Final

from forebay.control.engine_link import EngineLink

LOOK_S: Final = 0.25


async def clients_left(link: EngineLink) -> None:
    """Returns once no client is left but those of the console."""
    await link.order("close")


async def servers_free(link: EngineLink) -> None:
    """Returns once no server is in use. Who waits for one is sent away; who has one may go on until it is released."""
    closed = asyncio.ensure_future(link.order("close"))
    paused = asyncio.ensure_future(link.order("pause"))
    try:
        while not paused.done():
            await link.order("shed")
            await asyncio.wait({paused}, timeout=LOOK_S)
    finally:
        closed.cancel()
        paused.cancel()
