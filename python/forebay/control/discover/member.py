"""What every source of a cluster's topology is reduced to: its members, and who holds the leader's lease.

A source tells what somebody else believes. Whether a server can write is for the server to say, and which source is
right where two disagree is not decided here.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, runtime_checkable

from forebay.config.recovery import LeaseTimes
from forebay.config.source_address import MEMBERS_MAX

TIMEOUT_S: Final = 1.0

_ZONE: Final = re.compile(r"[^\s=,\x00-\x1f\x7f]{1,63}")
_LSN: Final = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})", re.ASCII)


class Role(StrEnum):
    """What a member is by the source's account. The leader of a standby cluster is a replica: it can't write."""

    PRIMARY = "primary"
    REPLICA = "replica"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A server of the cluster. None is what the source does not tell.

    host, port: where clients reach it; the host may be a name.
    source: the kind of source, such as "patroni".
    name: how the source calls it; unique in a sighting where there is one.
    lsn: in bytes, to be compared within one sighting only.
    lag_bytes, lag_s: how far it is behind the primary.
    state: the source's own word, such as "streaming".
    api: where whoever manages it is asked over HTTP.
    weight: its part of requests beside the others, 0 to 100; 0: none, unless no other can serve. zone: where it is.
    """

    host: str
    port: int
    role: Role
    source: str
    name: str | None = None
    timeline: int | None = None
    lsn: int | None = None
    lag_bytes: int | None = None
    lag_s: float | None = None
    state: str | None = None
    api: str | None = None
    weight: int | None = None
    zone: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Who may write. holder: a member's name. term: grows with every change of leader. left_s: until it runs out."""

    holder: str
    term: int | None = None
    left_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One answer of a source, with one member at least.

    asked: who gave it, such as "127.0.0.1:8008".
    lease: None where nobody holds it, or where the source knows of none.
    system_identifier: of the cluster, as text.
    ttl_s: how long the source itself calls the answer good.
    is_paused: whether failover is switched off at the source.
    """

    members: tuple[Member, ...]
    asked: str
    lease: Lease | None = None
    system_identifier: str | None = None
    ttl_s: float | None = None
    is_paused: bool = False

    @property
    def primaries(self) -> tuple[Member, ...]:
        """Those that the source takes for primaries; more than one is for the caller to judge."""
        return tuple(each for each in self.members if each.role is Role.PRIMARY)

    @property
    def holder(self) -> Member | None:
        """The member that holds the lease, if it is listed."""
        name = self.lease.holder if self.lease else None
        return next((each for each in self.members if name is not None and each.name == name), None)


class SourceFailed(Exception):
    """No sighting. The message names what was asked and why that failed, and holds no secret.

    hint: the next step, or None.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class Source(Protocol):
    """Where the topology of one cluster is learnt. Belongs to one event loop, which it never blocks."""

    async def look(self) -> Sighting:
        """Asks once, within the timeout and a half. Raises SourceFailed."""
        ...

    async def close(self) -> None:
        """Closes connections; a look under way fails."""
        ...


@runtime_checkable
class WatchedSource(Source, Protocol):
    """A source that tells of changes by itself."""

    def watch(self) -> AsyncGenerator[Sighting, None]:
        """A sighting at once, and one after every change. Raises SourceFailed, and may then be begun again."""
        ...


@runtime_checkable
class TimedSource(Source, Protocol):
    """A source that knows how long whoever promotes takes to do so."""

    async def times(self) -> LeaseTimes:
        """Raises SourceFailed."""
        ...


# Puts files that were read in force, for connections from then on; those that are open go on.
Renewal = Callable[[], Awaitable[None]]


@runtime_checkable
class SecuredSource(Source, Protocol):
    """A source that may be reached over TLS."""

    def read_files(self) -> Renewal:
        """Reads its certificates once more, and blocks meanwhile. Raises Failure; then all is as before."""
        ...


@runtime_checkable
class Managing(Source, Protocol):
    """A source that can be told to make another member the primary."""

    async def switch_over(self, leader: Member, candidate: Member, *, limit_s: float) -> None:
        """Asks for it, and returns when it is said to be done. Raises SourceFailed where it is not, or nobody says."""
        ...


def zone_of(text: object) -> str | None:
    """The name of a zone; None for none, or one that can't be one."""
    return text if isinstance(text, str) and _ZONE.fullmatch(text) else None


def checked(members: list[Member], *, by: str) -> tuple[Member, ...]:
    """The members of an answer. Raises SourceFailed where there are none, or more than MEMBERS_MAX."""
    if not members:
        raise SourceFailed(f"{by} names no member with an address")
    if len(members) > MEMBERS_MAX:
        raise SourceFailed(f"{by} names more than {MEMBERS_MAX} members")
    return tuple(members)


def lsn_of(text: str) -> int | None:
    """The position that PostgreSQL writes as 16/B374D848, in bytes; None for anything else."""
    found = _LSN.fullmatch(text)
    return int(found[1], 16) << 32 | int(found[2], 16) if found else None
