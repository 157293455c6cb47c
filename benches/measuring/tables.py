"""Lines of tables in Markdown, of the rows that each order records. What they are computed from is given: no more is
read."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]

# Windows of a steady load with nothing beside it: their difference is the spread of two equal runs.
ALONE, AGAIN = "alone", "alone again"
# A window differs from those alone by more than this part of them, and by more than so many spreads; or it does not.
MOVED_PART, MOVED_SPREADS = 0.10, 2
# Memory that all clients have left is the start's within this part of it.
BACK_PART = 0.10
LATENCY_HEAD = (
    "| pooler | n | TPS | p50 ms, median (min–max) | ÷ {base}, paired | p99 ms | ÷ {base} | p99.9 ms | ÷ {base} "
    "| foreign |\n|---|---|---|---|---|---|---|---|---|---|"
)
BESIDE_HEAD = (
    "| pooler | beside the load | p50 ms | p99 ms alone | p99 ms alone again | p99 ms beside it (min–max) "
    "| p99 beside ÷ alone, paired (min–max) | ÷ that of direct | moved | cores: pooler, PG, disturber "
    "| own MiB before, peak (max) | it did |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)
STORM_HEAD = (
    "| pooler | n | clients | all served in s (min–max) | refused, unserved | p50 ms | p99 ms "
    "| CPU µs a client (min–max) | own MiB start | peak | all there | all gone | back within 10 % |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)
BULK_HEAD = (
    "| pooler | n | s (min–max) | CPU s/GB (min–max) | ÷ {base} | PG CPU s/GB | own MiB before, peak (max) |\n"
    "|---|---|---|---|---|---|---|"
)
IDLE_HEAD = (
    "| pooler | n | clients | own MiB before | bytes/client open | after one query | with five statements prepared "
    "| of the kernel, both ends | own MiB after all went | idle CPU µs/s | opened in s |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)
WORKERS_HEAD = (
    "| pooler | n | TPS (min–max) | ÷ {base}, paired | CPU µs/txn (min–max) | ÷ {base}, paired | PG CPU µs/txn "
    "| cores: pooler, PG, load | PG's share of the CPU used | p50 ms | p99 ms | foreign |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)
HANDSHAKE_HEAD = (
    "| pooler | handshake | n | taken up again | CPU µs a connection (min–max) | ÷ full of {base}, paired | p50 ms "
    "| client's CPU µs | foreign |\n|---|---|---|---|---|---|---|---|---|"
)
START_HEAD = (
    "| pooler | n | takes connections after ms (min–max) | first client logged in after ms (min–max) "
    "| CPU until then, ms (min–max) |\n|---|---|---|---|---|"
)
WHEEL_HEAD = "| wheel | MB | unpacked | of it the engine |\n|---|---|---|---|"
CLAIM_HEAD = (
    "| pooler | n | a second (min–max) | ÷ direct | not served | of one client, least–most "
    "| p50 ms (min–max) | ÷ direct, paired | p99 ms (min–max) | CPU µs each (min–max) | PG CPU µs each | foreign |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)
CLAIMS = {
    "crowd": "10,000 clients over 200 servers, each asks again at once",
    "threads": "500 clients, each a thread, over 20 servers",
    "connect": "a connection for each transaction, 8 clients, each a thread",
    "web": "1,000 requests a second, each with a connection of its own",
    "web-light": "200 requests a second, each with a connection of its own",
    "visits": "one client that connects for each request",
    "visits-tls": "one client that connects for each request, with SCRAM over TLS 1.3",
    "far": "the same, PostgreSQL a round trip of 10 ms away from the client and the pooler",
}
MILLION_HEAD = (
    "| pooler | measured at | bytes for each client more | extrapolated to 1,000,000: GiB "
    "| of the kernel, both ends, GiB |\n"
    "|---|---|---|---|---|"
)
MILLION = 1_000_000


def median_min_max(values: Iterable[float], digits: int = 1) -> str:
    """As in `12.1 (11.9–12.6)`."""
    xs = list(values)
    return f"{statistics.median(xs):.{digits}f} ({min(xs):.{digits}f}–{max(xs):.{digits}f})"


def paired(rows: Sequence[Row], bases: Sequence[Row], key: str = "cpu_us") -> list[float]:
    """Each row's figure over that of the base pooler's nearest window: the machine's own drift cancels."""
    nearest = [min(bases, key=lambda base: abs(base["at"] - row["at"])) for row in rows]
    return [row[key] / base[key] for row, base in zip(rows, nearest, strict=True)]


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by what they have under the keys, in the order of their coming; rows without the first key are left out."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if keys[0] in row and "failed" not in row:
            found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def median(rows: Sequence[Row], key: str) -> float:
    """Of what the rows have under the key."""
    return float(statistics.median(row[key] for row in rows))


