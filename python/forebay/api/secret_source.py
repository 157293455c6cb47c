"""`@forebay.secret_source`: look up a user's secret in Python.

The decorator only marks the function; forebay finds it in the file or module that `auth.secret_source` names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar, overload

Found = str | None
SecretSource = Callable[["SecretRequest"], Found | Awaitable[Found]]
_F = TypeVar("_F", bound=SecretSource)

MARK: Final = "__forebay_secret_source__"


@dataclass(frozen=True, slots=True)
class SecretRequest:
    """Who wants to log in: both are what the client claims, and not proved."""

    database: str
    user: str


@dataclass(frozen=True, slots=True)
class Marked:
    """How a marked function wants to be called."""

    deadline_s: float | None


@overload
def secret_source(function: _F, /) -> _F: ...
@overload
def secret_source(*, deadline_s: float | None = None) -> Callable[[_F], _F]: ...


def secret_source(function: _F | None = None, /, *, deadline_s: float | None = None) -> _F | Callable[[_F], _F]:
    """Marks a function that finds the secrets of users who are not in the configuration.

    The function takes a SecretRequest, may be async, and returns a password, a SCRAM-SHA-256 verifier or an md5 hash
    as PostgreSQL stores them; or None when it does not know the user, and then the next source is asked. What it
    returns is kept for `auth.cache_for`.

    deadline_s: seconds it may take; not given: `auth.ask_timeout`. When it takes longer or raises, that is logged and
    the next source is asked. Only the client that logs in waits; traffic never does.
    Raises ValueError for a deadline that is not above zero.
    """
    if deadline_s is not None and not deadline_s > 0:
        raise ValueError(f"deadline_s is {deadline_s}, but a deadline is above zero")

    def mark(marked: _F) -> _F:
        setattr(marked, MARK, Marked(deadline_s))
        return marked

    return mark if function is None else mark(function)
