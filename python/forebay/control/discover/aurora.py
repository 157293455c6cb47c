"""Amazon's clusters, which tell their topology in SQL: Aurora, and RDS Multi-AZ clusters with two readable standbys.

Asked through a control connection to any member of the cluster. Names of Amazon's functions are not qualified, since
Amazon does not say what schema they are in; the connection's search_path, pg_catalog and pg_temp, is what keeps others
out. Sources: Amazon Aurora User Guide, "aurora_replica_status"; Amazon RDS User Guide, "Multi-AZ DB cluster
deployments", and the extension rds_tools.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Final

from forebay.config.source_address import MEMBERS_MAX, Address, is_port
from forebay.control.discover.member import Member, Role, Sighting, SourceFailed, checked
from forebay.control.discover.registration import Kind, Means, Query, some_hosts
from forebay.failure import Exit, Failure

EXAMPLE: Final = "aurora://shop.cluster-abc123.eu-west-1.rds.amazonaws.com"
PORT: Final = 5432

# What members have in common behind their own names; the cluster's own endpoints have a word before it.
_ENDPOINT: Final = re.compile(
    r"[a-z0-9-]+\.(?:cluster-(?:ro-|custom-)?)?(?P<suffix>[a-z0-9]+\.(?:[a-z0-9-]+\.rds|rds\.[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?)",
    re.IGNORECASE | re.ASCII,
)

_WHICH: Final = """\
SELECT pg_catalog.to_regprocedure('aurora_replica_status()') IS NOT NULL,
       pg_catalog.to_regprocedure('rds_tools.show_topology(text)') IS NOT NULL"""
# A reader that has been deleted keeps its row for a while; the server asked has no time of its own.
_AURORA: Final = f"""\
SELECT server_id::pg_catalog.text, session_id::pg_catalog.text, durable_lsn::pg_catalog.int8,
       current_read_lsn::pg_catalog.int8, replica_lag_in_msec::pg_catalog.float8
  FROM aurora_replica_status()
 WHERE session_id OPERATOR(pg_catalog.=) 'MASTER_SESSION_ID' OR last_update_timestamp IS NULL
    OR last_update_timestamp OPERATOR(pg_catalog.>)
       (pg_catalog.now() OPERATOR(pg_catalog.-) '5 minutes'::pg_catalog.interval)
 ORDER BY 1 LIMIT {MEMBERS_MAX + 1}"""  # noqa: S608  (a number of ours)
# Null at the writer itself.
_RDS_WRITER: Final = """\
SELECT coalesce(
    (SELECT source::pg_catalog.text FROM rds_tools.multi_az_db_cluster_source_dbi_resource_id() AS source),
    (SELECT own::pg_catalog.text FROM rds_tools.dbi_resource_id() AS own))"""
_RDS: Final = f"""\
SELECT id::pg_catalog.text, endpoint::pg_catalog.text, port::pg_catalog.int4
  FROM rds_tools.show_topology('forebay') ORDER BY 1 LIMIT {MEMBERS_MAX + 1}"""  # noqa: S608  (a number of ours)

_WRITER_SESSION: Final = "MASTER_SESSION_ID"

Rows = Sequence[Sequence[Any]]


class Aurora:
    """The cluster that the control connection leads into."""

    def __init__(self, address: Address, query: Query, timeout_s: float) -> None:
        (host,) = address.hosts
        self._host, self._port = host.name, host.port or PORT
        self._suffix = _suffix(host.name)
        self._query = query
        self._timeout_s = timeout_s

    async def look(self) -> Sighting:
        """Raises SourceFailed."""
        by = f"the server asked for {self._host}"
        try:
            async with asyncio.timeout(self._timeout_s):
                ((is_aurora, is_rds),) = await self._query(_WHICH)
                if is_aurora:
                    members = [self._aurora(row) for row in await self._query(_AURORA)]
                elif is_rds:
                    ((writer,),) = await self._query(_RDS_WRITER)
                    members = [_rds(row, writer) for row in await self._query(_RDS)]
                else:
                    hint = "Of an RDS Multi-AZ cluster: CREATE EXTENSION rds_tools. Of others: name another source."
                    raise SourceFailed(f"{by} is neither Aurora's nor of a Multi-AZ cluster", hint=hint)
        except TimeoutError:
            raise SourceFailed(f"{by} gave no answer within {self._timeout_s:g} s") from None
        except (TypeError, ValueError):
            raise SourceFailed(f"{by} answered with rows of another form than is known") from None
        except SourceFailed:
            raise
        except Exception as error:
            # Whatever the driver raises. Its text may hold parts of the statement or of the connection string.
            sqlstate = getattr(error, "sqlstate", None)
            told = f"{type(error).__name__}{f' {sqlstate}' if sqlstate else ''}"
            raise SourceFailed(f"{by} could not be asked ({told})") from error
        return Sighting(members=checked(members, by=by), asked=f"{self._host}:{self._port}")

    async def close(self) -> None:
        """The connection is not ours."""

    def _aurora(self, row: Sequence[Any]) -> Member:
        """LSNs are Aurora's own count, not positions in PostgreSQL's log."""
        server, session, durable, read, lag_ms = row
        is_writer = session == _WRITER_SESSION
        return Member(
            host=f"{server}.{self._suffix}",
            port=self._port,
            role=Role.PRIMARY if is_writer else Role.REPLICA,
            source="aurora",
            name=server,
            lsn=durable if is_writer else read,
            lag_s=None if is_writer or lag_ms is None else lag_ms / 1000,
        )


def _rds(row: Sequence[Any], writer: str | None) -> Member:
    name, host, port = row
    if not host or not is_port(port):
        raise ValueError
    role = Role.UNKNOWN if writer is None else Role.PRIMARY if name == writer else Role.REPLICA
    return Member(host=host, port=port, role=role, source="aurora", name=name)


def _suffix(host: str) -> str:
    found = _ENDPOINT.fullmatch(host)
    if found is None:
        hint = f"Name an endpoint of the cluster as Amazon has it, such as {EXAMPLE}; members' names are made from it."
        raise Failure(f'"{host}" is no endpoint of an Amazon cluster', hint=hint, exit=Exit.USAGE)
    return found["suffix"]


def _build(address: Address, means: Means) -> Aurora:
    some_hosts(address, example=EXAMPLE)
    if len(address.hosts) > 1:
        hint = "The cluster's endpoint is enough."
        raise Failure("an aurora:// address has one host", hint=hint, exit=Exit.USAGE)
    if means.query is None:
        hint = "Give its databases an auth.query user, or name another source."
        raise Failure("an aurora:// address needs a control connection to the cluster", hint=hint)
    return Aurora(address, means.query, means.timeout_s)


KIND: Final = Kind(schemes=("aurora",), example=EXAMPLE, options=frozenset(), build=_build)
