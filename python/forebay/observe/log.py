"""Log lines: events with fields, as text or JSON, repeats limited and counted.

The engine's events and Python's own go the same way: `event` makes a record of the logger `forebay`, a handler of
`Log` prints it. Never a secret and never SQL text in a field.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from logging.handlers import SysLogHandler
from pathlib import Path
from typing import Final, Literal, TextIO

from forebay.observe.formats import Field, JsonFormatter, TextFormatter
from forebay.observe.pgbouncer_log import Lines, PgBouncerFormatter

# By the engine's numbers: 0 debug, 1 info, 2 warn, 3 error.
ENGINE_LEVELS: Final = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)

_LOGGER: Final = logging.getLogger("forebay")


def event(level: int, name: str, /, *, code: str | None = None, **fields: Field) -> None:
    """Logs one event. `name` is snake_case; fields are printed in their order, None ones are left out."""
    log_event(level, name, code, fields)


def log_event(level: int, name: str, code: str | None, fields: Mapping[str, Field]) -> None:
    """The same for fields whose names are data, such as those of the engine."""
    if _LOGGER.isEnabledFor(level):
        _LOGGER.log(level, name, extra={"fields": {**({"code": code} if code else {}), **fields}})


# When (seconds since 1970), level (by ENGINE_LEVELS), name, code, worker, names and values.
EngineEvent = tuple[float, int, str, str | None, int, list[tuple[str, str | int]]]


def log_engine_events(events: Sequence[EngineEvent]) -> None:
    """Logs what the engine tells, oldest first: thousands a second where each client that comes or goes has a line.

    A line costs a quarter of what one of `event` does, and all of them together one write.
    """
    lowest = _LOGGER.getEffectiveLevel()
    lines = [_EngineLine(told) for told in events if ENGINE_LEVELS[told[1]] >= lowest]
    others = [handler for handler in _LOGGER.handlers if not isinstance(handler, _StreamSink)]
    for handler in _LOGGER.handlers:
        if isinstance(handler, _StreamSink):
            handler.print(lines)
    if others:
        for record in (line.whole() for line in lines):
            for handler in others:
                if record.levelno >= handler.level:
                    handler.handle(record)


class _EngineLine(logging.LogRecord):
    """A record of what our own filters and formatters look at: the rest costs time to find out."""

    def __init__(self, told: EngineEvent) -> None:
        self.created, level, self.msg, code, worker, fields = told
        self.levelno = ENGINE_LEVELS[level]
        self.fields: dict[str, Field] = {"code": code, "worker": worker} if code else {"worker": worker}
        self.fields.update(fields)
        self.passes: bool | None = None

    def getMessage(self) -> str:  # noqa: N802  (the name is that of logging)
        """The event's name."""
        return self.msg

    def whole(self) -> logging.LogRecord:
        """The record that any handler takes."""
        record = _LOGGER.makeRecord(
            _LOGGER.name, self.levelno, "", 0, self.msg, (), None, extra={"fields": self.fields}
        )
        record.created, record.msecs, record.passes = self.created, self.created % 1 * 1000, self.passes
        return record


class RepeatLimit(logging.Filter):
    """Lets through `lines_max` equal warnings or errors a window and counts the rest.

    Equal means the same level, event and subject (pool, database, user). The first line of the next window carries
    the count as `suppressed`. At most `keys_max` kinds are told apart; when there are more, the count starts afresh.
    """

    def __init__(self, *, lines_max: int = 10, window_s: float = 10.0, keys_max: int = 4096) -> None:
        super().__init__()
        self._lines_max = lines_max
        self._window_s = window_s
        self._keys_max = keys_max
        self._seen: dict[tuple[object, ...], _Repeats] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        fields: dict[str, Field] = getattr(record, "fields", {})
        key = (record.levelno, record.getMessage(), *(fields.get(name) for name in ("pool", "database", "user")))
        if len(self._seen) >= self._keys_max and key not in self._seen:
            self._seen.clear()
        repeats = self._seen.setdefault(key, _Repeats(record.created))
        if record.created - repeats.since >= self._window_s:
            suppressed = repeats.restart(record.created) - self._lines_max
            if suppressed > 0:
                fields["suppressed"] = suppressed
        repeats.count += 1
        return repeats.count <= self._lines_max

    def counts(self) -> dict[str, int]:
        """Lines held back so far and not yet reported, by event; forgets them."""
        held: dict[str, int] = {}
        for key, repeats in self._seen.items():
            if (more := repeats.count - self._lines_max) > 0:
                held[str(key[1])] = held.get(str(key[1]), 0) + more
                repeats.count = self._lines_max
        return held


