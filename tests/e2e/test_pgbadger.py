"""A whole log, read as pgBadger reads PgBouncer's: by its own forms of lines, written anew.

pgBadger 12 takes a line apart by time, zone, [process], level and text; the text of a connection by `X-0xID:
database/user@host:port`; it counts `login attempt: db=… user=…` at level LOG, all of WARNING, ERROR and FATAL, and
reads averages from `stats: … xacts/s, … queries/s, in … B/s, out … B/s, xact … us, query … us, wait … us`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import psycopg
import pytest

from tests.harness import drop_in
from tests.harness.deadline import until
from tests.harness.drop_in import Make
from tests.harness.postgres import Postgres

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+(?: [A-Z+\-\d]{3,6})? \[(\d+)\] (LOG|WARNING|ERROR|FATAL) (.*)")
CONNECTION = re.compile(r".-0x[0-9a-f]*: ([\w\[\].\-]*)/([\w\[\].\-]*)@([a-zA-Z0-9\-.]+|[0-9a-fA-F:]+?)[:\d]* (.*)")
LOGIN = re.compile(r"login attempt: db=(\S+) user=(\S+)")
STATS = re.compile(
    r"stats: (\d+) xacts/s, (\d+) queries/s, in (\d+) B/s, out (\d+) B/s, xact (\d+) us, query (\d+) us, wait (\d+) us"
)


@pytest.fixture
def make(server: Postgres) -> Iterator[Make]:
    with drop_in.maker(server) as make:
        yield make


def test_a_report_of_the_log_counts_what_happened(make: Make) -> None:
    """Dashboards and reports that were made for PgBouncer go on."""
    running = make(stats_period="0.2", databases={"two-words": ""})
    running.start("-q")
    done = Counter({("app", "app"): 5, ("app", "other"): 3, ("two-words", "app"): 2})
    for (dbname, user), times in done.items():
        for _ in range(times):
            with running.target.at(dbname=dbname, user=user).connect(autocommit=True) as connection:
                connection.execute("select 1")
    for wrong in ({"dbname": "nowhere"}, {"user": "unknown"}):
        with pytest.raises(psycopg.OperationalError):
            running.target.at(**wrong).connect()
    done += Counter({("nowhere", "app"): 1, ("app", "unknown"): 1})
    until(lambda: running.log().count("closing because: client close request") == 10, within_s=10, what="all have left")
    until(lambda: sum(figures(running.log(), 0)) > 0, within_s=10, what="a period tells of them")
    taken = [LINE.fullmatch(line) for line in running.log().splitlines()]
    assert all(taken), [line for line in running.log().splitlines() if not LINE.fullmatch(line)]
    lines = [match.groups() for match in taken if match]
    assert {pid for pid, _, _ in lines} == {(running.folder / "pgbouncer.pid").read_text().strip()}
    logins: Counter[tuple[str, str]] = Counter()
    for _, level, text in lines:
        of = CONNECTION.fullmatch(text)
        if of and level == "LOG" and (login := LOGIN.match(of[4])):
            logins[of[1], of[2]] += 1
            assert (of[1], of[2], of[3]) == (*login.groups(), "127.0.0.1")
    assert logins == done
    errors = [CONNECTION.fullmatch(text) for _, level, text in lines if level != "LOG"]
    assert sorted(error[4] for error in errors if error) == [
        'pooler error: "trust" authentication failed',
        "pooler error: no such database: nowhere",
    ]


def figures(log: str, column: int) -> list[int]:
    """One of the averages, for each period."""
    return [int(found[column]) for found in STATS.findall(log)]
