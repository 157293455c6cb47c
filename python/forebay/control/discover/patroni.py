"""Patroni's REST interface: GET /cluster, of any member of the cluster.

Each member answers for all, out of the store that Patroni keeps its leases in; it gives no answer when it can't read
that. Source: Patroni documentation, "Patroni REST API".
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from forebay.config.kinds import WEIGHT_MAX
from forebay.config.recovery import LeaseTimes
from forebay.config.source_address import Address, is_port
from forebay.control.discover.http import TLS_OPTIONS, Http, NoAnswer, refuse_tls_options, tls_of
from forebay.control.discover.member import (
    Lease,
    Member,
    Renewal,
    Role,
    Sighting,
    SourceFailed,
    checked,
    lsn_of,
    zone_of,
)
from forebay.control.discover.registration import Kind, Means, need, some_hosts
from forebay.control.discover.turns import Turns

EXAMPLE: Final = "patroni://10.0.0.1:8008,10.0.0.2:8008"
PORT: Final = 8008
OK: Final = 200
UNAUTHORIZED: Final = 401
PLAIN, SECURE = "patroni", "patroni+https"
# Releases before 4 call it master.
PRIMARIES: Final = frozenset(("leader", "master", "primary"))
STANDBY_LEADER: Final = "standby_leader"
# Tags of a member that are for forebay.
WEIGHT_TAG, ZONE_TAG = "forebay_weight", "forebay_zone"


class _Member(msgspec.Struct):
    """lag and lsn are "unknown" where they are."""

    name: str
    role: str
    state: str | None = None
    host: str | None = None
    port: int | None = None
    timeline: int | str | None = None
    lag: int | str | None = None
    lsn: str | None = None
    api_url: str | None = None
    tags: dict[str, Any] | None = None


class _Cluster(msgspec.Struct):
    members: list[_Member]
    pause: bool = False


class Times(msgspec.Struct):
    """Of Patroni's dynamic configuration, with its own defaults."""

    ttl: float = 30
    loop_wait: float = 10

    def of_lease(self) -> LeaseTimes:
        """What they are for."""
        return LeaseTimes(self.ttl, self.loop_wait)


class Patroni:
    """The cluster that the members at some addresses belong to."""

    def __init__(self, address: Address, means: Means) -> None:
        self._turns = Turns([each.at(PORT) for each in address.hosts], kind="Patroni", timeout_s=means.timeout_s)
        self._has_login = bool(address.user)
        self._scheme = "https" if address.scheme == SECURE else "http"
        self._http = Http(
            timeout_s=means.timeout_s,
            tls=partial(tls_of, address) if self._scheme == "https" else None,
            login=(address.user, address.password.text if address.password else "") if address.user else None,
        )

    async def look(self) -> Sighting:
        """Raises SourceFailed."""
        asked, cluster = await self._turns.ask(
            lambda host: self._http.get(f"{self._scheme}://{host}/cluster", _Cluster)
        )
        members = [
            _member(each, each.host, each.port) for each in cluster.members if each.host and is_port(each.port or 5432)
        ]
        holders = [each.name for each in cluster.members if each.role in PRIMARIES or each.role == STANDBY_LEADER]
        return Sighting(
            members=checked(members, by=f"Patroni at {asked}"),
            asked=asked,
            lease=Lease(holder=holders[0]) if holders else None,
            is_paused=cluster.pause,
        )

    async def times(self) -> LeaseTimes:
        """GET /config. Raises SourceFailed."""
        _, times = await self._turns.ask(lambda host: self._http.get(f"{self._scheme}://{host}/config", Times))
        return times.of_lease()

    async def switch_over(self, leader: Member, candidate: Member, *, limit_s: float) -> None:
        """Raises SourceFailed."""
        if self._scheme == "https" and self._has_login and not (leader.api or "https://").startswith("https://"):
            raise SourceFailed(
                f"Patroni of {leader.name} says that it is at {leader.api}: the login is not sent there without TLS",
                hint="Set restapi.connect_address and restapi.certfile of Patroni, or order the switchover there.",
            )
        await switch_over(self._http, leader, candidate, limit_s=limit_s)

    def read_files(self) -> Renewal:
        """Raises Failure."""
        return self._http.read_files()

    async def close(self) -> None:
        """Closes connections."""
        await self._http.close()


async def switch_over(http: Http, leader: Member, candidate: Member, *, limit_s: float) -> None:
    """POST /switchover, of the leader. Source: Patroni documentation, "Patroni REST API", "Switchover and failover".

    Raises SourceFailed where Patroni does not do it, or does not say so.
    """
    if leader.api is None:
        raise SourceFailed(f"nobody tells where Patroni's REST interface of {leader.name} is")
    url = urlsplit(leader.api)
    where = f"{url.scheme}://{url.netloc}"
    try:
        body = {"leader": leader.name, "candidate": candidate.name}
        status, said = await http.tell(f"{where}/switchover", body, limit_s=limit_s)
    except NoAnswer as none:
        raise SourceFailed(f"Patroni at {url.netloc}: {none}") from None
    if status != OK:
        hint = "Its login goes in topology_source_user and topology_source_secret." if status == UNAUTHORIZED else None
        raise SourceFailed(f"Patroni at {url.netloc} does not switch over (HTTP status {status}): {said}", hint=hint)


def _member(told: _Member, host: str, port: int | None) -> Member:
    return Member(
        host=host,
        port=port or 5432,
        role=Role.PRIMARY if told.role in PRIMARIES else Role.REPLICA,
        source="patroni",
        name=told.name,
        timeline=told.timeline if isinstance(told.timeline, int) else None,
        lsn=lsn_of(told.lsn) if told.lsn else None,
        lag_bytes=told.lag if isinstance(told.lag, int) else None,
        state=told.state,
        api=told.api_url,
        weight=weight_of(told.tags),
        zone=zone_of((told.tags or {}).get(ZONE_TAG)),
    )


def weight_of(tags: Mapping[str, Any] | None) -> int | None:
    """A member's weight by its tags. One that Patroni's own health checks keep from balancers has none."""
    told = (tags or {}).get(WEIGHT_TAG)
    if (tags or {}).get("noloadbalance") is True:
        return 0
    text = str(told)
    is_number = not isinstance(told, bool) and text.isdecimal() and len(text) < 4 and int(text) <= WEIGHT_MAX
    return int(text) if is_number else None


def _build(address: Address, means: Means) -> Patroni:
    some_hosts(address, example=EXAMPLE)
    refuse_tls_options(address, SECURE)
    need(address, "httpx2")
    return Patroni(address, means)


KIND: Final = Kind(schemes=(PLAIN, SECURE), example=EXAMPLE, options=TLS_OPTIONS, build=_build)
