"""Which primary a fleet writes to: what a node may write down, and when it may act on what is written. Pure.

One record for each system (its identifier) names the timeline and the endpoint that take writes; it is changed by
compare-and-swap only. A node that acts on it says so first: it holds the record, under its lease.

| a node sees | it writes down its own claim |
|---|---|
| no record | yes |
| a record of a lower timeline | yes |
| a record of the same timeline, and another endpoint | if no other node holds it: the name may have changed |
| the same, and another node holds it | no: both can write, and nobody can say which is right |
| a record of a higher timeline | never |

A node sends writes to the endpoint of the record once it holds it, and no other node that is there holds another one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Record:
    """Who takes writes of a system."""

    timeline: int
    endpoint: str


class Claim(Enum):
    """What becomes of a claim. `UNHELD`: it is written only if no other node has come to hold the record meanwhile."""

    KEPT = "is the record"
    WRITTEN = "may be written"
    UNHELD = "may be written while no other node holds the record"
    CONTESTED = "is contested: another node writes to another endpoint on the same timeline"
    OLDER = "is older than the record"


def judge(record: Record | None, claim: Record, held_by_others: Iterable[Record]) -> Claim:
    """What becomes of a node's claim. held_by_others: what the other nodes hold that are there."""
    if record is None or claim.timeline > record.timeline:
        return Claim.WRITTEN
    if claim == record:
        return Claim.KEPT
    if claim.timeline < record.timeline:
        return Claim.OLDER
    return Claim.CONTESTED if record in list(held_by_others) else Claim.UNHELD


def may_act(record: Record | None, held: Record | None, held_by_others: Iterable[Record]) -> bool:
    """Whether a node that holds `held` may send writes to the record's endpoint."""
    return record is not None and held == record and all(each.endpoint == record.endpoint for each in held_by_others)
