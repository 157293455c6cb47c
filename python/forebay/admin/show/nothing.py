"""SHOW for what PgBouncer keeps and forebay does without: tables without rows."""

from __future__ import annotations

from typing import Final

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Command, Role, show


async def rows(_backend: Backend) -> list[tuple[Value, ...]]:
    """None: spec/show.toml says why of each."""
    return []


COMMANDS: Final[tuple[Command, ...]] = tuple(show(name, rows, role=Role.VIEWER) for name in ("dns_zones",))
