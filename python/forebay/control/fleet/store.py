"""What a fleet keeps in etcd, below /forebay/NAME/: its nodes, the primaries it writes to, its budgets.

| key | value | lives |
|---|---|---|
| nodes/NODE | who it is, and the records that it holds | as long as the node's lease |
| primaries/SYSTEM | timeline and endpoint | for ever: a lower timeline must not come back |
| budgets/DATABASE | what each node was lent | for ever |

Each change is one transaction, which compares what it rests on. It may be done twice, or done and not be told: whoever
makes one looks again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from forebay.control.discover.member import SourceFailed
from forebay.control.etcd_gateway import Gateway, Header, Key, below, encoded, number
from forebay.control.fleet.agreement import Record
from forebay.control.fleet.allocation import Budget, Part

# Nodes and keys that a fleet may have: nothing grows by what is in the store.
NODES_MAX: Final = 64
KEYS_MAX: Final = 2000
# etcd says something at least as often, while nodes renew their leases or want other servers than before.
SILENCE_S: Final = 30.0


class Node(msgspec.Struct):
    """What a node tells of itself. started: seconds since 1970. held: timeline and endpoint by system."""

    id: str
    version: str
    address: str
    started: float
    held: dict[str, tuple[int, str]] = {}

    def record(self, system: int) -> Record | None:
        """What it holds for a system."""
        found = self.held.get(str(system))
        return Record(*found) if found else None


@dataclass(frozen=True, slots=True)
class There:
    """A node whose lease holds. revision: of the store, at its registration."""

    node: Node
    revision: int


@dataclass(frozen=True, slots=True)
class Seen:
    """The fleet's keys at one revision of the store. Records and budgets with their own last revisions."""

    host: str
    revision: int
    nodes: Mapping[str, There]
    records: Mapping[int, tuple[Record, int]]
    budgets: Mapping[str, tuple[Budget, int]]


class _Granted(msgspec.Struct):
    ID: str
    TTL: str = "0"


class _Kept(msgspec.Struct):
    result: _Granted


class _Range(msgspec.Struct):
    header: Header
    kvs: list[Key] = []
    more: bool = False


class _Done(msgspec.Struct):
    header: Header
    succeeded: bool = False


class _Record(msgspec.Struct):
    timeline: int
    endpoint: str


class _Part(msgspec.Struct):
    lent: int
    kept: int
    wanted: int = 0


class _Budget(msgspec.Struct):
    total: int
    nodes: dict[str, _Part] = {}


class _Nothing(msgspec.Struct):
    pass


