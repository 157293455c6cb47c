"""What suites say of their tests, as one kind of table: JUnit's XML, `go test -json`, pg_regress."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.software.shape import Result, Results, Status

# Where a test is told of twice, what is worse counts: its teardown may fail after it has passed.
_WORSE: dict[Status, int] = {"skipped": 0, "passed": 1, "failed": 2}

_MESSAGE_LENGTH_MAX = 300


def _add(results: Results, name: str, status: Status, message: str | None = None) -> None:
    lines = [line.strip() for line in (message or "").splitlines() if line.strip()]
    found = Result(status, lines[0][:_MESSAGE_LENGTH_MAX] if lines else "")
    before = results.get(name)
    if before is None or _WORSE[before.status] < _WORSE[status]:
        results[name] = found


def junit(path: Path) -> Results:
    """Of a file that pytest, Surefire, Node's test runner or Django's XML runner wrote."""
    results: Results = {}
    for case in ET.parse(path).getroot().iter("testcase"):
        name = "::".join(part for part in (case.get("classname"), case.get("name")) if part)
        trouble = next((child for child in case if child.tag in ("failure", "error")), None)
        skipped = case.find("skipped")
        if trouble is not None:
            _add(results, name, "failed", trouble.get("message") or trouble.text)
        elif skipped is not None:
            _add(results, name, "skipped", skipped.get("message"))
        else:
            _add(results, name, "passed")
    return results


# Folders that Go makes for a test are named anew in each run, and some tests are named by them.
_PRIVATE = re.compile(r"\d{6,}(?=/\d{3}/)")


def go_events(text: str) -> Results:
    """Of `go test -json`. A package that fails outside its tests counts as a test that failed."""
    results: Results = {}
    said: dict[str, list[str]] = {}
    actions: dict[str, Status] = {"pass": "passed", "fail": "failed", "skip": "skipped"}
    for line in text.splitlines():
        if not line.startswith("{"):
            continue
        event = json.loads(line)
        package = str(event.get("Package") or event.get("ImportPath") or "")
        test = _PRIVATE.sub("", event.get("Test", "(package)"))
        name = f"{package}::{test}"
        if event["Action"] in ("output", "build-output"):
            said.setdefault(name, []).append(event["Output"])
        elif event["Action"] in actions:
            status = actions[event["Action"]]
            fails = (other for other, result in results.items() if result.status == "failed")
            has_failed_test = any(other.startswith(f"{package}::") for other in fails)
            if "Test" in event or (status == "failed" and not has_failed_test):
                output = [text for text in said.get(name, []) if not text.lstrip().startswith(("===", "---"))]
                _add(results, name, status, "".join(output))
    return results


# "test boolean ... ok 34 ms", and in a group only "     char ... FAILED 27 ms".
_REGRESS = re.compile(r"^(?:test )? *(\w+) +\.\.\. (ok|FAILED|failed)\b(.*)", re.MULTILINE)


def regress(text: str, outputs: Path, folder: str) -> Results:
    """Of pg_regress up to PostgreSQL 15, with what tests that fail have said: a file of `outputs` each.

    folder: the run's own, whose name is taken out of them.
    """
    results: Results = {}
    for name, word, rest in _REGRESS.findall(text):
        if word == "ok":
            results[name] = Result("passed")
            continue
        output = outputs / f"{name}.out"
        said = output.read_text(errors="replace").replace(folder, "") if output.exists() else ""
        results[name] = Result("failed", rest.strip(), said)
    return results
