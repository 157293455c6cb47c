"""What a service does as `forebay run` does it, and a drop-in for another pooler may do otherwise.

| signal | does |
|---|---|
| TERM | stops; transactions may end (limits.drain_timeout) |
| INT | stops quickly; a second one at once |
| QUIT | stops at once |
| HUP | reloads |
| USR1 | opens the log's file anew |
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Protocol

from forebay.control.source import Configuration
from forebay.observe.log import Sink


class Stop(Enum):
    """How to stop; a later request may only be quicker."""

    # Once all clients have left by themselves; no new ones come.
    CLIENTS = 1
    # Once no server is in use; who waits for one, or asks for one, is sent away.
    SERVERS = 2
    # As transactions end, within a limit.
    DRAIN = 3
    FAST = 4
    NOW = 5

    @property
    def waits_without_limit(self) -> bool:
        """Whether it lasts for as long as clients want."""
        return self in (Stop.CLIENTS, Stop.SERVERS)


class Governed(Protocol):
    """What signals may have a service do."""

    @property
    def is_stopping(self) -> bool:
        """Whether a stop was asked for."""

    def ask_stop(self, how: Stop) -> None:
        """Begins to stop, or hurries a stop that is under way."""

    def begin_reload(self) -> None:
        """Reads the configuration anew; what comes of it is logged."""

    def reopen_log(self) -> None:
        """Opens the log's files anew."""

    def begin_pause(self, told: Callable[[str | None], None]) -> None:
        """Holds new requests. told: hears before what holds all of them already, PAUSE or SUSPEND."""

    def begin_resume(self, told: Callable[[str | None], None]) -> None:
        """Undoes a pause. told: hears before what it undoes, PAUSE or SUSPEND, if there is anything."""


class Manners:
    """The manners of `forebay run`.

    inherited: descriptors that a service manager has bound, in place of the addresses of the configuration.
    """

    inherited: Sequence[int] = ()

    def sinks(self, configuration: Configuration) -> Sequence[Sink]:
        """Where the log goes."""
        return ("stderr",) if configuration.log_file is None else (configuration.log_file,)

    def signals(self, service: Governed) -> Mapping[signal.Signals, Callable[[], None]]:
        """What each signal has the service do."""
        return {
            signal.SIGTERM: lambda: service.ask_stop(Stop.DRAIN),
            signal.SIGINT: lambda: service.ask_stop(Stop.FAST),
            signal.SIGQUIT: lambda: service.ask_stop(Stop.NOW),
            signal.SIGHUP: service.begin_reload,
            signal.SIGUSR1: service.reopen_log,
        }
