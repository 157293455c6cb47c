"""The published tables are those of the raw results beside them, and what they say of "moved" is what it claims."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BENCHES = ROOT / "benches"


def test_the_page_has_the_tables_of_the_published_results() -> None:
    """A figure that was changed by hand, or left behind by a new run, is one that nobody has measured."""
    done = subprocess.run(
        [sys.executable, BENCHES / "publish.py", "--check"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("alone", "again", "beside", "moved"),
    [
        (1.0, 1.0, 1.05, False),
        (1.0, 1.0, 1.2, True),
        # Two equal runs differ by more than that.
        (1.0, 1.4, 1.5, False),
        (1.0, 1.1, 1.4, True),
        (1.0, 1.0, 0.5, False),
    ],
)
def test_a_load_is_moved_by_more_than_it_moves_by_itself(
    monkeypatch: pytest.MonkeyPatch, alone: float, again: float, beside: float, moved: bool
) -> None:
    monkeypatch.syspath_prepend(str(BENCHES))
    from measuring.tables import is_moved

    assert is_moved(alone, again, beside) is moved


def test_results_without_a_place_in_the_page_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHES))
    import publish

    (tmp_path / "one.jsonl").write_text("")
    with pytest.raises(ValueError, match="one"):
        publish.written("no place", tmp_path)
    assert "<!-- /results -->" in publish.written("<!-- results: one -->\nold\n<!-- /results -->", tmp_path)