def mib(kib: float) -> str:
    """As tables have it."""
    return f"{kib / 1024:.1f}"


def latency_lines(by_pooler: dict[str, list[Row]], base: str) -> list[str]:
    """How long clients wait: a workload's table."""
    lines = [LATENCY_HEAD.format(base=base)]
    bases = by_pooler.get(base)
    for pooler, rows in by_pooler.items():
        cells = [pooler, str(len(rows)), median_min_max((row["tps"] for row in rows), 0)]
        for key in ("p50_us", "p99_us", "p999_us"):
            cells.append(median_min_max((row[key] / 1000 for row in rows), 2))
            is_base = pooler == base or not bases
            cells.append("–" if is_base or not bases else median_min_max(paired(rows, bases, key), 2))
        lines.append(f"| {' | '.join(cells)} | {median(rows, 'foreign'):.2f} |")
    return lines


def worker_lines(by_pooler: dict[str, list[Row]], base: str) -> list[str]:
    """Poolers with one worker and with two, and who used the cores meanwhile: a workload's table."""
    lines = [WORKERS_HEAD.format(base=base)]
    bases = by_pooler.get(base)
    for pooler, rows in by_pooler.items():
        is_base = pooler == base or not bases
        over = ["–" if is_base else median_min_max(paired(rows, bases or [], key), 2) for key in ("tps", "cpu_us")]
        cores = [[row["tps"] * row[key] / 1e6 for row in rows] for key in ("cpu_us", "pg_us", "pgbench_us")]
        shares = [pg / (own + pg + load) for own, pg, load in zip(*cores, strict=True)]
        lines.append(
            f"| {pooler} | {len(rows)} | {median_min_max((row['tps'] for row in rows), 0)} | {over[0]} "
            f"| {median_min_max(row['cpu_us'] for row in rows)} | {over[1]} | {median(rows, 'pg_us'):.1f} "
            f"| {', '.join(f'{statistics.median(each):.2f}' for each in cores)} | {statistics.median(shares):.0%} "
            f"| {median(rows, 'p50_us') / 1000:.2f} | {median(rows, 'p99_us') / 1000:.2f} "
            f"| {median(rows, 'foreign'):.2f} |"
        )
    return lines


def is_moved(alone: float, again: float, beside: float) -> bool:
    """Whether a window beside a disturber was worse than both allow that were alone."""
    mean = (alone + again) / 2
    return beside - mean > max(MOVED_PART * mean, MOVED_SPREADS * abs(alone - again))


def beside_lines(rows: Sequence[Row]) -> list[str]:
    """What became of a steady load beside each disturber. Compare a pooler's ratio with that of direct: what
    PostgreSQL and the disturber take of the machine is in both."""
    by_kind = grouped((row for row in rows if "steady" in row), "beside", "pooler")
    kinds = [kind for kind in dict.fromkeys(kind for kind, _ in by_kind) if kind not in (ALONE, AGAIN)]
    if not kinds:
        return []
    first = next(iter(by_kind.values()))[0]
    title = f"### a steady load of {first['steady']} transactions a second by {first['clients']} clients"
    lines = ["", title, "", BESIDE_HEAD]
    for kind in kinds:
        direct = _triples(by_kind, kind, "direct")
        for other, pooler in by_kind:
            if other == kind and _triples(by_kind, kind, pooler):
                lines.append(_beside_line(kind, pooler, by_kind, direct))
    return lines


def _triples(
    by_kind: dict[tuple[Any, ...], list[Row]], kind: str, pooler: str
) -> dict[int, tuple[float, float, float]]:
    """Of each round, the p99 alone, alone again and beside the disturber."""
    keys = ((ALONE, pooler), (AGAIN, pooler), (kind, pooler))
    alone, again, beside = ({row["round"]: row["p99_us"] for row in by_kind.get(key, [])} for key in keys)
    return {at: (alone[at], again[at], beside[at]) for at in beside if at in alone and at in again}


def _ratio(triple: tuple[float, float, float]) -> float:
    """How much worse it is beside the disturber than alone."""
    return 2 * triple[2] / (triple[0] + triple[1])


