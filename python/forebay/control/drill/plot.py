"""A drill as one page that needs nothing else: what came of it, what was served over time, and the longest wait.

Colours are those of the reader's system, dark or light; a narrow window scrolls the plots, which stay readable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from forebay.control.drill.report import SLOT_S, Report, Slot

WIDTH: Final = 960
HEIGHT: Final = 240
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 36, 28
GRID: Final = 4
TICKS: Final = 10
# Of the legend.
SWATCH, LETTER = 18, 7
_STYLE: Final = """
:root { color-scheme: light dark; --page: #ffffff; --card: #f4f5f7; --text: #1f2328; --faint: #5c6570; --grid: #dfe3e8;
  --write: #0b7a55; --read: #6f52b5; --error: #c0392b; --good: #0b7a55; --bad: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --card: #1f242a; --text: #e4e8ec; --faint: #9aa4af;
  --grid: #323942; --write: #3fc995; --read: #ae93f0; --error: #ff7b6b; --good: #3fc995; --bad: #ff7b6b; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 980px; margin: 0 auto; padding: 1.5rem 1rem; color: var(--text);
  background: var(--page); }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.about { color: var(--faint); margin: .2rem 0 1rem; }
.verdict { border-left: 4px solid; padding: .5rem .8rem; background: var(--card); margin: 0 0 1rem; font-weight: 600; }
.good { border-color: var(--good); } .bad { border-color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .75rem; }
.tiles div { background: var(--card); padding: .6rem .8rem; }
.tiles b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.tiles span, th { color: var(--faint); }
.plot { overflow-x: auto; margin-top: 1rem; } svg { display: block; width: 100%; min-width: 620px; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--faint); } svg .title { font-weight: 600; fill: var(--text); }
.swatch { stroke-width: 3; } .grid { stroke: var(--grid); } .fault { stroke: var(--faint); stroke-dasharray: 4 3; }
polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.write { stroke: var(--write); } .read { stroke: var(--read); } .error { stroke: var(--error); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-top: 1px solid var(--grid); }
th { font-weight: normal; white-space: nowrap; width: 1%; } td { overflow-wrap: anywhere; }
"""

Line = tuple[str, str, Callable[[Slot], float]]


def page(report: Report) -> str:
    """HTML."""
    rate: list[Line] = [
        ("writes/s", "write", lambda slot: slot.writes / SLOT_S),
        ("reads/s", "read", lambda slot: slot.reads / SLOT_S),
    ]
    if report.errors:
        rate.append(("errors/s", "error", lambda slot: slot.errors / SLOT_S))
    wait: list[Line] = [
        ("longest write, ms", "write", lambda slot: slot.longest_write_s * 1000),
        ("longest read, ms", "read", lambda slot: slot.longest_read_s * 1000),
    ]
    title = f"forebay drill: {escape(report.how)}"
    steps = [(f"{at:.3f} s", words) for at, words in report.lines]
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>',
        f'<h1>{title}</h1><p class="about">{escape(_about(report))}</p>{_verdict(report)}{_tiles(report)}',
        f"{_chart(report, 'Served', rate)}{_chart(report, 'Waited', wait)}",
        f"<h2>Steps</h2>{_table(steps)}" if steps else "",
        f"<h2>All figures</h2>{_table(report.figures())}</body></html>\n",
    ]
    return "".join(parts)


def _about(report: Report) -> str:
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(report.began_at))
    load = f"{report.clients} clients, {report.rate_before:.0f} statements/s before"
    return f"{began}, {load}. Times count from the fault, the dashed line."


def _verdict(report: Report) -> str:
    truth = report.truth
    wrong = [
        f"{len(keys)} acknowledged {'write' if len(keys) == 1 else 'writes'} {words}"
        for keys, words in ((truth.lost, "lost"), (truth.doubled, "there twice"))
        if keys
    ]
    if truth.risen:
        wrong.append(f"{len(truth.risen)} refused, and there all the same")
    if not truth.is_known:
        wrong.append("what is there is not known")
    if not report.is_back:
        wrong.insert(0, "service is not back")
    if wrong:
        return f'<p class="verdict bad">Not sound: {escape(", ".join(wrong))}.</p>'
    return '<p class="verdict good">Sound: service is back, and what clients were told is true.</p>'


def _tiles(report: Report) -> str:
    errors = sum(report.errors.values())
    tiles = [
        ("out of service (RTO)", f"{report.rto_s:.3f} s"),
        ("longest wait to write", f"{report.longest_write_s:.3f} s"),
        ("longest wait to read", f"{report.longest_read_s:.3f} s"),
        ("lost", f"{len(report.truth.lost) if report.truth.is_known else '?'} of {report.acknowledged}"),
        ("errors", str(errors)),
    ]
    cells = "".join(f"<div><span>{escape(name)}</span> <b>{escape(value)}</b></div>" for name, value in tiles)
    return f'<div class="tiles">{cells}</div>'


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(words)}</td></tr>" for name, words in rows)
    return f"<table>{cells}</table>"


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

    parts = [_text(0, 14, title, 'class="title"'), _legend(lines)]
    for step in range(GRID + 1):
        value = top * step / GRID
        parts.append(_line(LEFT, y(value), WIDTH - RIGHT, y(value), "grid"))
        parts.append(_text(LEFT - 8, y(value) + 4, f"{value:g}", 'text-anchor="end"'))
    every = _round_up((last - first) / TICKS)
    tick = -(-first // every) * every
    while tick <= last:
        parts.append(_text(x(tick), HEIGHT - 8, f"{tick:g} s", 'text-anchor="middle"'))
        tick += every
    parts.append(_line(x(0.0), TOP, x(0.0), HEIGHT - BOTTOM, "fault"))
    for _, kind, value_of in lines:
        points = " ".join(f"{x(slot.at_s + SLOT_S / 2):.1f},{y(value_of(slot)):.1f}" for slot in slots)
        parts.append(f'<polyline class="{kind}" points="{points}"/>')
    view = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
    return f'<div class="plot">{view}{"".join(parts)}</svg></div>'


def _legend(lines: Sequence[Line]) -> str:
    """Behind the title, each with a stroke of its own colour."""
    parts, at = [], 2 * LEFT
    for name, kind, _ in lines:
        parts.append(_line(at, 10, at + SWATCH, 10, f"{kind} swatch"))
        parts.append(_text(at + SWATCH + 6, 14, name, ""))
        at += 2 * SWATCH + 6 + LETTER * len(name)
    return "".join(parts)


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


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
