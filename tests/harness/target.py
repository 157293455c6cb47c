"""Something that speaks PostgreSQL's protocol at an address: a server, or forebay in front of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from tests.harness.wire import Frame, Wire

# Every wait of a test's own client ends here.
TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Target:
    """host: an address, or the folder of a Unix socket. timeout_s: of every wait of a client that speaks frames."""

    name: str
    host: str
    port: int
    dbname: str = "app"
    user: str = "app"
    password: str | None = None
    timeout_s: float = TIMEOUT_S

    def at(self, **changes: Any) -> Target:
        """The same place for another database, user or password."""
        return dataclasses.replace(self, **changes)

    def dsn(self, **options: Any) -> str:
        """For libpq and what is built on it."""
        given = {"host": self.host, "port": self.port, "dbname": self.dbname, "user": self.user, "sslmode": "disable"}
        if self.password is not None:
            given["password"] = self.password
        return make_conninfo("", **{**given, **options})

    def connect(self, *, autocommit: bool = False, **options: Any) -> psycopg.Connection[Any]:
        """A psycopg connection."""
        options.setdefault("connect_timeout", int(TIMEOUT_S))
        return psycopg.connect(self.dsn(**options), autocommit=autocommit)

    def asyncpg(self, **options: Any) -> dict[str, Any]:
        """Arguments for asyncpg.connect."""
        return {
            "host": self.host, "port": self.port, "database": self.dbname, "user": self.user,
            "password": self.password, "ssl": False, "timeout": TIMEOUT_S, **options,
        }  # fmt: skip

    def dial(self) -> Wire:
        """A connection over which nothing has been said."""
        return Wire(self.host, self.port, timeout_s=self.timeout_s)

    def first(self, packet: bytes) -> list[Frame]:
        """What is said to a startup packet, up to ReadyForQuery or an error."""
        with self.dial() as wire:
            return wire.first(packet)

    def wire(self, **parameters: str) -> Wire:
        """A session of the client that speaks frames."""
        wire = self.dial()
        try:
            wire.log_in(user=self.user, database=self.dbname, password=self.password, **parameters)
        except BaseException:
            wire.close()
            raise
        return wire
