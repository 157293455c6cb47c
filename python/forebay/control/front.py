"""The configuration that `forebay up` runs with: one role, whose password serves clients and server."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

from forebay.admin.snapshot import Snapshot
from forebay.control.dsn import Dsn
from forebay.control.embedded.cluster import Reached
from forebay.control.embedded.state import State, write_private
from forebay.failure import Exit, Failure

REACH_TIMEOUT_S: Final = 5.0
# How long a login may take, and how often is looked whether it is through.
LET_IN_TIMEOUT_S, LOOK_S = 30.0, 0.02


@dataclass(frozen=True, slots=True)
class Front:
    """What stands behind forebay, and who may use it.

    title: what to say about it. dbname: the name on the server. is_tried_at_start: a server is opened at once, so that
    a login that is refused is told before the first client comes.
    """

    title: str
    endpoints: tuple[str, ...]
    database: str
    dbname: str
    role: str
    password_file: Path
    tls: Mapping[str, str] = field(default_factory=dict)
    is_tried_at_start: bool = False

    def toml(self, *, port: int, metrics_port: int) -> str:
        """A forebay.toml. A JSON text is a TOML one as well, so that is how values are quoted."""
        endpoints = json.dumps(list(self.endpoints))
        tls = [f"tls.{key} = {json.dumps(value)}" for key, value in self.tls.items()]
        # A pool is opened before its first client only where its user is fixed. There is no other user here anyway.
        tried = [f"user = {json.dumps(self.role)}", "min_pool_size = 1"] if self.is_tried_at_start else []
        lines = [
            "[listen]",
            'address = "127.0.0.1"',
            f"port = {port}",
            "[metrics]",
            f'address = "127.0.0.1:{metrics_port}"',
            "[server_defaults]",
            'pool_mode = "transaction"',
            *tls,
            f"[databases.{json.dumps(self.database)}]",
            f"dbname = {json.dumps(self.dbname)}",
            f"endpoints = {endpoints}",
            *tried,
            '[databases."*"]',
            f"endpoints = {endpoints}",
            f"[users.{json.dumps(self.role)}]",
            f"secret = {{ file = {json.dumps(str(self.password_file))} }}",
            "[console]",
            f"admins = [{json.dumps(self.role)}]",
        ]
        return "".join(f"{line}\n" for line in lines)

    def dsn(self, address: str, database: str, passfile: Path) -> str:
        """How clients connect, without the password in it."""
        return f"postgresql://{quote(self.role)}@{address}/{quote(database)}?passfile={quote(str(passfile), safe='/')}"


def front_of_embedded(reached: Reached, *, title: str) -> Front:
    """forebay before the embedded server."""
    return Front(
        title=title,
        endpoints=(str(reached.socket),),
        database=reached.database,
        dbname=reached.database,
        role=reached.role,
        password_file=reached.password_file,
        tls={"mode": "disable"},
    )


def front_of_dsn(dsn: Dsn, state: State) -> Front:
    """forebay before a database that exists. Keeps the secret 0600 in the state folder.

    A DSN without a password is one for a server that asks for none (trust, peer); clients then get a random one, since
    what the server believes of this machine it need not believe of forebay's clients.
    Raises Failure (exit code 3) when none of the endpoints can be reached.
    """
    causes = [cause for endpoint in dsn.endpoints if (cause := _unreachable(endpoint)) is not None]
    if len(causes) == len(dsn.endpoints):
        raise Failure(
            f"the database can't be reached: {'; '.join(causes)}",
            hint="Check host and port of --server, and that PostgreSQL runs there.",
            exit=Exit.CANNOT_REACH,
        )
    password_file = state.folder / "server-password"
    password = dsn.password or state.password()
    write_private(password_file, password + "\n")
    state.write_passfile(user=dsn.user, password=password)
    # A name of the console's own can't be asked for through forebay.
    database = f"{dsn.dbname}_db" if dsn.dbname in ("forebay", "pgbouncer") else dsn.dbname
    title = f"before {dsn.endpoints[0]}, database {dsn.dbname}"
    return Front(title, dsn.endpoints, database, dsn.dbname, dsn.user, password_file, dsn.tls, is_tried_at_start=True)


async def let_in(look: Callable[[], Awaitable[Snapshot]], database: str) -> None:
    """Waits until the first server of a database is open. Raises Failure where it is not let in, or nobody answers."""
    by = time.monotonic() + LET_IN_TIMEOUT_S
    while time.monotonic() < by:
        for pool in (await look()).pools:
            if pool.database != database:
                continue
            if pool.sick is not None:
                raise Failure(
                    f"the database does not let forebay in: {pool.sick}",
                    hint="Check user, password and database of --server; psql with the same DSN must get in.",
                )
            if pool.servers > pool.sv_login:
                return
        await asyncio.sleep(LOOK_S)
    raise Failure(
        f"the database did not let forebay in within {LET_IN_TIMEOUT_S:g} s",
        hint="Something listens there, and answers no login: check host and port of --server.",
        exit=Exit.CANNOT_REACH,
    )


def _unreachable(endpoint: str) -> str | None:
    """Why nobody answers at `endpoint`, or None."""
    try:
        if endpoint.startswith("/"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(REACH_TIMEOUT_S)
                probe.connect(endpoint)
        else:
            host, _, port = endpoint.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_TIMEOUT_S).close()
    except OSError as error:
        return f"{endpoint}: {error.strerror or error}"
    return None
