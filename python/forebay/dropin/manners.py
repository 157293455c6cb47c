"""What signals do and where the log goes, as PgBouncer has it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from forebay.control.manners import Governed, Manners, Stop
from forebay.control.source import Configuration
from forebay.observe.log import Sink, Syslog, event

_WAITS_FOR: Final = {
    Stop.CLIENTS: "all clients disconnect",
    Stop.SERVERS: "all servers connections to be released",
}


class PgBouncerManners(Manners):
    """See the module's text. is_hurried: a second signal has cut a stop short."""

    def __init__(self, *, writes_stderr: bool, inherited: Sequence[int] = ()) -> None:
        self._writes_stderr = writes_stderr
        self.inherited = inherited
        self.is_hurried = False

    def sinks(self, configuration: Configuration) -> Sequence[Sink]:
        """Standard error unless it is quiet, and whatever the file names."""
        sinks: list[Sink] = ["stderr"] if self._writes_stderr else []
        process = configuration.process
        if configuration.log_file is not None:
            sinks.append(configuration.log_file)
        if process is not None and process.is_on("syslog"):
            sinks.append(Syslog(process.text("syslog_ident"), process.text("syslog_facility")))
        return sinks

    def signals(self, service: Governed) -> Mapping[signal.Signals, Callable[[], None]]:
        """As PgBouncer's manual has it."""
        return {
            signal.SIGTERM: lambda: self._stop(service, Stop.CLIENTS),
            signal.SIGINT: lambda: self._stop(service, Stop.SERVERS),
            signal.SIGQUIT: lambda: self._quit(service),
            signal.SIGHUP: lambda: self._reload(service),
            signal.SIGUSR1: lambda: service.begin_pause(_told_of_pause),
            signal.SIGUSR2: lambda: self._resume(service),
        }

    def _stop(self, service: Governed, how: Stop) -> None:
        number = signal.SIGTERM if how is Stop.CLIENTS else signal.SIGINT
        if service.is_stopping:
            self.is_hurried = True
            _got(number, "fast exit", " while shutting down", level=logging.WARNING)
            how = Stop.NOW
        else:
            _got(number, f"shutting down, waiting for {_WAITS_FOR[how]}")
        service.ask_stop(how)

    @staticmethod
    def _quit(service: Governed) -> None:
        _got(signal.SIGQUIT, "fast exit")
        service.ask_stop(Stop.NOW)

    @staticmethod
    def _reload(service: Governed) -> None:
        service.reopen_log()
        _got(signal.SIGHUP, "re-reading config")
        service.begin_reload()

    @staticmethod
    def _resume(service: Governed) -> None:
        if service.is_stopping:
            event(logging.WARNING, "resume_ignored")
        else:
            service.begin_resume(_told_of_resume)


def _got(number: signal.Signals, does: str, when: str = "", *, level: int = logging.INFO) -> None:
    """PgBouncer's words for what a signal does; scripts that send them look for these."""
    event(level, "signal", name=number.name, when=when, does=does)


def _told_of_pause(held: str | None) -> None:
    _got(signal.SIGUSR1, "but already paused/suspended" if held else "pausing all activity")


def _told_of_resume(held: str | None) -> None:
    _got(signal.SIGUSR2, f"continuing from {held}" if held else "but not paused/suspended")
