"""How the servers of a budget are divided among the nodes of a fleet. Pure: who calls it reads and writes the store.

A budget is one value in the store, changed by compare-and-swap only: for each node what it was lent, and what it keeps
of that when its lease ends. Both are written by the node itself, which raises what it uses after they were written and
lowers it before. So for every node

    used <= lent while its lease holds, used <= kept after it, kept <= lent, and the sum of all that is lent <= budget.

| a node | its part is |
|---|---|
| joins | nothing, until others have given up what is its due |
| wants more | raised by what is free, up to its due |
| has more than its due, and others want it | lowered once its servers are closed |
| has lost its lease | what it keeps: nobody can say whether it is dead, or cut off and still serving with that |
| comes back by the same name | what it was |
| leaves in order, or is forgotten by an operator | gone |
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Part:
    """What a node has of a budget, in servers. lent: while its lease holds. kept: after it. wanted: by its clients."""

    lent: int = 0
    kept: int = 0
    wanted: int = 0


@dataclass(frozen=True, slots=True)
class Budget:
    """All parts, by node."""

    total: int
    parts: Mapping[str, Part] = field(default_factory=dict)

    @property
    def lent(self) -> int:
        """Servers that somebody may use."""
        return sum(part.lent for part in self.parts.values())

    @property
    def free(self) -> int:
        """Servers that nobody has; less than none after the budget was lowered."""
        return self.total - self.lent

    def without(self, node: str) -> Budget:
        """The node has left, or is forgotten."""
        return replace(self, parts={name: part for name, part in self.parts.items() if name != node})

    def part(self, node: str) -> Part:
        """A node's part, which may be nothing."""
        return self.parts.get(node, Part())

    def having(self, node: str, part: Part) -> Budget:
        """With another part for a node."""
        return replace(self, parts={**self.parts, node: part})


def lapsed(budget: Budget, there: Collection[str]) -> Budget:
    """Nodes that are not there any more are left what they keep. there: those whose leases hold."""
    parts = {
        name: part if name in there else Part(lent=part.kept, kept=part.kept) for name, part in budget.parts.items()
    }
    return replace(budget, parts=parts)


def dues(budget: Budget, there: Collection[str]) -> dict[str, int]:
    """What is due to each node that is there; the sum is what those that are not leave over.

    An equal part is every node's for the asking, and one server without asking. What some do not want goes to those
    that want more, and what nobody wants is spread, so that a node which wakes up has servers at once.
    """
    nodes = sorted(there)
    left = max(0, budget.total - sum(part.lent for name, part in budget.parts.items() if name not in there))
    due = dict.fromkeys(nodes, 0)
    wanting = {name: max(1, budget.part(name).wanted) for name in nodes}
    while left and (open_ones := [name for name in nodes if due[name] < wanting[name]]):
        each = max(1, left // len(open_ones))
        for name in open_ones:
            more = min(each, wanting[name] - due[name], left)
            due[name] += more
            left -= more
    for number, name in enumerate(nodes):
        due[name] += left // len(nodes) + (number < left % len(nodes))
    return due


def keep(total: int, lent: int, nodes: int) -> int:
    """What a node keeps without a lease: an equal part, of what it was lent."""
    return min(lent, total // max(1, nodes))


def step(budget: Budget, node: str, there: Collection[str], *, wanted: int, in_use: int) -> Budget:
    """The budget as this node may write it: with what others have lost, and its own part as it is due.

    there: with this node. in_use: what it may have open and not given up yet, at most what it was lent.
    """
    budget = lapsed(budget, there)
    own = replace(budget.part(node), wanted=wanted)
    budget = budget.having(node, own)
    due = dues(budget, there)
    missing = sum(_missing(budget, name, due[name], len(there)) for name in there if name != node)
    if due[node] >= own.lent:
        lent = min(due[node], own.lent + max(0, budget.free))
    elif missing > budget.free:
        lent = max(due[node], min(own.lent, in_use))
    else:
        # Nobody lacks it.
        lent = own.lent
    return budget.having(node, Part(lent, keep(budget.total, lent, len(budget.parts)), wanted))


def _missing(budget: Budget, node: str, due: int, nodes: int) -> int:
    """What a node lacks of its due: what its clients want, or what it would keep without a lease."""
    part = budget.part(node)
    return max(0, min(due, max(1, part.wanted, budget.total // nodes)) - part.lent)
