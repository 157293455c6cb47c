"""What /metrics says a transaction costs."""

from __future__ import annotations

import re

import pytest

from tests.conftest import Start
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.wire import query

TRANSACTIONS = 300


def counter(forebay: Forebay, name: str) -> int:
    """The sum over a counter's labels."""
    found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\d+)$", forebay.metrics(), re.MULTILINE)
    assert found, name
    return sum(map(int, found))


@pytest.mark.variants("uring-1", "epoll-1")
def test_system_calls_and_copies_are_counted(start: Start, server: Postgres, variant: Variant) -> None:
    """One client, one question at a time: with epoll a wait, a receive and a send each way; io_uring waits alone."""
    forebay = start(configuration(server, variant))
    with forebay.target.wire() as wire:
        wire.value("select 1")
        names = ("forebay_io_calls_total", "forebay_copied_bytes_total", "forebay_transactions_total")
        before = [counter(forebay, name) for name in names]
        for _ in range(TRANSACTIONS):
            wire.value("select 1")
        calls, copied, transactions = (counter(forebay, name) - old for name, old in zip(names, before, strict=True))
    assert transactions == TRANSACTIONS
    least, most = (5, 9) if variant.io == "epoll" else (1, 4)
    assert least * TRANSACTIONS <= calls <= most * TRANSACTIONS, calls / TRANSACTIONS
    assert copied <= 200 * TRANSACTIONS, "what is relayed is not copied"


@pytest.mark.variants("uring-2", "epoll-1")
def test_errors_are_counted_by_pool_and_kind(start: Start, server: Postgres, variant: Variant) -> None:
    """What an operator asks first when clients complain: are the errors forebay's or the server's, and which?"""
    databases = {"app": {"pool_size": 1, "query_wait_timeout": "1s", "query_timeout": "1s"}}
    forebay = start(configuration(server, variant, databases=databases))
    with forebay.target.wire() as holder, forebay.target.wire() as waiter:
        for sql in ("select 1/0", "selec", "select no_such", "select pg_sleep(20)"):
            assert any(frame.tag == "E" for frame in holder.ask(query(sql)))
        holder.ask(query("begin"))
        for _ in range(3):
            assert any(frame.tag == "E" for frame in waiter.ask(query("select 1")))
        holder.ask(query("rollback"))
    rows = {(row["source"], row["code"]): row for row in forebay.console("show errors") if row["database"] == "app"}
    assert {key: row["errors"] for key, row in rows.items()} == {
        ("forebay", "FB201"): "3", ("forebay", "FB704"): "1", ("server", "22"): "1", ("server", "42"): "2",
    }  # fmt: skip
    assert rows["forebay", "FB201"]["sqlstate"] == "53300"
    (pool,) = [row for row in forebay.console("show pools") if row["database"] == "app"]
    assert (pool["errors"], pool["server_errors"]) == ("4", "3")
    text = forebay.metrics()
    assert 'forebay_pool_refusals_total{database="app",user="app",code="FB201"} 3\n' in text
    assert 'forebay_server_errors_total{database="app",user="app",class="42"} 2\n' in text
    opened = float(value(text, 'forebay_server_open_seconds_sum{database="app",user="app"}'))
    assert 0 < opened < 5
    assert int(value(text, 'forebay_server_open_seconds_count{database="app",user="app"}')) >= 1


def value(text: str, name: str) -> str:
    """Of a metric."""
    (found,) = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(name)]
    return found
