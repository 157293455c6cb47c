"""What /metrics says a transaction costs."""

from __future__ import annotations

import re

import pytest

from tests.conftest import Start
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres

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
