"""What signals do and where the log goes, as PgBouncer has it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Mapping, Sequence

from forebay.control.manners import Governed, Manners, Stop
from forebay.control.source import Configuration
from forebay.observe.log import Sink, Syslog, event


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
            signal.SIGQUIT: lambda: service.ask_stop(Stop.NOW),
            signal.SIGHUP: lambda: self._reload(service),
            signal.SIGUSR1: service.begin_pause,
            signal.SIGUSR2: lambda: self._resume(service),
        }

    def _stop(self, service: Governed, how: Stop) -> None:
        if service.is_stopping:
            self.is_hurried = True
            event(logging.WARNING, "stop_hurried")
            how = Stop.NOW
        service.ask_stop(how)

    @staticmethod
    def _reload(service: Governed) -> None:
        service.reopen_log()
        service.begin_reload()

    @staticmethod
    def _resume(service: Governed) -> None:
        if service.is_stopping:
            event(logging.WARNING, "resume_ignored")
        else:
            service.begin_resume()
