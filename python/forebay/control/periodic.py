"""What the running service does again and again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from forebay.observe.log import event

STALL_LOOK_S: Final = 0.5
# Lateness of the loop from which it is told; what a busy machine does to it stays below.
STALLED_S: Final = 2.0


async def tell_stalls() -> None:
    """Logs when the loop could not run for long: a hook held the interpreter's lock, or blocked the loop itself."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(STALL_LOOK_S)
        late_s = time.monotonic() - before - STALL_LOOK_S
        if late_s > STALLED_S:
            hint = "queries went on; the console, reloads and logins that need a lookup waited"
            event(logging.WARNING, "python_stalled", seconds=round(late_s, 1), hint=hint)


async def every(seconds: float, act: Callable[[], None]) -> None:
    """Calls `act` again and again; a failure is logged and costs one turn."""
    while True:
        await asyncio.sleep(seconds)
        try:
            act()
        except Exception as error:
            event(logging.ERROR, "periodic_failed", code="FB999", error=f"{type(error).__name__}: {error}")
