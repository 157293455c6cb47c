"""The two runs of a suite side by side, and the closed list of what may differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tests.software.shape import Reason, Results, Status


@dataclass(frozen=True, slots=True)
class Difference:
    """A test whose status is not the same, or its output. None: it was not run that way."""

    test: str
    direct: Status | None
    through: Status | None
    message: str = ""

    def __str__(self) -> str:
        return f"{self.test}: {self.direct or 'not run'} direct, {self.through or 'not run'} through: {self.message}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """explained: by reason, how many tests. stale: entries of the list that did not differ."""

    tests: int
    passed_direct: int
    passed_through: int
    explained: dict[str, int]
    unexplained: tuple[Difference, ...]
    stale: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether every difference is on the list, and everything on the list differs."""
        return self.tests > 0 and not self.unexplained and not self.stale


def differences(direct: Results, through: Results) -> list[Difference]:
    """Tests whose status or output differs, in the order of their names."""
    found = []
    for test in sorted({*direct, *through}):
        one, other = direct.get(test), through.get(test)
        if one is None or other is None or (one.status, one.output) != (other.status, other.output):
            message = " | ".join(result.message for result in (one, other) if result and result.message)
            found.append(Difference(test, one and one.status, other and other.status, message))
    return found


def compare(direct: Results, through: Results, reasons: Iterable[Reason]) -> Comparison:
    """What a suite's two runs say together."""
    by_test = {test: reason for reason in reasons for test in reason.tests}
    explained: dict[str, int] = {}
    unexplained = []
    seen = set()
    for difference in differences(direct, through):
        reason = by_test.get(difference.test)
        if reason is None:
            unexplained.append(difference)
        else:
            seen.add(difference.test)
            explained[reason.reason] = explained.get(reason.reason, 0) + 1
    stale = tuple(test for test, reason in by_test.items() if reason.is_certain and test not in seen)
    return Comparison(
        len({*direct, *through}), _passed(direct), _passed(through), explained, tuple(unexplained), stale
    )  # fmt: skip


def _passed(results: Results) -> int:
    return sum(result.status == "passed" for result in results.values())
