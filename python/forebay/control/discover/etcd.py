"""The keys that Patroni keeps in etcd: who holds the leader's key, how long, and what members tell of themselves.

One transaction reads all keys, so that a sighting is of one moment. Source: Patroni documentation, "Dynamic
configuration", and what Patroni writes.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

from forebay.config.recovery import LeaseTimes
from forebay.config.source_address import MEMBERS_MAX, Address, is_port
from forebay.control.discover import patroni
from forebay.control.discover.http import TLS_OPTIONS, NoAnswer, T, refuse_tls_options
from forebay.control.discover.member import Lease, Member, Renewal, Role, Sighting, SourceFailed, checked, zone_of
from forebay.control.discover.registration import Kind, Means, need, some_hosts
from forebay.control.etcd_gateway import PLAIN, SECURE, Gateway, Header, Key, below, encoded, number
from forebay.failure import Exit, Failure

EXAMPLE: Final = "etcd://10.0.0.1:2379,10.0.0.2:2379/scope"
# Patroni's own default.
NAMESPACE: Final = "service"
# Patroni writes keys every ten seconds: a watch that is silent for longer may be one that nobody serves.
SILENCE_S: Final = 15.0


class _Range(msgspec.Struct):
    kvs: list[Key] = []


class _Answer(msgspec.Struct):
    response_range: _Range


class _Transaction(msgspec.Struct):
    header: Header
    responses: list[_Answer]


class _TimeToLive(msgspec.Struct):
    """TTL is -1 of a lease that has run out."""

    TTL: str = "-1"


class _MemberData(msgspec.Struct):
    """What a member writes of itself. xlog_location: how far it has written or received."""

    conn_url: str = ""
    role: str = ""
    state: str | None = None
    replication_state: str | None = None
    timeline: int | None = None
    xlog_location: int | None = None
    api_url: str | None = None
    tags: dict[str, Any] | None = None


class _Status(msgspec.Struct):
    optime: int = 0


class _Config(msgspec.Struct):
    pause: bool | None = None
    standby_cluster: dict[str, Any] | None = None


class Etcd:
    """The cluster of one scope."""

    def __init__(self, address: Address, means: Means) -> None:
        self._scope = f"/{address.options.get('namespace', NAMESPACE).strip('/')}/{address.path}"
        self._gateway = Gateway(address, timeout_s=means.timeout_s)

    async def look(self) -> Sighting:
        """Raises SourceFailed."""
        sighting, _ = await self._seen()
        return sighting

    async def watch(self) -> AsyncGenerator[Sighting, None]:
        """A sighting at once, and after every change of a key that one is made of. Raises SourceFailed."""
        while True:
            sighting, revision = await self._seen()
            yield sighting
            async with contextlib.aclosing(
                self._gateway.changes(sighting.asked, self._scope, revision, silence_s=SILENCE_S)
            ) as changes:
                async for changed in changes:
                    if changed <= revision:
                        continue
                    # The same says that it is so still.
                    sighting, revision = await self._seen()
                    yield sighting

    async def times(self) -> LeaseTimes:
        """Patroni's, of the key that it keeps its configuration in. Raises SourceFailed."""
        _, (keys, _, _) = await self._gateway.ask(self._keys)
        return (_read(keys.get("config"), patroni.Times) or patroni.Times()).of_lease()

    async def switch_over(self, leader: Member, candidate: Member, *, limit_s: float) -> None:
        """Asked of Patroni itself, where its members say that it is: without a login. Raises SourceFailed."""
        await patroni.switch_over(self._gateway.http, leader, candidate, limit_s=limit_s)

    def read_files(self) -> Renewal:
        """Raises Failure."""
        return self._gateway.http.read_files()

    async def close(self) -> None:
        """Closes connections."""
        await self._gateway.close()

    async def _seen(self) -> tuple[Sighting, int]:
        """With the revision of the store that it is of."""
        asked, (keys, lease, revision) = await self._gateway.ask(self._keys)
        return _sighting(asked, self._scope, keys, lease), revision

    async def _keys(self, host: str) -> tuple[dict[str, Key], _TimeToLive | None, int]:
        """Keys by their names below the scope; what is left of the leader's lease; the revision. Raises NoAnswer."""
        single = ("leader", "status", "initialize", "config")
        ranges = [{"request_range": {"key": encoded(f"{self._scope}/{each}")}} for each in single]
        members = {**below(f"{self._scope}/members"), "limit": str(MEMBERS_MAX + 1)}
        found = await self._gateway.post(
            host, "kv/txn", {"success": [*ranges, {"request_range": members}]}, _Transaction
        )
        kvs = [each for answer in found.responses for each in answer.response_range.kvs]
        keys = {each.name.removeprefix(f"{self._scope}/"): each for each in kvs}
        lease = None
        if "leader" in keys and keys["leader"].lease != "0":
            # The key is what counts; how long it has is worth an answer only if there is one.
            with contextlib.suppress(NoAnswer):
                lease = await self._gateway.post(host, "lease/timetolive", {"ID": keys["leader"].lease}, _TimeToLive)
        return keys, lease, number(found.header.revision)


