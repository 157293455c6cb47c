"""What a hand-over costs the server: CPU of its process, by what forebay sends between two clients.

What it sends is not written down here: a relay before the server records it, from hand-overs that two clients of a pool
of one bring about, and it is played to a process of the server again and again. `/proc/PID/schedstat` tells the
process's time on a CPU in nanoseconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from measuring.line import REQUEST, Line, Relay, Step, message, messages, query, steps
from measuring.tables import median_min_max
from measuring.window import Bench

# Five of the kinds that applications set.
FIVE = {
    "timezone": ("Etc/GMT+1", "Etc/GMT+2"),
    "work_mem": ("5MB", "6MB"),
    "statement_timeout": ("61s", "62s"),
    "extra_float_digits": ("1", "2"),
    "application_name": ("one", "two"),
}
# Of a whole reset, what the short one leaves out: the texts prove that nothing of the kind is there.
LONG_ONLY = ("SET SESSION AUTHORIZATION", "CLOSE", "UNLISTEN", "DISCARD TEMP", "DEALLOCATE")
WARM_UP = 50


@dataclass(frozen=True, slots=True)
class Form:
    """Bytes that the server is sent, how many ReadyForQuery answer them, and the form that it costs more than."""

    data: bytes
    base: str | None
    readies: int = 1


def run(bench: Bench, *, rounds: int, times: int) -> None:
    """Measures every form in interleaved rounds and prints what it costs more than its base."""
    line = Line(bench.pg.port)
    forms = _forms(bench, line)
    cost: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(rounds):
        for name, form in forms.items():
            cost[name].append(_cpu_us(line, form, times))
            bench.record(round=number, hand_over=name, cpu_us=cost[name][-1])
    line.close()
    print(
        "\n| sent to the server | CPU µs, median (min–max) | more than | by µs, median (min–max) |\n|---|---|---|---|"
    )
    for name, form in forms.items():
        more = "–"
        if form.base:
            pairs = zip(cost[name], cost[form.base], strict=True)
            more = median_min_max(mine - theirs for mine, theirs in pairs)
        print(f"| {name} | {median_min_max(cost[name])} | {form.base or '–'} | {more} |", flush=True)
    _through_forebay(bench, rounds, times)


def _forms(bench: Bench, line: Line) -> dict[str, Form]:
    """What is measured; what has a name in it is prepared on the line."""
    whole, settings = _prefix(bench, "strict", {}), _prefix(bench, "safe", FIVE)
    for parse in {step.parse for step in (*whole, *settings) if step.parse}:
        line.ask(parse + message("S", b""), 1)
    resets, replays = whole[1:-1], settings[1:-1]
    short = [step for step in resets if not step.text.startswith(LONG_ONLY)]
    print("a whole reset:", *_texts(resets), "", "five settings:", *_texts(replays), sep="\n  ")

    def piped(middle: Iterable[Step]) -> bytes:
        return b"".join(step.data for step in (whole[0], *middle, whole[-1])) + REQUEST

    forms = {
        "SELECT 1": Form(REQUEST, None),
        "a whole reset alone": Form(query(";".join(_texts(resets))), "SELECT 1"),
        "a short reset alone": Form(query(";".join(_texts(short))), "SELECT 1"),
        "a look at two settings": Form(query(_look(bench)), "SELECT 1"),
        "BEGIN and COMMIT, with SELECT 1": Form(piped([]), "SELECT 1"),
        "a whole reset, with SELECT 1": Form(piped(resets), "SELECT 1"),
        "a short reset, with SELECT 1": Form(piped(short), "SELECT 1"),
        "five settings, with SELECT 1": Form(piped(replays), "SELECT 1"),
        "a short reset and five settings, with SELECT 1": Form(piped([*short, *replays]), "SELECT 1"),
        "a whole reset and five settings, with SELECT 1": Form(piped([*resets, *replays]), "SELECT 1"),
    }
    for step in resets:
        forms[f"`{step.text}` of these"] = Form(piped([step]), "BEGIN and COMMIT, with SELECT 1")
    return forms


def _texts(list_: Iterable[Step]) -> list[str]:
    """As a Query has them."""
    return [step.text.replace("$1", "0.5") for step in list_]


def _cpu_us(line: Line, form: Form, times: int) -> float:
    """CPU of the server's process for one of them."""
    path = Path(f"/proc/{line.pid}/schedstat")
    for _ in range(WARM_UP):
        line.ask(form.data, form.readies)
    before = int(path.read_text().split()[0])
    for _ in range(times):
        line.ask(form.data, form.readies)
    return (int(path.read_text().split()[0]) - before) / times / 1000


