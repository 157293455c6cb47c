"""What suites say is read as they mean it, and compared without mercy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.software import compare, results
from tests.software.registry import SOFTWARE
from tests.software.shape import Reason, Result, Results, Software

PASSED, FAILED, SKIPPED = Result("passed"), Result("failed", "why"), Result("skipped")


def test_junit_tells_all_kinds(tmp_path: Path) -> None:
    """An error in a fixture's end counts, though the test itself passed before."""
    (tmp_path / "r.xml").write_text(
        '<testsuites><testsuite><testcase classname="a.B" name="good"/>'
        '<testcase classname="a.B" name="bad"><failure message="line one&#10;line two"/></testcase>'
        '<testcase classname="a.B" name="left"><skipped message="not here"/></testcase>'
        '<testcase classname="a.B" name="good"><error message="at its end"/></testcase>'
        "</testsuite></testsuites>"
    )
    assert results.junit(tmp_path / "r.xml") == {
        "a.B::good": Result("failed", "at its end"),
        "a.B::bad": Result("failed", "line one"),
        "a.B::left": Result("skipped", "not here"),
    }


def test_go_tells_tests_and_packages_that_can_t_be_built() -> None:
    """A package that is not built has no tests that fail; nobody would miss them."""
    events = [
        {"Action": "output", "Package": "p", "Test": "TestA", "Output": "=== RUN TestA\n"},
        {"Action": "output", "Package": "p", "Test": "TestA", "Output": "    a_test.go:7: wrong\n"},
        {"Action": "fail", "Package": "p", "Test": "TestA"},
        {"Action": "fail", "Package": "p"},
        {"Action": "pass", "Package": "q", "Test": "TestB/sub"},
        {"Action": "skip", "Package": "q", "Test": "TestC"},
        {"Action": "pass", "Package": "q", "Test": "TestD/in='/tmp/TestD1219904627/001/a.conf'"},
        {"Action": "pass", "Package": "q"},
        {"Action": "output", "Package": "broken", "Output": "undefined: x\n"},
        {"Action": "fail", "Package": "broken"},
    ]
    assert results.go_events("some words\n" + "\n".join(map(json.dumps, events))) == {
        "p::TestA": Result("failed", "a_test.go:7: wrong"),
        "q::TestB/sub": Result("passed"),
        "q::TestC": Result("skipped"),
        "q::TestD/in='/tmp/TestD/001/a.conf'": Result("passed"),
        "broken::(package)": Result("failed", "undefined: x"),
    }


def test_pg_regress_tells_single_tests_and_groups(tmp_path: Path) -> None:
    """Groups are indented, and a failed test names its time too."""
    (tmp_path / "char.out").write_text("in /tmp/one/results: wrong")
    (tmp_path / "boolean.out").write_text("what passes may say what it wants")
    text = """\
test tablespace                   ... ok          213 ms
parallel group (2 tests):  char boolean
     boolean                      ... ok           40 ms
     char                         ... FAILED       27 ms
"""
    assert results.regress(text, tmp_path, "/tmp/one") == {
        "tablespace": PASSED,
        "boolean": PASSED,
        "char": Result("failed", "27 ms", "in /results: wrong"),
    }


@pytest.mark.parametrize(
    ("through", "reasons", "unexplained", "stale"),
    [
        ({"a": PASSED, "b": FAILED}, [], [], []),
        ({"a": FAILED, "b": FAILED}, [], ["a"], []),
        ({"a": PASSED, "b": Result("failed", "why", "said more")}, [], ["b"], []),
        ({"a": PASSED, "b": Result("failed", "another time")}, [], [], []),
        ({"a": SKIPPED, "b": FAILED}, [], ["a"], []),
        ({"b": FAILED}, [], ["a"], []),
        ({"a": PASSED, "b": PASSED}, [], ["b"], []),
        ({"a": FAILED, "b": FAILED}, [Reason("known", ("a",), is_certain=True)], [], []),
        ({"a": PASSED, "b": FAILED}, [Reason("known", ("a",), is_certain=True)], [], ["a"]),
        ({"a": PASSED, "b": FAILED}, [Reason("known", ("a",), is_certain=False)], [], []),
        ({"a": PASSED, "b": FAILED}, [Reason("known", ("gone",), is_certain=True)], [], ["gone"]),
    ],
)
def test_what_differs_must_be_known_and_what_is_known_must_differ(
    through: Results, reasons: list[Reason], unexplained: list[str], stale: list[str]
) -> None:
    """A list that may hold too much hides the next bug."""
    found = compare.compare({"a": PASSED, "b": FAILED}, through, reasons)
    assert [difference.test for difference in found.unexplained] == unexplained
    assert list(found.stale) == stale
    assert found.is_good == (not unexplained and not stale)


def test_a_suite_that_ran_nothing_is_not_good() -> None:
    """Nothing differs between two runs that did not start."""
    assert not compare.compare({}, {}, []).is_good


@pytest.mark.parametrize("software", SOFTWARE, ids=lambda software: software.name)
def test_a_test_that_may_differ_has_one_reason(software: Software) -> None:
    """Of two, one would be out of date."""
    tests = [test for reason in software.known for test in reason.tests]
    assert len(tests) == len(set(tests))
