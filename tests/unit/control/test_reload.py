"""When a source is told that what it read is in force."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from forebay._engine import EngineError
from forebay.admin.backend import Refused
from forebay.control.hooks import HookRunner
from forebay.control.lookup import build_lookup
from forebay.control.service import Service
from forebay.control.source import Configuration, TextSource


@dataclass
class Counting:
    """A source that can be set. accepted: how often it was told."""

    folder: Path
    accepted: int = 0

    def load(self) -> Configuration:
        read = TextSource('[databases.shop]\nendpoints = ["10.0.0.5:5432"]\n', self.folder).load()
        return replace(read, accepted=self._accept)

    def load_with(self, name: str, value: str) -> Configuration:
        return self.load()

    def _accept(self) -> None:
        self.accepted += 1


@dataclass
class Engine:
    """One that reloads, or refuses to."""

    refuses: bool
    listeners: list[str] = field(default_factory=list)

    def reload(self, config: str) -> None:
        if self.refuses:
            raise EngineError("no", "other")


@pytest.mark.parametrize("refuses", [False, True])
def test_a_source_is_told_of_what_is_in_force_only(tmp_path: Path, refuses: bool) -> None:
    """A RELOAD or SET that the engine refuses must leave nothing behind."""

    async def attempt(source: Counting) -> None:
        service: Any = Service(source)
        runner = HookRunner()
        service._configuration = source.load()
        service._lookup = build_lookup(service._configuration, runner, (), lambda _, listed: listed)
        service._engine = Engine(refuses)
        for act in (service.reload, lambda: service.set("a", "b")):
            if refuses:
                with pytest.raises(Refused, match="no"):
                    await act()
            else:
                await act()
        await service._lookup.close()
        service._runner.close()
        runner.close()

    source = Counting(tmp_path)
    asyncio.run(attempt(source))
    assert source.accepted == (0 if refuses else 2)
