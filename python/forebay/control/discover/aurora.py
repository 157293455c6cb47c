"""Amazon's clusters, which tell their topology in SQL: Aurora, and RDS Multi-AZ clusters with two readable standbys.

Any member of the cluster knows it; one that can write knows it first-hand, and is asked first. Sources: Amazon Aurora
User Guide, "aurora_replica_status"; Amazon RDS User Guide, "Multi-AZ DB cluster deployments", and the extension
rds_tools; what Amazon's own drivers ask (aws-advanced-jdbc-wrapper).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from forebay.config.source_address import MEMBERS_MAX, Address, is_host, is_port
from forebay.control.discover.member import Member, Role, Sighting, SourceFailed, checked
from forebay.control.discover.registration import Kind, Means, Query, Servers, need, some_hosts
from forebay.failure import Exit, Failure

EXAMPLE: Final = "aurora://shop.cluster-abc123.eu-west-1.rds.amazonaws.com"
PORT: Final = 5432
# An option: how members are reached, where that is not by the names that Amazon gives them.
MEMBERS: Final = "members"
MEMBERS_EXAMPLE: Final = "?members=*.db.example.com"
_ANY: Final = "*"

# What members have in common behind their own names; the cluster's own endpoints have a word before it.
_ENDPOINT: Final = re.compile(
    r"[a-z0-9-]+\.(?:cluster-(?:ro-|custom-)?)?(?P<suffix>[a-z0-9]+\.(?:[a-z0-9-]+\.rds|rds\.[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?)",
    re.IGNORECASE | re.ASCII,
)
_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,63}", re.ASCII)

_WHICH: Final = """\
SELECT pg_catalog.to_regprocedure('pg_catalog.aurora_replica_status()') IS NOT NULL,
       pg_catalog.to_regprocedure('rds_tools.show_topology(text)') IS NOT NULL"""
# A reader that has been deleted keeps its row for a while; the server asked has no time of its own.
_AURORA: Final = f"""\
SELECT server_id::pg_catalog.text, session_id::pg_catalog.text, durable_lsn::pg_catalog.int8,
       current_read_lsn::pg_catalog.int8, replica_lag_in_msec::pg_catalog.float8
  FROM pg_catalog.aurora_replica_status()
 WHERE session_id OPERATOR(pg_catalog.=) 'MASTER_SESSION_ID' OR last_update_timestamp IS NULL
    OR last_update_timestamp OPERATOR(pg_catalog.>)
       (pg_catalog.now() OPERATOR(pg_catalog.-) '5 minutes'::pg_catalog.interval)
 ORDER BY 1 LIMIT {MEMBERS_MAX + 1}"""  # noqa: S608  (a number of ours)
# Null at the writer itself, or its own.
_RDS_WRITER: Final = """\
SELECT COALESCE(
    (SELECT source::pg_catalog.text FROM rds_tools.multi_az_db_cluster_source_dbi_resource_id() AS source),
    (SELECT own::pg_catalog.text FROM rds_tools.dbi_resource_id() AS own))"""
_RDS: Final = f"""\
SELECT id::pg_catalog.text, endpoint::pg_catalog.text, port::pg_catalog.int4
  FROM rds_tools.show_topology('forebay') ORDER BY 1 LIMIT {MEMBERS_MAX + 1}"""  # noqa: S608  (a number of ours)

_WRITER_SESSION: Final = "MASTER_SESSION_ID"


class Aurora:
    """The cluster that an address leads into."""

    def __init__(self, address: Address, servers: Servers, pattern: str, port: int | None) -> None:
        """pattern: of members' hosts, with a * for their names; port: of all members, where it is not told or other."""
        (host,) = address.hosts
        self._beside = host.at(PORT)
        self._is_renamed = MEMBERS in address.options
        self._pattern, self._port, self._default_port = pattern, port, host.port or PORT
        self._servers = servers

    async def look(self) -> Sighting:
        """Raises SourceFailed."""
        try:
            asked, members = await self._servers.ask(self._members, self._beside)
        except (TypeError, ValueError):
            raise SourceFailed(f"servers of {self._beside} answer with rows of another form than is known") from None
        if members is None:
            hint = "Of an RDS Multi-AZ cluster: CREATE EXTENSION rds_tools in its dbname. Of others: another topology."
            raise SourceFailed(f"{asked} is neither Aurora's nor of a Multi-AZ cluster", hint=hint)
        return Sighting(members=checked(members, by=asked), asked=asked)

    async def close(self) -> None:
        """Ends the connections."""
        self._servers.close()

    async def _members(self, query: Query) -> list[Member] | None:
        """None: it is no such cluster."""
        ((is_aurora, is_rds),) = await query(_WHICH)
        if is_aurora:
            return [self._aurora(row) for row in await query(_AURORA)]
        if not is_rds:
            return None
        ((writer,),) = await query(_RDS_WRITER)
        return [self._rds(row, writer) for row in await query(_RDS)]

    def _aurora(self, row: Sequence[Any]) -> Member:
        """LSNs are Aurora's own count, not positions in PostgreSQL's log."""
        server, session, durable, read, lag_ms = row
        is_writer = session == _WRITER_SESSION
        return Member(
            host=self._host(server),
            port=self._port or self._default_port,
            role=Role.PRIMARY if is_writer else Role.REPLICA,
            source="aurora",
            name=server,
            lsn=durable if is_writer else read,
            lag_s=None if is_writer or lag_ms is None else lag_ms / 1000,
        )

    def _rds(self, row: Sequence[Any], writer: str | None) -> Member:
        name, endpoint, port = row
        port = self._port or port
        if not endpoint or not is_port(port):
            raise ValueError
        host = self._host(endpoint.partition(".")[0]) if self._is_renamed else endpoint
        role = Role.UNKNOWN if writer is None else Role.PRIMARY if name == writer else Role.REPLICA
        return Member(host=host, port=port, role=role, source="aurora", name=name)

    def _host(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError
        return self._pattern.replace(_ANY, name)


def _pattern(address: Address) -> tuple[str, int | None]:
    """Members' hosts with a * for their names, and the port of all of them, if that is said. Raises Failure."""
    given = address.options.get(MEMBERS)
    (host,) = address.hosts
    if given is None:
        found = _ENDPOINT.fullmatch(host.name)
        if found is None:
            hint = (
                f"Name an endpoint of the cluster as Amazon has it, or say how members are reached: {MEMBERS_EXAMPLE}"
            )
            raise Failure(f'"{host.name}" is no endpoint of an Amazon cluster', hint=hint, exit=Exit.USAGE)
        return f"{_ANY}.{found['suffix']}", None
    name, colon, port = given.partition(":")
    is_number = port.isascii() and port.isdecimal() and len(port) < 6 and is_port(int(port))
    if name.count(_ANY) != 1 or not is_host(name.replace(_ANY, "a")) or (colon and not is_number):
        hint = (
            f"Write a * where a member's name is to stand, as in {MEMBERS_EXAMPLE} or ?members=*.db.example.com:6432."
        )
        raise Failure(f'the option members is "{given}", which is no pattern of hosts', hint=hint, exit=Exit.USAGE)
    return name, int(port) if colon else None


def _build(address: Address, means: Means) -> Aurora:
    some_hosts(address, example=EXAMPLE)
    if len(address.hosts) > 1:
        hint = "The cluster's endpoint is enough."
        raise Failure("an aurora:// address has one host", hint=hint, exit=Exit.USAGE)
    if address.user is not None:
        hint = "Its members are asked as poll_user."
        raise Failure("an aurora:// address has no user", hint=hint, exit=Exit.USAGE)
    if address.path:
        raise Failure("an aurora:// address has no path", hint=f"Write {EXAMPLE}.", exit=Exit.USAGE)
    pattern, port = _pattern(address)
    need(address, "psycopg", extra="auth-query")
    if means.servers is None:
        hint = "Name a database with this topology, whose endpoints and poll_user it is asked with."
        raise Failure("an aurora:// address needs servers of the cluster to ask", hint=hint)
    return Aurora(address, means.servers(), pattern, port)


KIND: Final = Kind(schemes=("aurora",), example=EXAMPLE, options=frozenset((MEMBERS,)), build=_build)
