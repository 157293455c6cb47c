"""How long failovers take by a configuration, and by what those say who promote."""

from __future__ import annotations

import asyncio
import os

from forebay.config import Config
from forebay.config.recovery import LeaseTimes, Recovery, recovery
from forebay.config.topology import Topology
from forebay.control.discover import build_source
from forebay.control.discover.member import SourceFailed, TimedSource, WatchedSource
from forebay.control.discover.poll import HURRY_S
from forebay.failure import Failure


def recoveries(config: Config) -> tuple[Recovery, ...]:
    """Of each database with a topology. Asks the sources that know something of it."""
    pools = {database.name: database.pool for database in config.engine.databases}
    found = []
    for topology in config.topologies:
        pool = pools[topology.database]
        times, unknown, is_watched = asyncio.run(_asked(topology))
        found.append(
            recovery(
                topology,
                pool_size=pool.pool_size,
                opening_max=pool.server_opening_max,
                wait_s=pool.query_wait_timeout / 1_000_000,
                hurry_s=HURRY_S,
                is_watched=is_watched,
                times=times,
                unknown=unknown,
            )
        )
    return tuple(found)


async def _asked(topology: Topology) -> tuple[LeaseTimes | None, str | None, bool]:
    """What its source says of its times, or why it does not; whether it tells of changes by itself."""
    if topology.source is None:
        return None, None, False
    try:
        source = build_source(topology, topology.source, os.environ)
    except Failure as failure:
        return None, failure.message, False
    is_watched = isinstance(source, WatchedSource)
    try:
        if not isinstance(source, TimedSource):
            return None, None, is_watched
        return await source.times(), None, is_watched
    except SourceFailed as failed:
        return None, str(failed), is_watched
    finally:
        await source.close()
