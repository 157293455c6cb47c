"""Log lines."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest
from forebay.observe.formats import JsonFormatter, TextFormatter
from forebay.observe.log import EngineEvent, Log, RepeatLimit, event, log_engine_events

INFO = 1


def record(name: str, level: int = logging.WARNING, at: float = 0.0, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("forebay", level, "", 0, name, (), None)
    made.created = at
    made.fields = fields
    return made


def test_a_text_line_can_be_split_at_spaces_again() -> None:
    """Values with spaces, quotes or line ends are quoted; those without are not."""
    line = TextFormatter().format(
        record("checkout_timeout", pool="orders/app", waited_ms=5003, cause='a "b"\nc', no=None)
    )
    assert line == (
        "time=1970-01-01T00:00:00.000Z level=warn event=checkout_timeout pool=orders/app waited_ms=5003"
        ' cause="a \\"b\\"\\nc"'
    )


def test_a_json_line_holds_the_same_fields() -> None:
    """Log shippers parse it."""
    line = JsonFormatter().format(record("start", logging.INFO, listen="127.0.0.1:6432", workers=2))
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.000Z", "level": "info", "event": "start", "listen": "127.0.0.1:6432", "workers": 2,
    }  # fmt: skip


def test_repeats_are_held_back_and_counted_in_the_next_window() -> None:
    """A failing server would fill the disk otherwise, and a silent limit would hide how bad it is."""
    limit = RepeatLimit(lines_max=2, window_s=10.0)
    passed = [limit.filter(record("sick", at=second, pool="a")) for second in range(7)]
    assert passed == [True, True, False, False, False, False, False]
    late = record("sick", at=10.0, pool="a")
    assert limit.filter(late)
    assert late.fields["suppressed"] == 5
    assert limit.filter(record("sick", at=3.0, pool="b")), "another pool is another subject"
    assert limit.filter(record("sick", logging.INFO, at=3.0, pool="a")), "lifecycle lines are never held back"


def test_what_was_held_back_is_reported_once() -> None:
    """When the trouble ends, no further line comes that could carry the count."""
    limit = RepeatLimit(lines_max=2, window_s=10.0)
    for second in range(7):
        limit.filter(record("sick", at=second))
    assert limit.counts() == {"sick": 5}
    assert limit.counts() == {}


def test_a_reopened_log_goes_to_the_new_file(log: Log, tmp_path: Path) -> None:
    """logrotate moves the file away and sends SIGUSR1."""
    path = tmp_path / "forebay.log"
    log.configure(level=INFO, form="text", sinks=[path])
    event(logging.INFO, "before")
    path.rename(tmp_path / "forebay.log.1")
    log.reopen()
    event(logging.INFO, "after")
    assert "event=before" in (tmp_path / "forebay.log.1").read_text()
    assert "event=after" in path.read_text()
    assert "event=before" not in path.read_text()


def test_a_log_file_that_cant_be_opened_changes_nothing(log: Log, tmp_path: Path) -> None:
    """A reload with a wrong path must not silence the log."""
    path = tmp_path / "forebay.log"
    log.configure(level=INFO, form="text", sinks=[path])
    with pytest.raises(OSError, match="No such file"):
        log.configure(level=INFO, form="text", sinks=[tmp_path / "no" / "folder" / "x.log"])
    event(logging.INFO, "still_here")
    assert "event=still_here" in path.read_text()


def test_the_level_holds_back_what_is_below_it(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    """debug lines are decisions, thousands a second."""
    stream = io.StringIO()
    log.configure(level=INFO, form="text")
    logging.getLogger("forebay").handlers[-1].setStream(stream)  # type: ignore[attr-defined]
    event(logging.DEBUG, "quiet")
    event(logging.INFO, "loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def told(name: str, level: int = 1, at: float = 1.5, **fields: str | int) -> EngineEvent:
    return (at, level, name, None, 3, list(fields.items()))


@pytest.mark.parametrize("form", ["text", "json", "pgbouncer"])
def test_a_line_of_the_engine_reads_like_any_other(form: str, log: Log, tmp_path: Path) -> None:
    """They go a shorter way, as there may be thousands a second."""
    short, long = tmp_path / "short", tmp_path / "long"
    fields: dict[str, str | int] = {"client": 7, "user": "a b", "address": "::1", "port": 9, "reason": "terminate"}
    log.configure(level=INFO, form=form, sinks=[short])
    log_engine_events([told("client_disconnected", at=1.5, **fields), told("noise", 0), told("x_y", 2, at=61.0009)])
    log.configure(level=INFO, form=form, sinks=[long])
    for name, level, at, more in (
        ("client_disconnected", logging.INFO, 1.5, fields),
        ("x_y", logging.WARNING, 61.0009, {}),
    ):
        logging.getLogger("forebay").handle(record(name, level, at, worker=3, **more))
    assert short.read_text() == long.read_text()
    assert short.read_text().count("\n") == 2


def test_engine_lines_are_limited_and_reach_handlers_of_others(log: Log, tmp_path: Path) -> None:
    """A user's own handler of the logger `forebay` sees what the log does."""
    seen: list[str] = []

    class Seeing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(
                f"{record.levelname} {record.getMessage()} {logging.Formatter('%(asctime)s').format(record)[:4]}"
            )

    path = tmp_path / "forebay.log"
    log.configure(level=INFO, form="text", sinks=[path])
    handler = Seeing(logging.WARNING)
    logging.getLogger("forebay").addHandler(handler)
    try:
        log_engine_events([told("sick", 2) for _ in range(30)] + [told("fine")])
    finally:
        logging.getLogger("forebay").removeHandler(handler)
    assert path.read_text().count("event=sick") == 10
    assert path.read_text().count("event=fine") == 1
    assert seen == ["WARNING sick 1970"] * 30


def test_a_log_that_cant_be_written_stops_nothing(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk is told to standard error, and the pooler goes on."""
    log.configure(level=INFO, form="text", sinks=[Path("/dev/full")])
    log_engine_events([told("lost")])
    assert "No space left on device" in capsys.readouterr().err


def test_what_a_library_says_is_an_event_as_any_other(tmp_path: Path) -> None:
    """Its own line in the midst of JSON stops a shipper of logs."""
    path = tmp_path / "log"
    log = Log()
    log.configure(level=INFO, form="json", sinks=[path])
    logging.getLogger("psycopg").warning("query cancellation %s", "interrupted")
    log.close()
    (line,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert (line["level"], line["event"], line["logger"]) == ("warn", "library", "psycopg")
    assert line["says"] == "query cancellation interrupted"