class Store:
    """The keys of one fleet."""

    def __init__(self, gateway: Gateway, name: str) -> None:
        self._gateway = gateway
        self._folder = f"/forebay/{name}"

    async def grant(self, ttl_s: int) -> tuple[str, float]:
        """A new lease, and how long etcd gives it. Raises SourceFailed, as all of these do."""
        wanted = {"ID": str(secrets.randbits(62) + 1), "TTL": str(ttl_s)}
        granted = await self._gateway.call("lease/grant", wanted, _Granted)
        return granted.ID, float(number(granted.TTL))

    async def renew(self, lease: str) -> float:
        """Its time begins anew; 0 where it is over."""
        kept = await self._gateway.call("lease/keepalive", {"ID": lease}, _Kept)
        return float(max(0, number(kept.result.TTL)))

    async def revoke(self, lease: str) -> None:
        """Ends it, and what was written under it."""
        await self._gateway.call("lease/revoke", {"ID": lease}, _Nothing)

    async def look(self) -> Seen:
        """All keys."""
        asked = {**below(self._folder), "limit": str(KEYS_MAX)}
        host, found = await self._gateway.ask(lambda host: self._gateway.post(host, "kv/range", asked, _Range))
        if found.more:
            raise SourceFailed(f"etcd has more than {KEYS_MAX} keys below {self._folder}/")
        nodes: dict[str, There] = {}
        records: dict[int, tuple[Record, int]] = {}
        budgets: dict[str, tuple[Budget, int]] = {}
        for key in found.kvs:
            kind, _, name = key.name.removeprefix(f"{self._folder}/").partition("/")
            try:
                if kind == "nodes":
                    nodes[name] = There(msgspec.json.decode(key.text, type=Node), number(key.create_revision))
                elif kind == "primaries" and name.isdecimal():
                    record = msgspec.json.decode(key.text, type=_Record)
                    records[int(name)] = Record(record.timeline, record.endpoint), number(key.mod_revision)
                elif kind == "budgets":
                    budget = msgspec.json.decode(key.text, type=_Budget)
                    parts = {node: Part(one.lent, one.kept, one.wanted) for node, one in budget.nodes.items()}
                    budgets[name] = Budget(budget.total, parts), number(key.mod_revision)
            except msgspec.DecodeError as error:
                raise SourceFailed(f"etcd's key {key.name} is not as forebay writes it: {error}") from None
        return Seen(host, number(found.header.revision), nodes, records, budgets)

    def changes(self, seen: Seen) -> AsyncGenerator[int, None]:
        """Revisions after that one at which a key changed."""
        return self._gateway.changes(seen.host, self._folder, seen.revision, silence_s=SILENCE_S)

    async def register(self, name: str, node: Node, lease: str) -> int | None:
        """The revision of it; None: the name is taken by a node that is there."""
        key = self._key("nodes", name)
        done = await self._transaction([_created(key, 0)], [_put(key, _words(node), lease)])
        return number(done.header.revision) if done.succeeded else None

    async def hold(self, name: str, there: There, lease: str, system: int, revision: int) -> bool:
        """Writes down what the node holds, if the record of the system is still of that revision."""
        own, record = self._key("nodes", name), self._key("primaries", str(system))
        compared = [_created(own, there.revision), _modified(record, revision)]
        return (await self._transaction(compared, [_put(own, _words(there.node), lease)])).succeeded

    async def record(
        self, name: str, since: int, system: int, record: Record, revision: int, *, unheld_at: int | None = None
    ) -> bool:
        """Changes the record of a system that is of that revision, 0 for none. since: the node's registration.

        unheld_at: only if no node has written anything since that revision.
        """
        key = self._key("primaries", str(system))
        compared = [_created(self._key("nodes", name), since), _modified(key, revision)]
        if unheld_at is not None:
            nodes = below(f"{self._folder}/nodes")
            compared.append({**nodes, "target": "MOD", "result": "LESS", "mod_revision": str(unheld_at + 1)})
        value = json.dumps({"timeline": record.timeline, "endpoint": record.endpoint})
        return (await self._transaction(compared, [_put(key, value)])).succeeded

    async def divide(
        self, name: str, since: int, database: str, budget: Budget, revision: int, absent: Iterable[str]
    ) -> bool:
        """Changes a budget that is of that revision, 0 for none, while these nodes are not there."""
        key = self._key("budgets", database)
        compared = [_created(self._key("nodes", name), since), _modified(key, revision)]
        compared += [_created(self._key("nodes", each), 0) for each in absent]
        parts = {
            node: {"lent": part.lent, "kept": part.kept, "wanted": part.wanted} for node, part in budget.parts.items()
        }
        value = json.dumps({"total": budget.total, "nodes": parts})
        return (await self._transaction(compared, [_put(key, value)])).succeeded

    async def close(self) -> None:
        """Closes connections."""
        await self._gateway.close()

    def _key(self, kind: str, name: str) -> str:
        return f"{self._folder}/{kind}/{name}"

    async def _transaction(self, compared: list[dict[str, Any]], done: list[dict[str, Any]]) -> _Done:
        return await self._gateway.call("kv/txn", {"compare": compared, "success": done}, _Done)


def _created(key: str, revision: int) -> dict[str, Any]:
    """0: there is no such key."""
    return {"key": encoded(key), "target": "CREATE", "result": "EQUAL", "create_revision": str(revision)}


def _modified(key: str, revision: int) -> dict[str, Any]:
    return {"key": encoded(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}


def _put(key: str, value: str, lease: str = "0") -> dict[str, Any]:
    return {"request_put": {"key": encoded(key), "value": encoded(value), "lease": lease}}


def _words(node: Node) -> str:
    return msgspec.json.encode(node).decode()
