"""Durations and sizes: a unit read wrongly turns a limit of seconds into one of hours."""

from __future__ import annotations

import pytest
from forebay.config.measures import duration_text, duration_us, size_bytes, size_text
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(min_value=0, max_value=10**17))
def test_a_duration_that_is_written_is_read_back(us: int) -> None:
    assert duration_us(duration_text(us)) == us


@given(st.integers(min_value=0, max_value=1 << 50))
def test_a_size_that_is_written_is_read_back(size: int) -> None:
    assert size_bytes(size_text(size)) == size


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    for value in (duration_us(text), size_bytes(text)):
        assert value is None or value >= 0


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("5s", 5_000_000),
        ("500ms", 500_000),
        ("1h30m", 5_400_000_000),
        ("1.5s", 1_500_000),
        ("0", 0),
        ("2 min", 120_000_000),
        ("10us", 10),
        ("1d", 86_400_000_000),
    ],
)
def test_durations_are_read(text: str, us: int) -> None:
    assert duration_us(text) == us


@pytest.mark.parametrize("text", ["", "5", "s", "5S", "-5s", "5s1h", "1s1s", "5 5s", "1.5us", "٣s", "1e3s", "5sx"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    assert duration_us(text) is None


@pytest.mark.parametrize(
    ("text", "size"), [("16KB", 16_384), ("1MB", 1 << 20), ("1GiB", 1 << 30), ("512B", 512), ("2 kB", 2048)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "16", "KB", "1.5MB", "1TB", "-1KB", "1KBx"])
def test_what_is_no_size_is_refused(text: str) -> None:
    assert size_bytes(text) is None
