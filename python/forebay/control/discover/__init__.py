"""Finds the roles of endpoints that are a cluster, and tells the engine.

`SOURCES` is the registration: what a database's `topology` names, and who asks then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from forebay._engine import Cluster
from forebay.admin.backend import EndpointRow
from forebay.config.topology import Topology


class Source(Protocol):
    """Watches one database's endpoints from `start` to `close`."""

    def start(self) -> None:
        """Begins to ask."""

    def look_now(self) -> None:
        """A server was lost: whoever is asked next is asked at once."""

    async def close(self) -> None:
        """Asks nothing more."""

    def rows(self) -> Sequence[EndpointRow]:
        """The endpoints as they stand."""

    @property
    def cluster(self) -> Cluster:
        """What is known of them."""


Tell = Callable[[str, Cluster], None]


def _poll(topology: Topology, tell: Tell, before: Cluster | None) -> Source:
    # The driver is imported where a database needs it.
    from forebay.control.discover.poll import Poll

    return Poll(topology, tell, before)


SOURCES: Final[dict[str, Callable[[Topology, Tell, Cluster | None], Source]]] = {"poll": _poll}


class Discovery:
    """The sources of the configuration in force, by database."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._sources: dict[str, tuple[Topology, Source]] = {}

    async def follow(self, topologies: Sequence[Topology]) -> None:
        """Watches these, and nothing else; what is watched already, and has not changed, goes on.

        One that has changed goes on from what was seen before.
        """
        wanted = {one.database: one for one in topologies}
        known: dict[str, Cluster] = {}
        for name, (topology, source) in list(self._sources.items()):
            if wanted.get(name) != topology:
                del self._sources[name]
                known[name] = source.cluster
                await source.close()
        for name, topology in wanted.items():
            if name not in self._sources:
                source = SOURCES[topology.kind](topology, self._tell, known.get(name))
                self._sources[name] = (topology, source)
                source.start()

    def suspect(self, database: str) -> None:
        """A server of the database was lost."""
        if database in self._sources:
            self._sources[database][1].look_now()

    def rows(self) -> list[EndpointRow]:
        """The endpoints of all clusters."""
        return [row for _, source in self._sources.values() for row in source.rows()]

    async def close(self) -> None:
        """Watches nothing any more."""
        await self.follow(())
