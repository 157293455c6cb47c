"""Conversations: what a client says, as a function each. Direct and through forebay they must read the same.

A conversation leaves the database as it found it, and names its statements as it likes: clients share nothing by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.harness.wire import Wire

Talk = Callable[[Wire], None]


@dataclass(frozen=True, slots=True)
class Conversation:
    """name: the function's. dbname: the pool that it runs over. keeps_server: nobody else can use it in between."""

    name: str
    talk: Talk
    dbname: str
    keeps_server: bool


CONVERSATIONS: dict[str, Conversation] = {}


def conversation(talk: Talk) -> Talk:
    """Registers a conversation that holds in transaction pooling."""
    return register("app")(talk)


def keeping_its_server(talk: Talk) -> Talk:
    """Registers one that does, between transactions."""
    return register("app", keeps_server=True)(talk)


def in_session_mode(talk: Talk) -> Talk:
    """Registers one that needs a server of its own."""
    return register("session")(talk)


def register(dbname: str, *, keeps_server: bool = False) -> Callable[[Talk], Talk]:
    """Registers a conversation for a pool of SHARED_DATABASES."""

    def mark(talk: Talk) -> Talk:
        name = talk.__name__
        assert name not in CONVERSATIONS, f"two conversations are called {name}"
        CONVERSATIONS[name] = Conversation(name, talk, dbname, keeps_server)
        return talk

    return mark


from tests.scenarios.conversations import copying, errors, pipelines, portals, sessions, simple, statements  # noqa: E402

__all__ = ["copying", "errors", "pipelines", "portals", "sessions", "simple", "statements"]
