"""Which commands hold what is paused, so that whoever gives up takes nobody else's pause along."""

from __future__ import annotations

from typing import Final

# Holders that do not give up: KILL, and whoever paused before this process was asked.
KILL: Final = object()
_BEFORE: Final = object()


class Pauses:
    """By database, None being all: RESUME ends all of them, Ctrl-C and TIMEOUT their own."""

    def __init__(self) -> None:
        self._by: dict[str | None, set[object]] = {}

    def begin(self, database: str | None, by: object, *, is_held: bool) -> None:
        """A command pauses. is_held: the engine says that it is paused already."""
        holders = self._by.setdefault(database, set())
        if is_held and not holders:
            holders.add(_BEFORE)
        holders.add(by)

    def give_up(self, database: str | None, by: object) -> bool:
        """A command pauses no longer; True: nobody else holds that."""
        holders = self._by.get(database, set())
        if by not in holders:
            return False
        holders.remove(by)
        if not holders:
            del self._by[database]
        return not holders

    def resumed(self, database: str | None) -> None:
        """Nobody holds it any more; None: nor anything else."""
        if database is None:
            self._by.clear()
        else:
            self._by.pop(database, None)