class _Repeats:
    """How often one kind of line came in the window under way."""

    __slots__ = ("count", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.count = 0

    def restart(self, now: float) -> int:
        """Begins a window; returns how many lines the last one had."""
        count, self.count, self.since = self.count, 0, now
        return count


@dataclass(frozen=True, slots=True)
class Syslog:
    """The system's log. facility: one of logging.handlers.SysLogHandler.facility_names."""

    ident: str
    facility: str
    address: str = "/dev/log"


# Standard error, a file, or the system's log.
Sink = Literal["stderr"] | Path | Syslog


class Log:
    """Where the log goes: one or several of standard error, files that can be reopened after a rotation, and syslog."""

    def __init__(self) -> None:
        self._handlers: dict[Sink, logging.Handler] = {}
        self._limit = RepeatLimit()

    def configure(self, *, level: int, form: str, sinks: Sequence[Sink] = ("stderr",)) -> None:
        """Applies settings; called at the start and after each reload.

        level: an index into ENGINE_LEVELS. form: text, json or pgbouncer. Raises OSError when a file can't be opened,
        and then changes nothing.
        """
        fresh = {sink: _handler(sink) for sink in sinks if sink not in self._handlers}
        kept = {sink: self._handlers[sink] for sink in sinks if sink in self._handlers}
        for sink, handler in (*kept.items(), *fresh.items()):
            handler.filters.clear()
            if form == "pgbouncer":
                handler.addFilter(Lines())
            handler.addFilter(_once_a_record(self._limit))
            handler.setFormatter(_formatter(form, is_bare=isinstance(sink, Syslog)))
        _LOGGER.setLevel(ENGINE_LEVELS[level])
        _LOGGER.propagate = False
        _hear_libraries()
        for handler in fresh.values():
            _LOGGER.addHandler(handler)
        gone = [sink for sink in self._handlers if sink not in kept]
        for sink in gone:
            self._drop(sink)
        self._handlers |= fresh

    def reopen(self) -> None:
        """Opens files anew under their paths, for logrotate. Raises OSError and then goes on with the old ones."""
        for sink, handler in self._handlers.items():
            if isinstance(sink, Path) and isinstance(handler, logging.StreamHandler):
                before = handler.setStream(_opened(sink))
                if before is not None:
                    before.close()

    def report_suppressed(self) -> None:
        """Logs what was held back; the service calls it now and then, so that no count is lost in silence."""
        for name, count in self._limit.counts().items():
            event(logging.INFO, "log_suppressed", of=name, suppressed=count)

    def close(self) -> None:
        """Lets go of files; lines that come later are lost."""
        for sink in list(self._handlers):
            self._drop(sink)

    def _drop(self, sink: Sink) -> None:
        handler = self._handlers.pop(sink)
        _LOGGER.removeHandler(handler)
        with contextlib.suppress(OSError):
            if isinstance(sink, Path) and isinstance(handler, logging.StreamHandler):
                handler.stream.close()
            handler.close()


class _StreamSink(logging.StreamHandler[TextIO]):
    """Standard error or a file."""

    def print(self, lines: Sequence[_EngineLine]) -> None:
        """Writes those that pass the filters, at once."""
        self.acquire()
        try:
            texts = [self.format(line) for line in lines if self.filter(line)]
            if texts:
                self.stream.write("\n".join(texts) + "\n")
                self.flush()
        except Exception:
            # As of a record that can't be printed: told to standard error, and the program goes on.
            self.handleError(lines[0].whole())
        finally:
            self.release()


class _SyslogSink(SysLogHandler):
    """Nobody listens, or no more: lines are lost, as by syslog(3)."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (the name is that of logging)
        pass


class _Library(logging.Handler):
    """Makes an event of what a library says: a line of its own form would be none that a shipper of logs can read."""

    def emit(self, record: logging.LogRecord) -> None:
        event(record.levelno, "library", logger=record.name, says=record.getMessage())


def _hear_libraries() -> None:
    """Takes the words of the libraries that forebay itself uses; those of others are their users' own matter."""
    for name in ("psycopg", "asyncio"):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, _Library) for handler in logger.handlers):
            logger.addHandler(_Library(level=logging.WARNING))
            logger.propagate = False


def _handler(sink: Sink) -> logging.Handler:
    if isinstance(sink, Path):
        return _StreamSink(_opened(sink))
    if isinstance(sink, Syslog):
        handler = _SyslogSink(address=sink.address, facility=SysLogHandler.facility_names[sink.facility])
        handler.ident = f"{sink.ident}[{os.getpid()}]: "
        handler.append_nul = False
        return handler
    return _StreamSink(sys.stderr)


def _formatter(form: str, *, is_bare: bool) -> logging.Formatter:
    if form == "pgbouncer":
        return PgBouncerFormatter(is_bare=is_bare)
    return JsonFormatter() if form == "json" else TextFormatter()


def _once_a_record(limit: RepeatLimit) -> Callable[[logging.LogRecord], bool]:
    """Counts a record once, however many handlers print it."""

    def passes(record: logging.LogRecord) -> bool:
        known: bool | None = getattr(record, "passes", None)
        if known is None:
            known = limit.filter(record)
            record.passes = known
        return known

    return passes


def _opened(path: Path) -> TextIO:
    return path.open("a", encoding="utf-8", buffering=1)
