"""No two nodes of a fleet write to two primaries: claims and holds over a store, in any order."""

from __future__ import annotations

from dataclasses import dataclass

from forebay.control.fleet.agreement import Claim, Record, judge, may_act
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = ("a", "b", "c")
RECORDS = tuple(Record(timeline, endpoint) for timeline in (1, 2, 3) for endpoint in ("x", "y", "z"))


@dataclass
class Node:
    """What it holds in the store, and where it sends writes. look: the store as it last saw it."""

    held: Record | None = None
    writes_to: str | None = None
    look: tuple[int, Record | None, dict[str, Record | None]] = (0, None, {})


class World:
    """A store with one record, and nodes that look at one time and write at another."""

    def __init__(self) -> None:
        self.record: Record | None = None
        self.revision = 0
        # Of the last thing that any node wrote of itself.
        self.held_at = 0
        self.changes = 0
        self.nodes = {name: Node() for name in NAMES}

    def look(self, name: str) -> None:
        held = {other: node.held for other, node in self.nodes.items() if other != name}
        self.nodes[name].look = (self.revision, self.record, held)
        self.seen_at = self.changes

    def claim(self, name: str, claim: Record) -> None:
        revision, record, held = self.nodes[name].look
        verdict = judge(record, claim, [one for one in held.values() if one])
        is_unheld = verdict is not Claim.UNHELD or all(
            held.get(other) == node.held for other, node in self.nodes.items() if other != name
        )
        if verdict in (Claim.WRITTEN, Claim.UNHELD) and revision == self.revision and is_unheld:
            assert self.record is None or claim.timeline >= self.record.timeline
            self.record, self.revision = claim, revision + 1

    def act(self, name: str) -> None:
        """As `Fleet._agree`: leaves first, then says what it holds, and goes on after another look."""
        node = self.nodes[name]
        revision, record, held = node.look
        if record is None:
            return
        if node.writes_to not in (None, record.endpoint):
            node.writes_to = None
        if node.held != record:
            if revision == self.revision:
                node.held = record
                self.look(name)
            return
        if may_act(record, node.held, [one for one in held.values() if one]):
            node.writes_to = record.endpoint


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(("look", "claim", "act", "act")), st.sampled_from(NAMES), st.sampled_from(RECORDS)),
        max_size=80,
    )
)
def test_no_two_nodes_write_to_two_primaries(events: list[tuple[str, str, Record]]) -> None:
    """However old the look is on which a node acts."""
    world = World()
    for what, name, record in events:
        if what == "look":
            world.look(name)
        elif what == "claim":
            world.claim(name, record)
        else:
            world.act(name)
        written = {node.writes_to for node in world.nodes.values()} - {None}
        assert len(written) <= 1, world.nodes


def test_claims() -> None:
    """The table of the module."""
    x1, y1, y2 = Record(1, "x"), Record(1, "y"), Record(2, "y")
    assert judge(None, x1, []) is Claim.WRITTEN
    assert judge(x1, y2, [x1]) is Claim.WRITTEN
    assert judge(x1, x1, []) is Claim.KEPT
    assert judge(y2, x1, []) is Claim.OLDER
    assert judge(x1, y1, [x1]) is Claim.CONTESTED
    assert judge(x1, y1, []) is Claim.UNHELD
    assert may_act(x1, x1, [x1])
    assert not may_act(x1, None, [])
    assert not may_act(y1, y1, [x1])
    assert may_act(y2, y2, [y1]), "the same endpoint on an older timeline is no other primary"
