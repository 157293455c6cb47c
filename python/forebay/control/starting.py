"""Starts the engine, or says why it can't be."""

from __future__ import annotations

from collections.abc import Sequence

from forebay._engine import Engine, EngineError
from forebay.control.source import Configuration
from forebay.failure import Failure


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
        raise Failure(message, hint=hints.get(kind)) from None
