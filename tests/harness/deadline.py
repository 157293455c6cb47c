"""Waiting for something that must come, never for a time to pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.005


def until(condition: Callable[[], T], *, within_s: float, what: str) -> T:
    """Asks again and again until `condition` holds; returns what it returned.

    Raises AssertionError when it does not hold in time: `what` says what was waited for.
    """
    deadline = time.monotonic() + within_s
    while True:
        if found := condition():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what}")
        time.sleep(POLL_S)
