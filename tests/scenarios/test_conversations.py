"""Parity: every conversation, direct and through forebay, must read the same."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from tests.harness.pooler import Forebay
from tests.harness.target import Target
from tests.harness.wire import Frame, Wire, bind, execute, parse, query, sync
from tests.scenarios.conversations import CONVERSATIONS, Conversation

# What says more bytes than this is cut into as many pieces, of a few bytes: one for each byte would take too long.
PIECES_MAX = 4_000

# How many bytes the client says.
Spoken = Callable[[], int]


class HandedOver(Wire):
    """Lets another client use the server whenever this one is between transactions."""

    noise: Wire | None = None

    def ready(self, count: int = 1) -> list[Frame]:
        frames = super().ready(count)
        if self.status == "I" and self.noise is not None:
            self.noise.ask(parse("", "select 'noise'"), sync())
            self.noise.ask(query("select 'unnamed statements end here'"))
            self.noise.ask(parse("", "select 'more noise', $1::int"), bind(values=[b"1"]), execute(), sync())
        return frames


@functools.cache
def said_directly(conversation: Conversation, target: Target) -> list[str]:
    """What the server itself answers."""
    with target.wire() as wire:
        return heard(conversation, wire)


def heard(conversation: Conversation, wire: Wire) -> list[str]:
    """What came after the login."""
    before = len(wire.seen)
    conversation.talk(wire)
    return wire.seen[before:]


def whole(target: Target, _spoken: Spoken) -> Wire:
    """Messages as they were sent."""
    return target.wire()


def bytewise(target: Target, spoken: Spoken) -> Wire:
    """Every byte for itself, or as few as PIECES_MAX allows."""
    wire = target.wire()
    wire.piece_bytes = -(-spoken() // PIECES_MAX) or 1
    return wire


def handed_over(target: Target, _spoken: Spoken) -> Wire:
    """With another client in between."""
    wire = HandedOver(target.host, target.port, timeout_s=20)
    wire.log_in(user=target.user, database=target.dbname)
    wire.noise = target.at(user="app").wire(TimeZone="Asia/Tokyo", application_name="noise", DateStyle="German")
    wire.noise.ask(parse("again", "select 'noise by the same name'"), sync())
    return wire


WAYS = {way.__name__: way for way in (whole, bytewise, handed_over)}
PLAYED = [
    f"{c.name}-{way}" for c in CONVERSATIONS.values() for way in WAYS if not (c.keeps_server and way == "handed_over")
]


@pytest.mark.parametrize("played", PLAYED)
def test_a_conversation_reads_the_same_as_without_forebay(played: str, shared: Forebay, direct: Target) -> None:
    """An application can tell that a pooler stands in between, and breaks."""
    name, _, kind = played.partition("-")
    conversation, way = CONVERSATIONS[name], WAYS[kind]
    expected = said_directly(conversation, direct)
    wire = way(shared.target.at(dbname=conversation.dbname), functools.partial(spoken_bytes, conversation, direct))
    try:
        answered = heard(conversation, wire)
    finally:
        wire.close()
        if isinstance(wire, HandedOver) and wire.noise is not None:
            wire.noise.close()
    assert answered == expected


@functools.cache
def spoken_bytes(conversation: Conversation, target: Target) -> int:
    """How much the client says."""

    class Counting(Wire):
        spoken = 0

        def send(self, *messages: bytes) -> None:
            self.spoken += sum(map(len, messages))
            super().send(*messages)

    with Counting(target.host, target.port, timeout_s=20) as wire:
        wire.log_in(user=target.user, database=target.dbname)
        wire.spoken = 0
        conversation.talk(wire)
        return wire.spoken
