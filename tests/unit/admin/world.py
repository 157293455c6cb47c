"""A service for the console without an engine, and a reader of its answers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from forebay._engine import Catalogue
from forebay.admin.backend import (
    BudgetRow,
    EndpointRow,
    FailoverRow,
    Hosts,
    Identity,
    NodeRow,
    Refused,
    Shutdown,
    SwitchoverOrder,
    Tell,
)
from forebay.admin.snapshot import Client, Pool, Server, Snapshot
from forebay.config import SettingLine, load_text
from forebay.config.resolved import DatabaseConfig, EngineConfig
from forebay.observe.stats import PoolCounters, Totals, WorkerCounters

CONFIG = """
[databases.shop]
endpoints = ["10.0.0.5:5432"]
dbname = "shop_db"
[databases.blog]
endpoints = ["/run/pg/.s.PGSQL.5433"]
[users.ops]
secret = "x"
[console]
admins = ["ops"]
viewers = ["eve"]
"""


def engine_config(text: str = CONFIG) -> EngineConfig:
    """The resolved configuration of a text."""
    config = load_text(text).config
    assert config is not None
    return config.engine


def client(**changes: object) -> Client:
    """A client that waits."""
    row: dict[str, object] = {
        "id": 1187, "user": "app", "database": "shop", "application_name": "web", "state": "waiting",
        "address": "127.0.0.1", "port": 5000, "age_us": 5_000_000, "request_us": 2_000_000, "wait_us": 1_500_000,
        "server": None, "tls": "", "prepared_statements": 3,
    }  # fmt: skip
    return Client(**{**row, **changes})  # type: ignore[arg-type]


def server(**changes: object) -> Server:
    """A server in use."""
    row: dict[str, object] = {
        "id": 7, "user": "app", "database": "shop", "application_name": "", "state": "active", "address": "10.0.0.5",
        "port": 5432, "age_us": 9_000_000, "request_us": 1_000_000, "client": 1188, "remote_pid": 4711, "tls": "",
        "prepared_statements": 0, "close_needed": False,
    }  # fmt: skip
    return Server(**{**row, **changes})  # type: ignore[arg-type]


def pool(**changes: object) -> Pool:
    """A pool with one client served and one waiting."""
    row: dict[str, object] = {
        "database": "shop", "user": "app", "cl_active": 1, "cl_waiting": 1, "cl_active_cancel_req": 0,
        "cl_waiting_cancel_req": 0, "sv_active": 1, "sv_active_cancel": 0, "sv_being_canceled": 0,
        "sv_idle": 0, "sv_used": 0, "sv_tested": 0, "sv_login": 0, "maxwait_us": 1_500_000,
        "pool_mode": "transaction", "sick": None,
    }  # fmt: skip
    return Pool(**{**row, **changes})  # type: ignore[arg-type]


@dataclass
class FakeBackend:
    """Implements forebay.admin.backend.Backend; remembers what it was ordered."""

    config: EngineConfig = field(default_factory=engine_config)
    held: Snapshot = field(default_factory=Snapshot)
    counted: dict[str, Totals] = field(default_factory=dict)
    averaged: dict[str, Totals] = field(default_factory=dict)
    working: list[WorkerCounters] = field(default_factory=list)
    pooled: list[PoolCounters] = field(default_factory=list)
    clustered: list[EndpointRow] = field(default_factory=list)
    failed_over: list[FailoverRow] = field(default_factory=list)
    nodes: list[NodeRow] = field(default_factory=list)
    parts: list[BudgetRow] = field(default_factory=list)
    names: Hosts = field(default_factory=lambda: Hosts([], 0, 0))
    refused: frozenset[str] = frozenset()
    # Rows of the catalogue; None: it can't be had.
    objects: list[list[str | None]] | None = None
    refuses: str | None = None
    is_stopping: bool = False
    orders: list[tuple[object, ...]] = field(default_factory=list)
    identity: Identity = field(default_factory=lambda: Identity("0.1.0", "io_uring", 2))

    def settings(self) -> Sequence[SettingLine]:
        return [SettingLine("listen.port", "6433", "6432", False), SettingLine("auth.type", "md5", "md5", True)]

    def totals(self) -> dict[str, Totals]:
        return self.counted

    def averages(self) -> dict[str, Totals]:
        return self.averaged

    def hosts(self) -> Hosts:
        return self.names

    def endpoints(self) -> Sequence[EndpointRow]:
        return self.clustered

    def failovers(self) -> Sequence[FailoverRow]:
        return self.failed_over

    def fleet(self) -> Sequence[NodeRow]:
        return self.nodes

    def budgets(self) -> Sequence[BudgetRow]:
        return self.parts

    async def forget_node(self, node: str) -> None:
        self._order("forget_node", node)

    async def catalogue(self, database: str) -> Catalogue | None:
        if self.refuses is not None:
            raise Refused(self.refuses)
        return Catalogue(self.objects) if self.objects is not None else None

    def was_refused(self, database: DatabaseConfig, text: str) -> bool:
        return text in self.refused

    def workers(self) -> Sequence[WorkerCounters]:
        return self.working

    def pools(self) -> Sequence[PoolCounters]:
        return self.pooled

    async def snapshot(self) -> Snapshot:
        return self.held

    async def sockets(self) -> Snapshot:
        return self.held

    async def suspend(self) -> None:
        self._order("suspend")

    async def pause(self, database: str | None, limit_s: float | None = None, by: object | None = None) -> None:
        self._order("pause", database, *(() if limit_s is None else (limit_s,)))

    async def unpause(self, database: str | None, by: object) -> None:
        self._order("unpause", database)

    async def resume(self, database: str | None) -> None:
        self._order("resume", database)

    async def kill(self, database: str | None) -> None:
        self._order("kill", database)

    async def kill_client(self, client: int) -> None:
        self._order("kill_client", client)

    async def switch_over(self, order: SwitchoverOrder, tell: Tell) -> None:
        tell("held: all wait", None)
        self._order("switch_over", order)

    async def call_off_switchover(self) -> None:
        self._order("call_off_switchover")

    def switch_back(self, database: str) -> None:
        self._order("switch_back", database)

    async def reconnect(self, database: str | None) -> None:
        self._order("reconnect", database)

    async def disable(self, database: str) -> None:
        self._order("disable", database)

    async def enable(self, database: str) -> None:
        self._order("enable", database)

    async def wait_close(self, database: str | None) -> None:
        self._order("wait_close", database)

    async def set_setting(self, name: str, value: str) -> None:
        self._order("set", name, value)

    async def reload(self) -> Sequence[str]:
        self._order("reload")
        return ["listen.port: 1 -> 2"]

    is_draining = False

    def drain(self, is_on: bool) -> None:
        self.is_draining = is_on

    def shutdown(self, how: Shutdown) -> None:
        self._order("shutdown", how)

    def _order(self, *order: object) -> None:
        if self.refuses is not None:
            raise Refused(self.refuses)
        self.orders.append(order)


@dataclass
class Reply:
    """An encoded answer, read again."""

    columns: list[tuple[str, int]] = field(default_factory=list)
    rows: list[list[str | None]] = field(default_factory=list)
    tag: str | None = None
    error: dict[str, str] | None = None
    notices: list[dict[str, str]] = field(default_factory=list)
    kinds: str = ""

    def records(self) -> list[dict[str, str | None]]:
        """The rows by column name."""
        return [dict(zip((name for name, _ in self.columns), row, strict=True)) for row in self.rows]


def read(messages: bytes) -> Reply:
    """Reads backend messages; fails on a length that does not fit."""
    reply = Reply()
    while messages:
        kind, (length,) = messages[:1], struct.unpack("!i", messages[1:5])
        body, messages = messages[5 : length + 1], messages[length + 1 :]
        assert len(body) == length - 4
        reply.kinds += kind.decode()
        if kind == b"T":
            reply.columns = _columns(body)
        elif kind == b"D":
            reply.rows.append(_row(body))
        elif kind == b"C":
            reply.tag = body[:-1].decode()
        elif kind == b"E":
            reply.error = _fields(body)
        elif kind == b"N":
            reply.notices.append(_fields(body))
    return reply


def _columns(body: bytes) -> list[tuple[str, int]]:
    columns, rest = [], body[2:]
    for _ in range(struct.unpack("!h", body[:2])[0]):
        name, _, rest = rest.partition(b"\0")
        columns.append((name.decode(), struct.unpack("!ihihih", rest[:18])[2]))
        rest = rest[18:]
    assert rest == b""
    return columns


def _row(body: bytes) -> list[str | None]:
    row: list[str | None] = []
    rest = body[2:]
    for _ in range(struct.unpack("!h", body[:2])[0]):
        (length,) = struct.unpack("!i", rest[:4])
        row.append(None if length < 0 else rest[4 : 4 + length].decode())
        rest = rest[4 + max(length, 0) :]
    assert rest == b""
    return row


def _fields(body: bytes) -> dict[str, str]:
    assert body.endswith(b"\0\0")
    return {part[:1].decode(): part[1:].decode() for part in body[:-2].split(b"\0")}
