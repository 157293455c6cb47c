"""What console commands need of the running service; `forebay.control` implements it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from forebay.admin.snapshot import Snapshot
from forebay.config.resolve import SettingLine
from forebay.config.resolved import EngineConfig
from forebay.observe.stats import Totals, WorkerCounters


class Refused(Exception):
    """An order that was not carried out; `because` completes "… was refused: "."""

    def __init__(self, because: str) -> None:
        super().__init__(because)
        self.because = because


@dataclass(frozen=True, slots=True)
class Identity:
    """What is running."""

    version: str
    driver: str
    workers: int


class Backend(Protocol):
    """The running service. Databases are named as clients name them; None means all of them."""

    @property
    def identity(self) -> Identity:
        """Version, I/O driver and workers."""

    @property
    def config(self) -> EngineConfig:
        """The configuration in force, as the engine got it."""

    def settings(self) -> Sequence[SettingLine]:
        """The settings in force."""

    def totals(self) -> dict[str, Totals]:
        """Totals since the start, by database."""

    def averages(self) -> dict[str, Totals]:
        """Averages over the last period, by database."""

    def workers(self) -> Sequence[WorkerCounters]:
        """Totals since the start, by worker."""

    async def snapshot(self) -> Snapshot:
        """What the workers hold."""

    async def pause(self, database: str | None) -> None:
        """Returns once no server is in use. Raises Refused."""

    async def resume(self, database: str | None) -> None:
        """Raises Refused."""

    async def kill(self, database: str | None) -> None:
        """Raises Refused."""

    async def kill_client(self, client: int) -> None:
        """Raises Refused when there is none."""

    async def reconnect(self, database: str | None) -> None:
        """Raises Refused."""

    async def reload(self) -> Sequence[str]:
        """Returns what changed, a line each. Raises Refused with the findings."""

    def shutdown(self, *, drain: bool) -> None:
        """Begins to stop, after the console's answer is on its way."""