def _sighting(asked: str, scope: str, keys: dict[str, Key], left: _TimeToLive | None) -> Sighting:
    if not keys:
        hint = "Write the scope of Patroni's configuration behind the hosts; ?namespace= where it is not /service/."
        raise SourceFailed(f"etcd at {asked} has no key below {scope}/", hint=hint)
    leader = keys.get("leader")
    config = _read(keys.get("config"), _Config) or _Config()
    status = _read(keys.get("status"), _Status) or _Status()
    can_write = leader.text if leader and not config.standby_cluster else None
    members = []
    for name, key in keys.items():
        data = _read(key, _MemberData) if name.startswith("members/") else None
        if data and (member := _member(name.removeprefix("members/"), data, can_write, status.optime)):
            members.append(member)
    lease = None
    if leader:
        left_s = max(0.0, float(number(left.TTL))) if left else None
        lease = Lease(holder=leader.text, term=number(leader.create_revision), left_s=left_s)
    return Sighting(
        members=checked(members, by=f"etcd at {asked}, below {scope}/,"),
        asked=asked,
        lease=lease,
        system_identifier=keys["initialize"].text if "initialize" in keys else None,
        is_paused=bool(config.pause),
    )


def _member(name: str, data: _MemberData, primary: str | None, optime: int) -> Member | None:
    """None without an address that can be used."""
    try:
        url = urlsplit(data.conn_url)
        host, port = url.hostname, url.port or 5432
    except ValueError:
        return None
    if not host or not is_port(port):
        return None
    is_primary = name == primary
    lag = max(0, optime - data.xlog_location) if optime and data.xlog_location is not None else None
    return Member(
        host=unquote(host),
        port=port,
        role=Role.PRIMARY if is_primary else Role.REPLICA,
        source="etcd",
        name=name,
        timeline=data.timeline,
        lsn=data.xlog_location,
        lag_bytes=None if is_primary else lag,
        state=data.state if is_primary else data.replication_state or data.state,
        api=data.api_url,
        weight=patroni.weight_of(data.tags),
        zone=zone_of((data.tags or {}).get(patroni.ZONE_TAG)),
    )


def _read(key: Key | None, of: type[T]) -> T | None:
    """A key's JSON; None for none, or one that is not as Patroni writes it."""
    if key is None:
        return None
    try:
        return msgspec.json.decode(key.text, type=of)
    except msgspec.DecodeError:
        return None


def _build(address: Address, means: Means) -> Etcd:
    some_hosts(address, example=EXAMPLE)
    if not address.path:
        raise Failure(f"the {address.scheme}:// address names no scope", hint=f"Write {EXAMPLE}.", exit=Exit.USAGE)
    refuse_tls_options(address, SECURE)
    need(address, "httpx2")
    return Etcd(address, means)


KIND: Final = Kind(schemes=(PLAIN, SECURE), example=EXAMPLE, options=TLS_OPTIONS | {"namespace"}, build=_build)
