"""What a node's metrics tell of its fleet."""

from __future__ import annotations

from forebay.control.fleet.agreement import Record
from forebay.control.fleet.allocation import Budget, Part
from forebay.control.fleet.figures import Counts, figures
from forebay.control.fleet.session import Session
from forebay.control.fleet.store import Node, Seen, There

SYSTEM, OTHER = 7, 8


def node(name: str) -> There:
    return There(Node(id=name, version="0", address=f"{name}:6432", started=0.0), 1)


SEEN = Seen(
    "etcd:2379", 9, {name: node(name) for name in "ab"}, {SYSTEM: (Record(4, "10.0.0.5:5432"), 3)},
    {"shop": (Budget(12, {"a": Part(5, 4, 6), "b": Part(3, 3, 1), "c": Part(2, 2, 9), "d": Part(1, 1, 1)}), 2),
     "blog": (Budget(3, {"c": Part(1, 1, 0)}), 2)},
)  # fmt: skip


def test_a_node_tells_its_own_part_and_that_of_the_dead() -> None:
    """Else nobody sees why a database is short of servers: others have them, or they are kept for who is gone."""
    counts = Counts(registrations=2, failures=3, written=4, refused=5)
    counts.changes["shop"] = 6
    session, systems = Session("1", node("a"), 10.5), {"app": SYSTEM, "new": OTHER}
    found = figures(counts, "a", session, SEEN, 9.25, systems, lambda database: int(database == "shop"))
    assert (found["until_us"], found["looked_us"]) == (10_500_000, 9_250_000)
    assert (found["here"], found["absent"]) == (2, 2)
    assert (found["registrations"], found["failures"], found["written"], found["refused"]) == (2, 3, 4, 5)
    assert found["primaries"] == [("app", "10.0.0.5:5432", 4)]
    blog, shop = found["budgets"]
    assert shop == {"database": "shop", "total": 12, "lent": (5, 3, 3), "kept": 4, "wanted": 6, "open": 1, "changes": 6}
    assert (blog["lent"], blog["kept"], blog["changes"]) == ((0, 0, 1), 0, 0)


def test_a_registration_that_is_over_counts_no_more() -> None:
    """etcd has let go of the lease, whatever the clock says."""
    session = Session("1", node("a"), 1e9)
    session.is_over = True
    found = figures(Counts(), "a", session, None, None, {"app": SYSTEM}, lambda _: 0)
    assert (found["until_us"], found["looked_us"], found["here"], found["absent"]) == (0, 0, 0, 0)
    assert (found["primaries"], found["budgets"]) == ([], [])
    assert figures(Counts(), "a", None, None, None, {}, lambda _: 0)["until_us"] == 0
