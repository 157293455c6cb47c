"""Who makes the candidate the primary: itself when it is asked, whoever manages the cluster, or somebody by hand.

| way | for | the old primary afterwards |
|---|---|---|
| `Asked` | `pg_promote()` | runs on, and gets nothing of forebay's: it is deposed |
| `Managed` | Patroni's `POST /switchover` | is demoted by Patroni, before the candidate is promoted |
| `ByHand` | somebody who is told when | what they make of it |
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, Protocol

from forebay.admin.backend import Refused
from forebay.control.discover.member import Managing, Member, SourceFailed
from forebay.control.switchover.line import Line

# A candidate that is still a replica after this is told again, and again after as long.
AGAIN_S: Final = 0.5


class Promotion(Protocol):
    """One way. is_final: once begun, it may happen whatever is said of it. is_fencing: the old one is demoted."""

    is_final: bool
    is_fencing: bool

    async def check(self) -> None:
        """Before anything is held. Raises Refused where it is known not to work."""

    async def begin(self, limit_s: float) -> None:
        """Returns when it is asked for, or done. Raises Refused where it is known not to happen."""


class Asked:
    """The candidate is asked by SQL."""

    is_final = True
    is_fencing = False

    def __init__(self, candidate: Line) -> None:
        self._candidate = candidate

    async def check(self) -> None:
        """Raises Refused where our user may not."""
        _, _, may_promote = await self._candidate.state()
        if not may_promote:
            user = '"' + self._candidate.user.replace('"', '""') + '"'
            raise Refused(
                f'user "{self._candidate.user}" may not promote {self._candidate.endpoint}: GRANT EXECUTE ON FUNCTION'
                f' pg_promote TO {user} on the primary, in the database "{self._candidate.dbname}", or promote it by a'
                " hook"
            )

    async def begin(self, limit_s: float) -> None:
        """Raises Refused."""
        if await self._candidate.promote() is False:
            raise Refused(f"{self._candidate.endpoint} can't be promoted: its log says why")
        await self._wake()

    async def _wake(self) -> None:
        """Until it can write. One that was told while it had just lost, or was just opening, what it replays from waits
        out wal_retrieve_retry_interval (5 s) before it goes on; each time it is told, it looks at once.

        Source: WaitForWALToBecomeAvailable and ShutdownWalRcv, with a walreceiver that has not started yet.
        """
        while True:
            await asyncio.sleep(AGAIN_S)
            # It has been told: whatever comes of this does not say that it stays a replica.
            with contextlib.suppress(Refused):
                if await self._candidate.can_write():
                    return
                await self._candidate.promote()


class Managed:
    """A manager of the cluster is asked, which knows its members by names of its own."""

    is_final = False
    is_fencing = True

    def __init__(self, source: Managing, old: str, candidate: str) -> None:
        self._source = source
        self._endpoints = old, candidate
        self._members: tuple[Member, Member] | None = None

    async def check(self) -> None:
        """Raises Refused where the manager does not answer, or knows one of the two for something else."""
        self._members = await self._found()

    async def _found(self) -> tuple[Member, Member]:
        try:
            sighting = await self._source.look()
        except SourceFailed as failed:
            raise Refused(str(failed)) from None
        by_endpoint = {_endpoint(each): each for each in sighting.members}
        missing = [each for each in self._endpoints if each not in by_endpoint]
        if missing:
            raise Refused(f"{sighting.asked} does not know {missing[0]}")
        leader, candidate = (by_endpoint[each] for each in self._endpoints)
        if sighting.is_paused:
            raise Refused(f"the cluster is in maintenance mode by the word of {sighting.asked}: resume it first")
        if sighting.holder is not None and sighting.holder.name != leader.name:
            raise Refused(f"{sighting.asked} says that {sighting.holder.name} leads, and not {leader.name}")
        return leader, candidate

    async def begin(self, limit_s: float) -> None:
        """Raises Refused where the manager says no, or does not say."""
        leader, candidate = self._members or await self._found()
        try:
            await self._source.switch_over(leader, candidate, limit_s=limit_s)
        except SourceFailed as failed:
            raise Refused(f"{failed}. {failed.hint}" if failed.hint else str(failed)) from None


class ByHand:
    """Somebody is told that it is time."""

    is_final = False
    is_fencing = False

    async def check(self) -> None:
        """Nothing is known of whoever it is."""

    async def begin(self, limit_s: float) -> None:
        """Nor of when they begin."""


def _endpoint(member: Member) -> str:
    return f"[{member.host}]:{member.port}" if ":" in member.host else f"{member.host}:{member.port}"
