"""Ties a child to this process, so that it does not outlive it.

A process that is killed (`kill -9`, the out-of-memory killer) can stop nobody any more. Linux sends its children a
signal in its place, if they have asked for it (prctl(2), PR_SET_PDEATHSIG); elsewhere nothing is done, and the next
start finds the child.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def tether(send: signal.Signals) -> Callable[[], None] | None:
    """What the child runs before its program (`preexec_fn`), to be sent `send` when this process dies.

    None: there is no way. It is the death of the thread that starts the child which counts, so that only the main
    thread can; and no other may run Python at that time, whose locks the child would find taken.
    """
    if not sys.platform.startswith("linux") or threading.current_thread() is not threading.main_thread():
        return None
    # Loaded here: between fork and exec nothing may be imported.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        if prctl(_PR_SET_PDEATHSIG, int(send), 0, 0, 0) != 0 or os.getppid() != parent:
            # Without the promise, or with the parent gone before it was given, nobody would ever stop it.
            os._exit(1)

    return ask
