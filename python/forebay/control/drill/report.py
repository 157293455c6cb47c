"""What a drill has shown: how long nobody could write, what was lost, who saw an error."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from forebay.control.drill.client import Outcome
from forebay.control.drill.ledger import Truth

# Of the plot's time.
SLOT_S: Final = 0.1
KEYS_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done. Times are of the monotonic clock, began_at is since 1970. lines: what it told, and when.

    is_back: whether writes were acknowledged one after the other at the end.
    """

    began: float
    began_at: float
    ended: float
    lines: tuple[tuple[float, str], ...]
    is_back: bool


@dataclass(frozen=True, slots=True)
class Account:
    """What forebay itself says of the failover: bytes and seconds that may be missing; None: that is not known.

    because: its words, or why there are none.
    """

    missing_bytes: int | None
    missing_s: float | None
    because: str

    @property
    def words(self) -> str:
        """For people."""
        if self.missing_s is None and self.missing_bytes is None:
            return f"not known: {self.because}"
        return self.because if self.missing_s or self.missing_bytes else f"nothing: {self.because}"


NOBODY_ASKED: Final = Account(None, None, "no console was asked; name one with --dsn or --config")


@dataclass(frozen=True, slots=True)
class Slot:
    """A stretch of time. longest_s: of statements that were sent in it."""

    at_s: float
    writes: int
    reads: int
    errors: int
    longest_write_s: float
    longest_read_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Times of slots and lines count from the fault. rto_s: the longest time without an acknowledged write that ended
    after the fault began; resumed_at: its end, since 1970. rpo_s: by how much the first lost write is older than the
    last one that was acknowledged before that."""

    how: str
    clients: int
    began_at: float
    fault_s: float
    rate_before: float
    rto_s: float
    resumed_at: float
    is_back: bool
    rpo_s: float
    acknowledged: int
    read: int
    longest_write_s: float
    longest_read_s: float
    truth: Truth
    errors: dict[str, int]
    logins_failed: int
    sessions_lost: int
    account: Account
    lines: tuple[tuple[float, str], ...]
    slots: tuple[Slot, ...]

    @property
    def is_sound(self) -> bool:
        """Service is back, and what clients were told is true."""
        return self.is_back and self.truth.is_kept

    def figures(self) -> list[tuple[str, str]]:
        """What there is to say, line by line."""
        truth, not_known = self.truth, "not known: nobody can be asked what is there"
        lost = f"{len(truth.lost)} of {self.acknowledged} acknowledged writes, {self.rpo_s:.3f} s of work"
        errors = ", ".join(f"{code}: {count}" for code, count in sorted(self.errors.items())) or "none"
        rows = [
            ("load", f"{self.clients} clients, {self.rate_before:.0f} statements/s before"),
            ("out of service (RTO)", f"{self.rto_s:.3f} s without an acknowledged write"),
            ("longest wait", f"{self.longest_write_s:.3f} s to write, {self.longest_read_s:.3f} s to read"),
            ("lost (RPO)", lost if truth.is_known else not_known),
            ("the same, by forebay", self.account.words),
            ("written twice", str(len(truth.doubled)) if truth.is_known else not_known),
            ("refused, and there", str(len(truth.risen)) if truth.is_known else not_known),
            ("errors by SQLSTATE", errors),
            ("of unknown fate", f"{truth.unknown} writes"),
            ("sessions", f"{self.sessions_lost} lost while idle, {self.logins_failed} logins failed"),
        ]
        if not self.is_back:
            rows.insert(1, ("service", "is not back"))
        return rows

    def text(self) -> str:
        """For a terminal."""
        rows = self.figures()
        steps = "".join(f"  {at:8.3f} s  {line}\n" for at, line in self.lines)
        width = max(len(name) for name, _ in rows)
        return f"{self.how}\n{steps}" + "".join(f"  {name:<{width}}  {words}\n" for name, words in rows)

    def json(self) -> str:
        """For programs."""
        truth = self.truth
        lost, doubled, risen = (
            len(keys) if truth.is_known else None for keys in (truth.lost, truth.doubled, truth.risen)
        )
        found: dict[str, Any] = {
            "version": 1, "how": self.how, "clients": self.clients, "began_at": self.began_at, "fault_s": self.fault_s,
            "rate_before": self.rate_before, "rto_s": self.rto_s, "resumed_at": self.resumed_at,
            "is_back": self.is_back, "rpo_s": self.rpo_s, "acknowledged": self.acknowledged, "read": self.read,
            "longest_write_s": self.longest_write_s, "longest_read_s": self.longest_read_s,
            "lost": lost, "lost_keys": truth.lost[:KEYS_MAX], "doubled": doubled,
            "risen": risen, "unknown": truth.unknown, "errors": self.errors,
            "logins_failed": self.logins_failed, "sessions_lost": self.sessions_lost,
            "account": {"missing_bytes": self.account.missing_bytes, "missing_s": self.account.missing_s,
                        "because": self.account.because},
            "lines": [{"at_s": at, "text": line} for at, line in self.lines],
            "slots": [[each.at_s, each.writes, each.reads, each.errors, each.longest_write_s, each.longest_read_s]
                      for each in self.slots],
        }  # fmt: skip
        return json.dumps(found, indent=2)


def report_of(
    how: str,
    outcomes: Sequence[Outcome],
    truth: Truth,
    fault: Fault,
    clients: int,
    logins_failed: int,
    sessions_lost: int,
    account: Account = NOBODY_ASKED,
) -> Report:
    """Of all statements, and the fault under them."""
    served = [each for each in outcomes if each.error is None]
    writes = sorted(each.ended for each in served if each.is_write)
    before = [each for each in served if each.ended < fault.began]
    first = min((each.sent for each in before), default=fault.began)
    end = max((each.ended for each in outcomes), default=fault.ended)
    gap_began, gap_ended = _gap(writes, fault.began, end)
    lost = set(truth.lost)
    lost_at = [each.ended for each in served if each.is_write and (each.client, each.number) in lost]
    return Report(
        how=how,
        clients=clients,
        began_at=fault.began_at,
        fault_s=fault.ended - fault.began,
        rate_before=len(before) / max(0.001, fault.began - first),
        rto_s=gap_ended - gap_began,
        resumed_at=fault.began_at + gap_ended - fault.began,
        is_back=fault.is_back,
        rpo_s=max(0.0, gap_began - min(lost_at)) if lost_at else 0.0,
        acknowledged=len(writes),
        read=len(served) - len(writes),
        longest_write_s=_longest(served, is_write=True),
        longest_read_s=_longest(served, is_write=False),
        truth=truth,
        errors=dict(Counter(each.error for each in outcomes if each.error is not None)),
        logins_failed=logins_failed,
        sessions_lost=sessions_lost,
        account=account,
        lines=tuple((at - fault.began, line) for at, line in fault.lines),
        slots=_slots(outcomes, fault.began),
    )


def _gap(acknowledged: Sequence[float], began: float, end: float) -> tuple[float, float]:
    """The longest time without an acknowledged write that ended after the fault began."""
    # What comes after the last one counts only if nothing ever came.
    moments = [*acknowledged] or [began, end]
    if moments[-1] < began:
        moments.append(end)
    pairs = [(a, b) for a, b in pairwise(moments) if b > began]
    return max(pairs, key=lambda pair: pair[1] - pair[0], default=(began, began))


def _longest(outcomes: Sequence[Outcome], *, is_write: bool) -> float:
    return max((each.ended - each.sent for each in outcomes if each.is_write is is_write), default=0.0)


def _slots(outcomes: Sequence[Outcome], began: float) -> tuple[Slot, ...]:
    if not outcomes:
        return ()

    def slot(moment: float) -> int:
        return int((moment - began) // SLOT_S)

    first, last = slot(min(each.sent for each in outcomes)), slot(max(each.ended for each in outcomes))
    count: dict[int, list[int]] = {at: [0, 0, 0] for at in range(first, last + 1)}
    longest: dict[int, list[float]] = {at: [0.0, 0.0] for at in range(first, last + 1)}
    for each in outcomes:
        kind = 2 if each.error is not None else 0 if each.is_write else 1
        count[slot(each.ended)][kind] += 1
        waits, which = longest[slot(each.sent)], 0 if each.is_write else 1
        waits[which] = max(waits[which], each.ended - each.sent)
    return tuple(
        Slot(round(at * SLOT_S, 3), *count[at], *(round(wait, 6) for wait in longest[at])) for at in sorted(count)
    )
