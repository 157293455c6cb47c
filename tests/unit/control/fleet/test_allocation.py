"""A budget is never overdrawn: nodes that join, die, are cut off, stopped and slow, over a store with its own clock.

PostgreSQL has max_connections for all of them together: one node too many with its servers, and the next login of
anybody, the administrator's too, is refused.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from forebay.control.fleet.allocation import Budget, Part, dues, lapsed, step
from forebay.control.fleet.loan import LINGER_S, Loan
from forebay.control.fleet.session import COUNTS
from hypothesis import given, settings
from hypothesis import strategies as st

TTL_S = 6.0
# PostgreSQL may count a server so long that was told to go.
CLOSING_S = LINGER_S * 0.9


@dataclass
class Store:
    """etcd: leases, by its own clock, and one budget."""

    budget: Budget
    revision: int = 1
    nodes: dict[str, tuple[int, float]] = field(default_factory=dict)

    def expire(self, now: float) -> None:
        """Lets go of leases."""
        self.nodes = {name: (number, until) for name, (number, until) in self.nodes.items() if now < until}


@dataclass
class Process:
    """A node as its engine is: what may be open, until when; and what is."""

    name: str
    number: int
    loan: Loan = field(default_factory=Loan)
    until: float = 0.0
    is_registered: bool = False
    is_reached: bool = True
    is_stopped: bool = False
    open: int = 0
    closes_at: float | None = None
    share: tuple[int, float, int] = (0, 0.0, 0)
    # What it has yet to write: the look that it rests on, and the budget.
    late: tuple[int, Budget, set[str]] | None = None

    def may_open(self, now: float) -> int:
        servers, until, after = self.share
        return servers if now < until else after

    def run(self, now: float) -> None:
        """The engine: opens all it may; what is too much closes, and PostgreSQL hears of it a moment later."""
        if self.is_stopped:
            return
        most = self.may_open(now)
        if self.open <= most:
            self.open, self.closes_at = most, None
        elif self.closes_at is None:
            self.closes_at = now + CLOSING_S
        elif now >= self.closes_at:
            self.open, self.closes_at = most, None

    def tell(self) -> None:
        self.share = (self.loan.servers, self.until, self.loan.after)


class World:
    """Nodes before one budget. wishes: what clients of a node may want."""

    def __init__(self, seed: int, total: int, names: list[str], wishes: Sequence[int] = (0, 1, 5, 50)) -> None:
        self.wishes = wishes
        self.random = random.Random(seed)
        self.now = 0.0
        self.store = Store(Budget(total))
        self.ids = 0
        self.processes: dict[str, Process] = {}
        # Servers of processes that were killed, until PostgreSQL has noticed.
        self.ghosts: list[tuple[float, int]] = []
        for name in names:
            self.begin(name)

    def begin(self, name: str) -> None:
        self.ids += 1
        self.processes[name] = Process(name, self.ids)

    def round(self, node: Process) -> None:
        """What `Fleet` does, over this store."""
        if node.is_stopped or not node.is_reached:
            return
        registered = self.store.nodes.get(node.name)
        if registered is None:
            node.is_registered = True
            for_now = node.loan
            for_now.servers = for_now.after
            node.late = None
            self.store.nodes[node.name] = (node.number, self.now + TTL_S)
        elif registered[0] != node.number:
            return
        else:
            self.store.nodes[node.name] = (node.number, self.now + TTL_S)
        node.until = self.now + TTL_S * COUNTS
        wanted = self.random.choice(self.wishes)
        there = set(self.store.nodes)
        before = self.store.budget
        written = node.loan.plan(before, node.name, there, wanted=wanted, used=node.open, now=self.now)
        node.tell()
        if written is None:
            return
        absent = {name for name in before.parts if name not in there}
        node.late = (self.store.revision, written, absent)
        if self.random.random() < 0.7:
            self.write(node)

    def write(self, node: Process) -> None:
        """The transaction, at once or much later: it compares what it rests on."""
        if node.late is None or not node.is_reached:
            return
        (revision, written, absent), node.late = node.late, None
        is_there = self.store.nodes.get(node.name, (0, 0.0))[0] == node.number
        if revision == self.store.revision and is_there and not absent & set(self.store.nodes):
            self.store.budget, self.store.revision = written, revision + 1

    def happen(self, what: str, node: Process) -> None:
        if what == "cut":
            node.is_reached = False
        elif what == "heal":
            node.is_reached = True
        elif what == "stop":
            node.is_stopped = True
        elif what in ("wake", "kill") and node.is_stopped:
            # What it held beyond that while it slept is what the decision leaves out.
            node.open, node.closes_at, node.is_stopped = min(node.open, node.may_open(self.now)), None, False
        elif what == "wake":
            pass
        elif what == "kill":
            self.ghosts.append((self.now + CLOSING_S, node.open))
            self.begin(node.name)
        elif what == "late":
            if not node.is_stopped:
                self.write(node)
        else:
            for _ in range(self.random.randrange(1, 6)):
                self.round(node)

    def go_on(self, seconds: float) -> None:
        self.now += seconds
        self.store.expire(self.now)
        for node in self.processes.values():
            node.run(self.now)
        self.ghosts = [(until, count) for until, count in self.ghosts if self.now < until]

    def in_use(self) -> int:
        """What PostgreSQL has. Of a process that was stopped it is what it could open on waking: see the decision."""
        ghosts = sum(count for _, count in self.ghosts)
        return ghosts + sum(
            node.may_open(self.now) if node.is_stopped else max(node.open, node.may_open(self.now))
            for node in self.processes.values()
        )


NAMES = ["a", "b", "c", "d"]
HAPPENINGS = (*["round"] * 12, "late", "cut", "heal", "stop", "wake", "kill")


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    total=st.integers(1, 40),
    events=st.lists(
        st.tuples(
            st.sampled_from(HAPPENINGS),
            st.sampled_from(NAMES),
            st.sampled_from([0.0, 0.1, 0.1, 0.2, 0.5, 1.0, 3.0, 7.0]),
        ),
        min_size=30,
        max_size=80,
    ),
)
def test_a_budget_is_never_overdrawn(seed: int, total: int, events: list[tuple[str, str, float]]) -> None:
    """Whatever happens to nodes, in whatever order, and however late what they write arrives."""
    world = World(seed, total, NAMES)
    for what, name, seconds in events:
        world.happen(what, world.processes[name])
        left = seconds
        while left > 0:
            world.go_on(min(0.25, left))
            left -= 0.25
            assert world.in_use() <= total, (what, name, world.store, world.processes)
        world.go_on(0.0)
        assert world.in_use() <= total, (what, name, world.store, world.processes)
        assert world.store.budget.lent <= total


@settings(max_examples=100, deadline=None)
@given(
    total=st.integers(1, 200),
    wishes=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 300), min_size=1),
)
def test_all_is_due_to_somebody_and_an_equal_part_to_everybody_who_wants_it(total: int, wishes: dict[str, int]) -> None:
    """Else one busy node starves another, or servers lie idle that somebody waits for."""
    budget = Budget(total, {name: Part(wanted=wanted) for name, wanted in wishes.items()})
    due = dues(budget, set(wishes))
    assert sum(due.values()) == total
    for name, wanted in wishes.items():
        assert due[name] >= min(max(1, wanted), total // len(wishes))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), total=st.integers(4, 40), wish=st.integers(0, 50))
def test_who_is_left_has_all_that_the_dead_do_not_keep(seed: int, total: int, wish: int) -> None:
    """Else a budget shrinks with every node that dies."""
    world = World(seed, total, NAMES[:3], wishes=(wish,))

    def settle() -> None:
        for _ in range(200):
            for name in list(world.processes):
                world.round(world.processes[name])
            world.go_on(0.2)

    settle()
    assert world.store.budget.free == 0
    del world.processes["a"]
    settle()
    kept = world.store.budget.part("a")
    assert kept.lent == kept.kept <= total // 3
    assert world.store.budget.free == 0
    world.store.budget = world.store.budget.without("a")
    world.store.revision += 1
    settle()
    assert world.store.budget.free == 0
    assert set(world.store.budget.parts) == {"b", "c"}


def test_a_node_that_lacks_nothing_takes_nothing_from_another() -> None:
    """Connections are not closed here to be opened there for nobody."""
    budget = Budget(10, {"a": Part(6, 5, 6), "b": Part(4, 4, 0)})
    assert step(budget, "a", {"a", "b"}, wanted=6, in_use=0).part("a").lent == 6
    assert step(budget, "b", {"a", "b"}, wanted=0, in_use=0).part("b").lent == 4
    busy = Budget(10, {"a": Part(6, 5, 6), "b": Part(4, 4, 9)})
    assert step(busy, "a", {"a", "b"}, wanted=6, in_use=6).part("a").lent == 6, "its servers are open"
    assert step(busy, "a", {"a", "b"}, wanted=6, in_use=2).part("a").lent == 5
    assert lapsed(busy, {"b"}).part("a") == Part(5, 5, 0)
