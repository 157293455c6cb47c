"""The console's grammar."""

from __future__ import annotations

import pytest
from forebay.admin.statement import Statement, Unreadable, parse


@pytest.mark.parametrize(
    ("text", "command", "arguments"),
    [
        ("SHOW POOLS;", "show", ("POOLS",)),
        ("  show\tpools ; ", "show", ("pools",)),
        ("select pools", "show", ("pools",)),
        ("PAUSE shop", "pause", ("shop",)),
        ('PAUSE "My ""Shop"""', "pause", ('My "Shop"',)),
        ("KILL 'a''b'", "kill", ("a'b",)),
        ("-- why\nSHOW /* what */ VERSION", "show", ("VERSION",)),
        ("SET datestyle = 'ISO, MDY'", "set", ("datestyle", "=", "ISO, MDY")),
        ('PAUSE "semi;colon"', "pause", ("semi;colon",)),
    ],
)
def test_words_are_read_as_pgbouncers_console_reads_them(text: str, command: str, arguments: tuple[str, ...]) -> None:
    """Scripts written for PgBouncer would break otherwise."""
    assert parse(text) == Statement(command, arguments)


@pytest.mark.parametrize("text", ["", "  ", ";", ";;", "-- nothing", "/* nothing */ ;"])
def test_an_empty_statement_is_no_statement(text: str) -> None:
    """psql sends one for a lone semicolon."""
    assert parse(text) is None


@pytest.mark.parametrize("text", ['PAUSE "shop', "KILL 'shop", "SHOW POOLS; SHOW STATS"])
def test_an_open_quote_or_a_second_statement_is_refused(text: str) -> None:
    """Running half of what was asked would be worse than nothing."""
    with pytest.raises(Unreadable):
        parse(text)
