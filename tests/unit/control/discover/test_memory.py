"""The file that keeps timelines over a restart: whole or not at all, and never a reason not to start."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from forebay.config.resolved import ServerTls
from forebay.config.topology import Topology
from forebay.control.discover import Discovery, memory
from forebay.control.discover.memory import Memory

SHOP = {"shop": (1 << 63, 4)}
# Nobody listens there.
TOPOLOGY = Topology("poll", "shop", ("127.0.0.1:1",), "shop", "poll", None, ServerTls("disable", None, None, None),
                    1.0, 1.0, 2, 0, is_followed=False)  # fmt: skip


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The events of the log."""
    found: list[str] = []
    monkeypatch.setattr(memory, "event", lambda _level, name, **_fields: found.append(name))
    return found


def kept(path: Path, *all_known: Mapping[str, tuple[int, int]]) -> Memory:
    async def keep() -> Memory:
        kept = Memory(path)
        kept.read()
        for known in all_known:
            kept.keep(known)
        await kept.flush()
        return kept

    return asyncio.run(keep())


def test_what_is_kept_is_read_again(tmp_path: Path, told: list[str]) -> None:
    """The last of several, and nothing else lies there."""
    path = tmp_path / "clusters.json"
    kept(path, {"shop": (7, 1)}, {"shop": (7, 2), "blog": (8, 1)}, SHOP)
    assert Memory(path).read() == SHOP
    assert [one.name for one in tmp_path.iterdir()] == ["clusters.json"]
    kept(path, {})
    assert Memory(path).read() == {}
    assert told == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", '{"version": 2, "clusters": {}}', '{"version": 1}', '{"version": 1, "clusters": {"a": 1}}',
     '{"version": 1, "clusters": {"a": {"system": "x", "timeline": 1}}}',
     '{"version": 1, "clusters": {"a": {"system": "1", "timeline": 4294967296}}}'],
)  # fmt: skip
def test_a_broken_file_is_told_and_put_aside(tmp_path: Path, told: list[str], text: str) -> None:
    """A pooler that does not start for it would cost more than what it says."""
    path = tmp_path / "clusters.json"
    path.write_text(text)
    assert Memory(path).read() == {}
    assert told == ["memory_broken"]
    assert (tmp_path / "clusters.json.broken").read_text() == text
    kept(path, SHOP)
    assert json.loads(path.read_text())["clusters"] == {"shop": {"system": str(1 << 63), "timeline": 4}}


def test_a_place_that_can_not_be_used_is_told_once(tmp_path: Path, told: list[str]) -> None:
    """And it is tried again."""
    path = tmp_path / "not there" / "clusters.json"
    assert Memory(path).read() == {}
    written = kept(path, SHOP)
    assert told == ["memory_unwritable"]

    async def again() -> None:
        for timeline in (5, 6):
            written.keep({"shop": (7, timeline)})
            await written.flush()
        path.parent.mkdir()
        written.keep({"shop": (7, 7)})
        await written.flush()

    asyncio.run(again())
    assert told == ["memory_unwritable"]
    assert Memory(path).read() == {"shop": (7, 7)}
    folder = tmp_path / "folder"
    folder.mkdir()
    assert Memory(folder).read() == {}
    assert told[1:] == ["memory_unreadable"]


@pytest.mark.parametrize("is_named", [True, False])
def test_a_start_goes_on_from_the_file_and_keeps_it(tmp_path: Path, is_named: bool) -> None:
    """Also while nobody answers: what was known is not lost by that."""
    path = tmp_path / "clusters.json"
    kept(path, {**SHOP, "gone": (9, 9)})
    environment = {} if is_named else {"STATE_DIRECTORY": f"{tmp_path}:/elsewhere"}

    async def start() -> dict[str, Any]:
        discovery = Discovery(lambda _database, _cluster: None, _moves, environment)
        await discovery.remember(path if is_named else None)
        await discovery.follow([TOPOLOGY])
        legacy = discovery.legacy()
        await discovery.close()
        return legacy

    assert asyncio.run(start())["shop"]["memory"] == SHOP["shop"]
    assert Memory(path).read() == SHOP, "what has no topology any more is forgotten"


async def _moves() -> None:
    raise AssertionError("nothing moves")
