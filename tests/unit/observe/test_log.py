"""Log lines."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest
from forebay.observe.log import JsonFormatter, Log, RepeatLimit, TextFormatter, event

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
