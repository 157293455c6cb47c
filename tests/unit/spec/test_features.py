"""The page on transaction mode claims nothing that no case shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cases import CASES, ROOT
from tests.cases.run import Row, first_difference

# On the path once tests.cases is there.
from specgen import cases, features  # isort: skip
from specgen.tables import SpecError  # isort: skip

FEATURE = {"id": "set", "name": "SET", "does": "kept", "costs": "nothing", "others": "none"}
CASE = "# a setting\nshows: set\na: set work_mem to '3MB'\na: show work_mem\n"


def read(tmp_path: Path, text: str, group: str = "persistence") -> tuple[cases.Case, ...]:
    path = tmp_path / f"{group}.txt"
    path.write_text(f"For readers.\n\n{text}")
    return tuple(cases.read_file(path))


def refused(given: dict[str, object], shown_by: tuple[cases.Case, ...]) -> str:
    with pytest.raises(SpecError) as error:
        features.feature_row(given, shown_by, ROOT)
    return str(error.value)


def test_a_row_is_counted_with_the_cases_that_show_it(tmp_path: Path) -> None:
    row = features.feature_row(FEATURE, read(tmp_path, CASE), ROOT)
    assert [case.name for case in row.cases] == ["a setting"]
    assert row.cases[0].steps == ("a: set work_mem to '3MB'", "a: show work_mem")


def test_a_row_that_nothing_shows_is_refused() -> None:
    assert "no case shows it" in refused({**FEATURE, "does": "passes"}, ())
    assert "is not there" in refused({**FEATURE, "does": "passes", "tests": ["tests/nothing.py"]}, ())


@pytest.mark.parametrize("why", ["another client only", "differs"])
def test_what_is_said_to_be_kept_must_be_shown_to_be(why: str, tmp_path: Path) -> None:
    """A case of what others see says nothing of it, nor does one that differs at the default level."""
    if why == "differs":
        given = read(tmp_path, CASE.replace("shows: set", "shows: set\ndiffers at safe: it is lost"))
    else:
        given = read(tmp_path, CASE, "isolation")
    assert "no case shows that" in refused(FEATURE, given)


def test_a_figure_must_say_how_it_was_measured(tmp_path: Path) -> None:
    given = {**FEATURE, "costs": "0.6 ms a transaction"}
    assert "measured" in refused(given, read(tmp_path, CASE))
    row = features.feature_row({**given, "measured": "by a clock"}, read(tmp_path, CASE), ROOT)
    assert "0.6 ms a transaction: by a clock." in features.costs(features.FeatureTable((row,), (), ()))


@pytest.mark.parametrize(
    "text",
    [
        CASE.replace("shows: set\n", ""),
        CASE.replace("a: set", "z: set"),
        CASE.replace("shows: set", "shows: set\ncounts: b"),
        CASE.replace("shows: set", "shows: set\ndiffers at slow: somehow"),
        CASE.replace("shows: set", "shows: set\nconversation: copy_in"),
        CASE + "servers: 2\n",
        "# nothing\nshows: set\n",
    ],
)
def test_a_case_that_is_not_understood_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError):
        read(tmp_path, text)


def test_forebay_s_rows_are_what_the_cases_say_of_themselves() -> None:
    table = features.load(ROOT / "spec", ROOT)
    rows = {row.settings: row.otherwise for row in table.poolers if row.name == "forebay"}
    assert set(rows) == {"`fast`", "`safe`", "`strict`"}
    assert rows["`safe`"] == {case.name for case in CASES if case.difference("safe")} != set()


def test_what_was_measured_of_others_names_cases_that_are_there() -> None:
    """A case that was renamed or changed its kind would be counted for nothing."""
    row = {"name": "another", "settings": "its own", "measured": "never", "otherwise": ["no such case"]}
    with pytest.raises(SpecError, match="measure again"):
        features.pooler_row(row, CASES)


def test_a_difference_is_told_where_it_begins_and_counted_in_its_group() -> None:
    assert first_difference([1, 2], [1, 2]) == ""
    assert first_difference([1, 2], [1, 3]) == "2 in place of 3"
    assert first_difference([1], [1, 3]) == "None in place of 3"
    assert first_difference([1, 3], [1]) == "3 in place of None"
    assert Row("x", "y", {"a time zone": "", "several Syncs in flight": ""}).counts() == [1, 0, 0, 1, 2]
