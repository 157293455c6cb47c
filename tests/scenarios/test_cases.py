"""Each case of tests/cases is answered as by PostgreSQL itself, at each level, or differs as it says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cases import CASES, LEVELS, Case
from tests.cases.play import database, play, pools
from tests.conftest import skip_without_uring
from tests.harness import pooler
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant
from tests.harness.postgres import Postgres
from tests.harness.target import Target
from tests.scenarios.conversations import CONVERSATIONS

# What PostgreSQL answers to a case, by its name.
ANSWERED: dict[str, list[object]] = {}


@pytest.fixture(scope="module")
def cases_database(server: Postgres) -> Iterator[Target]:
    """Where cases are played directly."""
    with database(server) as direct:
        yield direct


@pytest.fixture(scope="module")
def forebay(
    variant: Variant, server: Postgres, cases_database: Target, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Forebay]:
    """A forebay with pools of one and of two servers at each level."""
    sections = pooler.configuration(server, variant, databases=pools())
    with skip_without_uring(variant), pooler.running(tmp_path_factory.mktemp("cases"), sections, variant) as running:
        yield running


def expected(case: Case, direct: Target) -> list[object]:
    """What PostgreSQL answers, asked once."""
    if case.name not in ANSWERED:
        locks_are_let_go(case, direct)
        ANSWERED[case.name] = play(case, lambda _: direct, direct)
    return ANSWERED[case.name]


def locks_are_let_go(case: Case, direct: Target) -> None:
    """A server lets go of a lock a moment after its client has left, and the same case takes it again."""
    if "lock" in case.shows:
        with direct.connect(user="postgres", autocommit=True) as watcher:
            sql = "select count(*) from pg_locks where locktype = 'advisory'"
            until(lambda: watcher.execute(sql).fetchone() == (0,), within_s=30, what="nobody holds a lock")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.variants("uring-1", "epoll-1")
def test_a_case_is_answered_as_by_postgresql(case: Case, level: str, forebay: Forebay, cases_database: Target) -> None:
    """The page says so of the features that it shows; where it says otherwise, it must be so, too."""
    locks_are_let_go(case, cases_database)
    answered = play(case, lambda servers: forebay.target.at(dbname=f"{level}_{servers}"), cases_database)
    if how := case.difference(level):
        assert answered != expected(case, cases_database), f"nothing differs any more: {how}"
    else:
        assert answered == expected(case, cases_database)


def test_a_case_names_a_conversation_that_is_there() -> None:
    """One that was renamed would be missed only where it is played."""
    assert {case.conversation for case in CASES if case.conversation} <= set(CONVERSATIONS)
