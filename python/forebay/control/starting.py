"""Starts the engine and says what runs, or why it can't be."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from forebay import __version__
from forebay._engine import Engine, EngineError
from forebay.control.source import Configuration
from forebay.failure import Failure
from forebay.observe.log import event
from forebay.observe.pgbouncer_log import PGBOUNCER_VERSION


def start_engine(configuration: Configuration, inherited: Sequence[int]) -> Engine:
    """Starts the engine. Raises Failure with a hint where the cause is a common one."""
    try:
        return Engine(configuration.config.engine.to_json(), list(inherited))
    except EngineError as error:
        message, kind = error.args
        hints = {
            "address_in_use": "Stop the process that listens there, or choose another port "
            "(listen.port or metrics.address; up: --port or --metrics-port).",
            "io": 'Set engine.io = "auto", or "epoll".',
        }
        unix = configuration.config.engine.listen.unix
        if unix is not None and not unix.startswith("@") and not Path(unix).is_dir():
            hints.setdefault(kind, f"Make the folder {unix} (listen.unix); under systemd, RuntimeDirectory= does.")
        raise Failure(message, hint=hints.get(kind)) from None


def process_age_s() -> float:
    """How long ago this process was begun, in seconds: its program was loaded at once, or by whoever forked it.

    Source: proc_pid_stat(5), field 22, in ticks of the clock since the system was booted.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def tell_started(engine: Engine, configuration: Configuration, began_at: float) -> None:
    """Tells the log what runs. began_at: when the engine was begun, by the monotonic clock."""
    event(
        logging.INFO,
        "start",
        version=__version__,
        pgbouncer=PGBOUNCER_VERSION if configuration.process else None,
        driver=engine.driver,
        driver_because=engine.driver_reason,
        workers=engine.workers,
        # After an online restart it may have several sockets at an address.
        listen=",".join(dict.fromkeys(engine.listeners)),
        metrics=engine.metrics_address,
        engine_ms=round((time.monotonic() - began_at) * 1000),
        process_ms=round(process_age_s() * 1000),
    )
