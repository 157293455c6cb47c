"""A drill as one page that needs nothing else: what was served over time, and the longest wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from forebay.control.drill.report import SLOT_S, Report, Slot

WIDTH: Final = 960
HEIGHT: Final = 220
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 24, 28
GRID: Final = 4
TICKS: Final = 10
WRITES, READS, ERRORS, FAULT = "#0b6e4f", "#7a5ea8", "#c0392b", "#555555"
_STYLE: Final = (
    "body{font:14px sans-serif;max-width:980px;margin:2em auto;color:#222}pre{background:#f4f4f4;padding:1em;"
    "overflow:auto}text{font:11px sans-serif;fill:#444}.title{font-weight:bold}"
)

Line = tuple[str, str, Callable[[Slot], float]]


def page(report: Report) -> str:
    """HTML."""
    rate: list[Line] = [
        ("writes/s", WRITES, lambda slot: slot.writes / SLOT_S),
        ("reads/s", READS, lambda slot: slot.reads / SLOT_S),
        ("errors/s", ERRORS, lambda slot: slot.errors / SLOT_S),
    ]
    wait: list[Line] = [
        ("longest write, ms", WRITES, lambda slot: slot.longest_write_s * 1000),
        ("longest read, ms", READS, lambda slot: slot.longest_read_s * 1000),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>forebay drill: {escape(report.how)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>forebay drill: {escape(report.how)}</h1>"
        f"{_chart(report, 'Served', rate)}{_chart(report, 'Waited', wait)}<pre>{escape(report.text())}</pre>"
        "</body></html>\n"
    )


def _chart(report: Report, title: str, lines: Sequence[Line]) -> str:
    slots = report.slots
    if not slots:
        return ""
    first, last = slots[0].at_s, slots[-1].at_s + SLOT_S
    top = _round_up(max(value(slot) for slot in slots for _, _, value in lines))

    def x(at_s: float) -> float:
        return LEFT + (at_s - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)

    parts = [_text(LEFT, 14, title, 'class="title"')]
    for step in range(GRID + 1):
        value = top * step / GRID
        parts.append(_line(LEFT, y(value), WIDTH - RIGHT, y(value), "#dddddd"))
        parts.append(_text(LEFT - 6, y(value) + 4, f"{value:g}", 'text-anchor="end"'))
    every = _round_up((last - first) / TICKS)
    tick = -(-first // every) * every
    while tick <= last:
        parts.append(_text(x(tick), HEIGHT - 8, f"{tick:g} s", 'text-anchor="middle"'))
        tick += every
    parts.append(_line(x(0.0), TOP, x(0.0), HEIGHT - BOTTOM, FAULT, dashes="4 3"))
    for number, (name, colour, value_of) in enumerate(lines):
        points = " ".join(f"{x(slot.at_s + SLOT_S / 2):.1f},{y(value_of(slot)):.1f}" for slot in slots)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>')
        parts.append(_text(LEFT + 140 + 150 * number, 14, name, f'style="fill:{colour}"'))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}</svg>'


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, …"""
    scale = 1e-3
    while value > 0:
        for step in (1, 2, 5):
            if step * scale >= value:
                return step * scale
        scale *= 10
    return 1.0


def _text(x: float, y: float, words: str, more: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dashes: str = "none") -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-dasharray="{dashes}"/>'
    )
