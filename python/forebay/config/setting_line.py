"""A setting as SHOW CONFIG prints it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SettingLine:
    """A setting for SHOW CONFIG: values as they would be written, secrets masked."""

    key: str
    value: str
    default: str
    is_changeable: bool