def _beside_line(
    kind: str, pooler: str, by_kind: dict[tuple[Any, ...], list[Row]], direct: dict[int, tuple[float, float, float]]
) -> str:
    alone, again, beside = (by_kind[each, pooler] for each in (ALONE, AGAIN, kind))
    triples = _triples(by_kind, kind, pooler)
    over = [_ratio(triple) / _ratio(direct[at]) for at, triple in triples.items() if at in direct]
    cores = ", ".join(f"{median(beside, key):.2f}" for key in ("pooler_cores", "pg_cores", "beside_cores"))
    did = {key: value for key, value in beside[-1]["did"].items() if isinstance(value, int | float)}
    cells = [
        pooler, kind, f"{median(beside, 'p50_us') / 1000:.2f}", f"{median(alone, 'p99_us') / 1000:.2f}",
        f"{median(again, 'p99_us') / 1000:.2f}", median_min_max((row["p99_us"] / 1000 for row in beside), 2),
        median_min_max(map(_ratio, triples.values()), 2),
        median_min_max(over, 2) if over and pooler != "direct" else "–",
        f"{sum(is_moved(*each) for each in triples.values())} of {len(triples)}", cores,
        f"{mib(median(beside, 'start_kib'))}, {mib(max(row['peak_kib'] for row in beside))}",
        ", ".join(f"{name} {statistics.median(row['did'][name] for row in beside):.0f}" for name in did),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def storm_lines(rows: Sequence[Row]) -> list[str]:
    """What became of clients that came all at once, if there are such rows."""
    found = grouped(rows, "storm", "pooler", "clients")
    lines = ["", "### clients that all come at once", "", STORM_HEAD] if found else []
    for (_, pooler, clients), mine in found.items():
        back = sum(row["after_kib"] <= (1 + BACK_PART) * row["start_kib"] for row in mine)
        memory = " | ".join(mib(median(mine, key)) for key in ("start_kib", "peak_kib", "held_kib", "after_kib"))
        lines.append(
            f"| {pooler} | {len(mine)} | {clients} | {median_min_max((row['seconds'] for row in mine), 2)} "
            f"| {sum(row['refused'] for row in mine)}, {sum(row['unserved'] for row in mine)} "
            f"| {median(mine, 'p50_ms'):.0f} | {median(mine, 'p99_ms'):.0f} "
            f"| {median_min_max((row['cpu_us'] for row in mine), 0)} | {memory} | {back} of {len(mine)} |"
        )
    return lines


def bulk_lines(rows: Sequence[Row], base: str) -> list[str]:
    """What much data costs: a table each for COPY out, COPY in and a result."""
    lines: list[str] = []
    for (kind,), of_kind in grouped(rows, "bulk").items():
        lines += ["", f"### {kind}, {of_kind[0]['megabytes']} MB", "", BULK_HEAD.format(base=base)]
        by_pooler = {pooler: mine for (pooler,), mine in grouped(of_kind, "pooler").items()}
        bases = by_pooler.get(base)
        for pooler, mine in by_pooler.items():
            is_based = bases and pooler not in (base, "direct")
            ratio = median_min_max(paired(mine, bases or [], "cpu_s_per_gb"), 2) if is_based else "–"
            lines.append(
                f"| {pooler} | {len(mine)} | {median_min_max((row['seconds'] for row in mine), 2)} "
                f"| {median_min_max((row['cpu_s_per_gb'] for row in mine), 3)} | {ratio} "
                f"| {median(mine, 'pg_s_per_gb'):.2f} "
                f"| {mib(median(mine, 'start_kib'))}, {mib(max(row['peak_kib'] for row in mine))} |"
            )
    return lines


def idle_lines(rows: Sequence[Row]) -> list[str]:
    """What clients cost that do nothing, if there are such rows, and what that makes of a million."""
    found = grouped(rows, "idle", "tls", "pooler", "clients")
    lines = ["", "### idle clients", "", IDLE_HEAD] if found else []
    for (_, is_encrypted, pooler, clients), mine in found.items():
        per = [
            median_min_max((row[key] for row in mine), 0) for key in ("per_open", "per_used", "per_named", "per_kernel")
        ]
        lines.append(
            f"| {pooler} | {len(mine)} | {clients}{' TLS' if is_encrypted else ''} | {mib(median(mine, 'base_kib'))} "
            f"| {' | '.join(per)} | {mib(median(mine, 'after_kib'))} | {median(mine, 'idle_cpu_us_per_s'):.0f} "
            f"| {median(mine, 'connect_s'):.1f} |"
        )
    return lines + _million_lines(found)


def _million_lines(found: dict[tuple[Any, ...], list[Row]]) -> list[str]:
    """A line through the fewest and the most clients, drawn out: nothing that was measured."""
    lines: list[str] = []
    for is_encrypted, pooler in dict.fromkeys((key[1], key[2]) for key in found):
        counts = sorted(key[3] for key in found if key[1:3] == (is_encrypted, pooler))
        if len(counts) < 2:
            continue
        low, high = (found[True, is_encrypted, pooler, count] for count in (counts[0], counts[-1]))
        slope = (median(high, "open_kib") - median(low, "open_kib")) / (counts[-1] - counts[0])
        total = median(high, "open_kib") + slope * (MILLION - counts[-1])
        kernel = median(high, "per_kernel") * MILLION
        lines.append(
            f"| {pooler}{' TLS' if is_encrypted else ''} | {', '.join(map(str, counts))} | {slope * 1024:.0f} "
            f"| {total / 2**20:.2f} | {kernel / 2**30:.1f} |"
        )
    return ["", MILLION_HEAD, *lines] if lines else []


def claim_lines(rows: Sequence[Row]) -> list[str]:
    """What services claim of poolers: a table each. Ratios are to connections straight to PostgreSQL.

    Windows that others disturbed were measured again, and are left out.
    """
    lines: list[str] = []
    for (kind,), of_kind in grouped((row for row in rows if "noisy" not in row), "claim").items():
        lines += ["", f"### claim: {CLAIMS[kind]}", "", CLAIM_HEAD]
        by_pooler = {pooler: mine for (pooler,), mine in grouped(of_kind, "pooler").items()}
        bases = by_pooler.get("direct")
        for pooler, mine in by_pooler.items():
            is_based = bases and pooler != "direct"
            keys = ("tps", "p50_us")
            ratios = [median_min_max(paired(mine, bases or [], key), 2) if is_based else "–" for key in keys]
            counts = [row[key] for row in mine for key in ("least", "most") if key in row]
            cells = [
                pooler, str(len(mine)), median_min_max((row["tps"] for row in mine), 0), ratios[0],
                f"{statistics.median(map(_not_served, mine)):.0f}",
                f"{min(counts)}–{max(counts)}" if counts else "–",
                median_min_max((row["p50_us"] / 1000 for row in mine), 2), ratios[1],
                median_min_max((row["p99_us"] / 1000 for row in mine), 2),
                "–" if pooler == "direct" else median_min_max((row["cpu_us"] for row in mine), 1),
                f"{median(mine, 'pg_us'):.1f}", f"{median(mine, 'foreign'):.2f}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _not_served(row: Row) -> int:
    """Clients that were refused, and those that heard nothing."""
    never = row["clients"] - row["served"] if "served" in row else row["refused"]
    return int(never + row["unserved"])


def handshake_lines(rows: Sequence[Row], base: str) -> list[str]:
    """What full handshakes cost and resumed ones, beside the base pooler's full ones."""
    found = grouped(rows, "handshake", "pooler")
    lines = ["", "### connections over TLS, resumed", "", HANDSHAKE_HEAD.format(base=base)] if found else []
    bases = found.get(("full", base))
    for (handshake, pooler), mine in found.items():
        is_base = not bases or mine is bases
        share = sum(row["resumed"] for row in mine) / sum(row["n"] for row in mine)
        lines.append(
            f"| {pooler} | {handshake} | {len(mine)} | {share:.0%} "
            f"| {median_min_max((row['cpu_us'] for row in mine), 1)} "
            f"| {'–' if is_base else median_min_max(paired(mine, bases or []), 2)} "
            f"| {median(mine, 'p50_us') / 1000:.2f} | {median(mine, 'load_us'):.0f} | {median(mine, 'foreign'):.2f} |"
        )
    return lines


def start_lines(rows: Sequence[Row]) -> list[str]:
    """How long poolers take to start, and the wheel's size, where there are such rows."""
    found = grouped(rows, "start", "pooler")
    lines = ["", "### from start to service", "", START_HEAD] if found else []
    for (_, pooler), mine in found.items():
        keys = ("listening_s", "logged_in_s", "cpu_s")
        cells = [median_min_max((row[key] * 1000 for row in mine), 0) for key in keys]
        lines.append(f"| {pooler} | {len(mine)} | {' | '.join(cells)} |")
    for (wheel,), mine in grouped(rows, "wheel").items():
        cells = [f"{mine[-1][key] / 1e6:.1f}" for key in ("bytes", "unpacked_bytes", "engine_bytes")]
        lines += ["", WHEEL_HEAD, f"| {wheel} | {' | '.join(cells)} |"]
    return lines
