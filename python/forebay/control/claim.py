"""A password that a directory or PAM is to judge. Who asks them is `verdicts`, which most configurations never load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

CALLED: Final = {"ldap": "directory", "pam": "service"}


@dataclass(frozen=True, slots=True)
class Claim:
    """Who says what: service is the number that the configuration has for the directory or service."""

    method: Literal["ldap", "pam"]
    service: int
    database: str
    user: str
    password: str
    address: str

    def __repr__(self) -> str:
        return f"Claim({self.method}, {self.service}, {self.user!r})"
