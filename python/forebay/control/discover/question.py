"""What each endpoint of a topology is asked of itself, and what its answer says.

| a server | tells |
|---|---|
| PostgreSQL | whether it is in recovery, its timeline, its position in the log, which system it is |
| Aurora | whether it is in recovery: it refuses the rest, and its members have one storage and no timelines |
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final

# Names are qualified, so that nothing that others have made is called. A timeline's number is the first part of a WAL
# file's name. A replica does not tell on which one it is by now, and what it tells is never ahead of that: the one of
# its last restart point, of the last data that it has written out, and, to a member of pg_read_all_stats, of what it
# asks its primary for, after it has found that this leads on from where it is. How far a primary is, is where its next
# record begins, written out or not. As the first on a page it stands behind the page's head, of 24 bytes, 40 on a
# file's first page: no replica comes there before.
OF_POSTGRES: Final = (
    "SELECT r.is_in, CASE WHEN r.is_in THEN (SELECT GREATEST(c.timeline_id, e.min_recovery_end_timeline, (SELECT"
    " pg_catalog.max(w.received_tli) FROM pg_catalog.pg_stat_wal_receiver AS w))"
    " FROM pg_catalog.pg_control_checkpoint() AS c, pg_catalog.pg_control_recovery() AS e)"
    " ELSE ('x' OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()),"
    " 1, 8))::pg_catalog.bit(32)::pg_catalog.int4 END,"
    " CASE WHEN r.is_in THEN pg_catalog.pg_wal_lsn_diff(COALESCE(pg_catalog.pg_last_wal_replay_lsn(), '0/0'),"
    " '0/0')::pg_catalog.int8 ELSE (SELECT n.at OPERATOR(pg_catalog.-) CASE"
    " WHEN n.at OPERATOR(pg_catalog.%) s.segment OPERATOR(pg_catalog.=) 40 THEN 40"
    " WHEN n.at OPERATOR(pg_catalog.%) s.block OPERATOR(pg_catalog.=) 24 THEN 24 ELSE 0 END"
    " FROM (SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), '0/0')::pg_catalog.int8)"
    " AS n(at), (SELECT bytes_per_wal_segment, wal_block_size FROM pg_catalog.pg_control_init())"
    " AS s(segment, block)) END,"
    " (SELECT system_identifier FROM pg_catalog.pg_control_system()),"
    # Up to there a server that was promoted since it was started had replayed.
    " CASE WHEN NOT r.is_in THEN"
    " pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_replay_lsn(), '0/0')::pg_catalog.int8 END,"
    # On which timeline a replica gets what it replays: where it gets any, and tells.
    " (SELECT pg_catalog.max(w.received_tli) FROM pg_catalog.pg_stat_wal_receiver AS w)"
    " FROM (SELECT pg_catalog.pg_is_in_recovery()) AS r(is_in)"
)
# A function of Aurora's own: nobody but Amazon makes one in pg_catalog.
IS_AURORA: Final = "SELECT pg_catalog.to_regprocedure('pg_catalog.aurora_replica_status()') IS NOT NULL"
# pg_current_wal_lsn and pg_control_* end with 55000 there unless wal_level is logical, and then tell nothing that a
# reader could be held to; pg_stat_wal_receiver is refused. Source: those who have asked (DataDog/integrations-core,
# issues 14498 and 20356; jobinau/pg_gather, issue 9).
OF_AURORA: Final = "SELECT pg_catalog.pg_is_in_recovery()"

# The one timeline that writers have, and the one that readers have, which is on no writer's: no reader counts as having
# what the writer had at any moment, so that sessions that have written read from the writer.
_WRITERS, _READERS = 1, 0
_WRITING: Final = ("primary", "deposed", "contested", "unnamed", "held", "relieved")

# Endpoint, role, reason, timeline, LSN, lag.
Node = tuple[str, str, str, int | None, int | None, int | None]


class Seen:
    """What an endpoint said. is_placed: it has a timeline and a position."""

    __slots__ = ("fork", "is_in_recovery", "is_placed", "lsn", "said", "timeline")

    def __init__(self, row: tuple[Any, ...]) -> None:
        is_in_recovery, timeline, lsn, system, fork, received = row
        self.is_placed = True
        self.is_in_recovery = bool(is_in_recovery)
        # The system's number is signed in SQL, and so may be others that no server has yet.
        self.timeline, self.lsn = int(timeline) % (1 << 32), int(lsn) % (1 << 64)
        # What a replica gets is on no older timeline than what it has replayed, unless it is to get that first.
        is_certain = self.is_in_recovery and received is not None
        self.said = (self.is_in_recovery, self.timeline, is_certain, self.lsn, int(system) % (1 << 64))
        self.fork = None if fork is None else int(fork) % (1 << 64)


class SeenOfAurora(Seen):
    """A member of one of Aurora's clusters, which it says nothing of. cluster: by which all of its members know it."""

    __slots__ = ()

    def __init__(self, row: tuple[Any, ...], cluster: str) -> None:
        (is_in_recovery,) = row
        timeline = _READERS if is_in_recovery else _WRITERS
        system = int.from_bytes(hashlib.sha256(cluster.encode()).digest()[:8], signed=True)
        super().__init__((is_in_recovery, timeline, 0, system, None, None))
        self.is_placed = False


def are_placed(nodes: Iterable[Node]) -> bool:
    """Whether endpoints have timelines and positions, by what is known of them."""
    return not any(
        timeline == _READERS or (timeline == _WRITERS and lsn == 0 and role in _WRITING)
        for _, role, _, timeline, lsn, _ in nodes
    )
