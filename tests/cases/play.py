"""Plays a case at a place and tells what its clients saw there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tests.cases import CASES, LEVELS, OBJECTS, Case
from tests.harness.postgres import SCHEMA, Postgres
from tests.harness.program import answers
from tests.harness.target import Target
from tests.harness.wire import Gone, Wire
from tests.scenarios.conversations import CONVERSATIONS

DATABASE = "cases"

# Where clients of a case connect, by how many servers its pool has.
Place = Callable[[int], Target]


@contextlib.contextmanager
def database(server: Postgres) -> Iterator[Target]:
    """A database with all that cases use, for as long as the block lasts; its owner is the superuser."""
    with server.target.connect(user="postgres", dbname="postgres", autocommit=True) as admin:
        admin.execute(f"create database {DATABASE}")  # type: ignore[arg-type]
        direct = server.target.at(dbname=DATABASE)
        with direct.connect(user="postgres", autocommit=True) as owner:
            owner.execute(SCHEMA)  # type: ignore[arg-type]
            owner.execute(OBJECTS)  # type: ignore[arg-type]
        yield direct
        admin.execute(f"drop database {DATABASE} with (force)")  # type: ignore[arg-type]


def pools() -> dict[str, dict[str, Any]]:
    """forebay's databases for cases: `safe_1` is one server at `safe`."""
    return {
        f"{level}_{servers}": {"dbname": DATABASE, "pool_size": servers, "level": level}
        for level in LEVELS
        for servers in sorted({case.servers for case in CASES})
    }


def play(case: Case, place: Place, direct: Target) -> list[object]:
    """What the clients that count saw. direct: the server itself, for what clients can't do."""
    try:
        if case.conversation:
            return seen(case, place)
        return list(answers(place(case.servers), case.steps, admin=direct, counts=case.counts))
    finally:
        if case.after:
            with direct.connect(user="postgres", autocommit=True) as owner:
                owner.execute(case.after)  # type: ignore[arg-type]


def seen(case: Case, place: Place) -> list[object]:
    """Lines of a conversation after the login, and how it broke off."""
    with place(case.servers).wire() as wire:
        before = len(wire.seen)
        how = broken_off(case, wire)
        return [*wire.seen[before:], *how]


def broken_off(case: Case, wire: Wire) -> list[str]:
    """Holds a conversation; nothing where it came to its end."""
    try:
        CONVERSATIONS[case.conversation].talk(wire)
    except Gone:
        return ["the connection ended"]
    except TimeoutError:
        return ["no answer"]
    except AssertionError as wrong:
        return [f"not understood: {wrong}"]
    return []
