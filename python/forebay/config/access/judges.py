"""Numbers of the directories and services that judge passwords.

A client keeps the number that its rule held while a reload replaces the rules. So a number belongs to one directory or
service for as long as the process lives, and is never that of another.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Final

from forebay.config.access.shapes import Directory, PamService

_lock: Final = threading.Lock()
_numbers: Final[dict[Directory | PamService, int]] = {}


@dataclass(slots=True)
class Judges:
    """Those that one configuration names. default: the service of rules that name none."""

    default: PamService
    named: dict[int, Directory | PamService] = field(default_factory=dict)

    def number(self, judge: Directory | PamService) -> int:
        """The number of one, which is among them from now on."""
        with _lock:
            number = _numbers.setdefault(judge, len(_numbers) + 1)
        self.named[number] = judge
        return number