def _pooled(
    bench: Bench, level: str, settings: dict[str, tuple[str, str]], use: Callable[[Line, Line, Relay], None]
) -> None:
    """Two clients of a forebay with one server, which is reached through a relay."""
    relay = Relay(bench.pg.port)
    spec = bench.specs["forebay-one"]
    name = f"forebay-one-{level}"
    bench.specs[name] = {**spec, "vars": {**spec["vars"], "level": level, "endpoint": f"127.0.0.1:{relay.port}"}}
    pooler = bench.start(name)
    try:
        options = [" ".join(f"-c {key}={value[i]}" for key, value in settings.items()) for i in (0, 1)]
        one, two = (Line(pooler.port, options=text) for text in options)
        use(one, two, relay)
        one.close()
        two.close()
    finally:
        pooler.stop()
        relay.close()


def _take_turns(one: Line, two: Line, times: int) -> None:
    """Each asks while the other is answered, so that the server goes from one to the other every time."""
    one.send(REQUEST)
    for _ in range(times):
        two.send(REQUEST)
        one.wait(1)
        one.send(REQUEST)
        two.wait(1)
    one.wait(1)


def _prefix(bench: Bench, level: str, settings: dict[str, tuple[str, str]]) -> list[Step]:
    """The statements of the last hand-over, from BEGIN to COMMIT."""
    found: list[Step] = []

    def record(one: Line, two: Line, relay: Relay) -> None:
        _take_turns(one, two, 20)
        run = steps(relay.recorded())
        end = max(i for i, step in enumerate(run) if step.text == "COMMIT")
        begin = max(i for i in range(end) if run[i].text.startswith("BEGIN"))
        found.extend(run[begin : end + 1])

    _pooled(bench, level, settings, record)
    return found


def _look(bench: Bench) -> str:
    """The query behind a transaction that set two settings."""
    found: list[str] = []

    def record(one: Line, _two: Line, relay: Relay) -> None:
        one.ask(query("SET work_mem = '7MB'; SET extra_float_digits = 1"), 1)
        one.ask(REQUEST, 1)
        texts = [body[:-1].decode() for kind, body in messages(relay.recorded()) if kind == "Q"]
        found.extend(text for text in texts if text.startswith("SELECT pg_catalog.current_setting("))

    _pooled(bench, "safe", {}, record)
    return found[-1]


def _through_forebay(bench: Bench, rounds: int, times: int) -> None:
    """The same as two clients bring it about, whose requests always wait for each other."""
    kinds = {
        "clean, nothing to hand over (safe)": ("safe", {}),
        "five settings (safe)": ("safe", FIVE),
        "a whole reset (strict)": ("strict", {}),
        "a whole reset and five settings (strict)": ("strict", FIVE),
    }
    cost: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(rounds):
        for name, (level, settings) in kinds.items():

            def measure(one: Line, two: Line, relay: Relay, name: str = name) -> None:
                _take_turns(one, two, WARM_UP)
                path = Path(f"/proc/{relay.pid()}/schedstat")
                before = int(path.read_text().split()[0])
                _take_turns(one, two, times)
                used_us = (int(path.read_text().split()[0]) - before) / 1000
                cost[name].append(used_us / (2 * times + 1))

            _pooled(bench, level, settings, measure)
            bench.record(round=number, hand_over=f"through forebay: {name}", cpu_us=cost[name][-1])
    base = next(iter(kinds))
    print("\n| through forebay, two clients in turn | CPU µs of the server a transaction | more, µs |\n|---|---|---|")
    for name, values in cost.items():
        more = statistics.median(mine - theirs for mine, theirs in zip(values, cost[base], strict=True))
        print(f"| {name} | {median_min_max(values)} | {more:.1f} |", flush=True)
