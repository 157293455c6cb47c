"""Programs of several clients as text: a step a line, and what each step is answered.

Two places that behave alike give equal answers. Left out is what differs between any two connections: process ids,
keys, places of columns in the catalogue, and when exactly a notification of another client arrives.
"""

from __future__ import annotations

import re
import shlex
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness.deadline import until
from tests.harness.pooler import columns
from tests.harness.target import Target
from tests.harness.wire import (
    Frame,
    Gone,
    Wire,
    bind,
    cancel,
    close,
    describe,
    execute,
    parse,
    query,
    row,
    startup,
    sync,
    terminate,
)

TYPES = {"int": 23, "text": 25, "timestamptz": 1184}
ASLEEP = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and usename = 'app'"
ASLEEP_S = 5.0

Answer = tuple[str, object]


def programs(path: Path) -> dict[str, list[str]]:
    """Programs by name: a heading, then a step a line."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("# "):
            steps = found.setdefault(line.removeprefix("# "), [])
        elif re.match(r"[a-d]: ", line):
            steps.append(line)
    return {name: steps for name, steps in found.items() if steps}


def said(frame: Frame) -> tuple[int, str, str]:
    """A notification's process id, channel and payload."""
    channel, payload = frame.body[4:-1].split(b"\0")
    return struct.unpack(">I", frame.body[:4])[0], channel.decode(), payload.decode()


def told(frame: Frame, pid: int) -> tuple[object, ...]:
    """A message without what differs from server to server."""
    if frame.tag == "A":
        sender, channel, payload = said(frame)
        return "itself" if sender == pid else "another", channel, payload
    if frame.tag == "D":
        return "D", *row(frame)
    if frame.tag in "EN":
        return frame.tag, *(frame.fields[letter] for letter in "SCM")
    if frame.tag == "T":
        return "T", *columns(frame.body)
    if frame.tag == "K":
        return "K", len(frame.body)
    return frame.tag, frame.body


@dataclass
class Client:
    """One of a program's clients. heard: notifications of others. stuck: why it takes no further step."""

    target: Target
    wire: Wire | None = None
    heard: list[object] = field(default_factory=list)
    wanted: int = 0
    stuck: str = ""

    def connected(self) -> Wire:
        """Its connection, made when it is first needed."""
        if self.wire is None:
            self.wire = self.target.wire()
        return self.wire

    def disconnect(self) -> None:
        """Closes what is open, without a word."""
        if self.wire is not None:
            self.wire.close()
            self.wire = None

    def sifted(self, frames: Sequence[Frame]) -> list[object]:
        """Frames as they are compared: notifications of others apart, parameters behind the rest in order of name."""
        wire = self.connected()
        given = [told(frame, wire.key[0]) for frame in frames]
        others = [one for one in given if one[0] == "another"]
        assert wire.status == "I" or not others, f"within a transaction: {others}"
        self.heard += others
        rest = [one for one in given if one[0] not in ("another", "S")]
        return [*rest, *sorted((one for one in given if one[0] == "S"), key=str)]


class Program:
    """A program that is being run. admin: the server itself, for what clients can't see."""

    def __init__(self, target: Target, admin: Target) -> None:
        self.target, self.admin = target, admin
        self.clients: dict[str, Client] = {}
        self.is_awaited = False

    def run(self, steps: Sequence[str], counts: str = "") -> list[Answer]:
        """What each step of the clients that count was answered, and what they heard of others."""
        answers: list[Answer] = []
        last = [f"{who}: select 'last'" for who in sorted({step[0] for step in steps})]
        try:
            for step in [*steps, *last]:
                who, text = step.split(": ", 1)
                answers.append((who, self.step(self.clients.setdefault(who, Client(self.target)), text)))
            answers += [(who, ("heard", *client.heard)) for who, client in sorted(self.clients.items())]
        finally:
            for client in self.clients.values():
                client.disconnect()
        return [answer for answer in answers if answer[0] in (counts or "abcd")]

    def step(self, client: Client, text: str) -> object:
        """One step's answer; a client that was closed or gets no answer takes no more steps."""
        if client.stuck:
            return client.stuck
        verb, _, rest = text.partition(" ")
        try:
            if verb in VERBS:
                return VERBS[verb](self, client, rest)
            return client.sifted(client.connected().ask(query(text)))
        except Gone:
            client.stuck = "the connection ended"
        except TimeoutError:
            client.stuck = "no answer"
        except (AssertionError, UnicodeDecodeError) as wrong:
            client.stuck = f"not understood: {wrong}"
        return client.stuck

    def starts(self, client: Client, rest: str) -> object:
        """`starts NAME=VALUE …`"""
        given = dict(word.split("=", 1) for word in shlex.split(rest))
        named: dict[str, Any] = {"dbname": given.pop("database", None), "user": given.pop("user", None)}
        target = client.target.at(**{name: value for name, value in named.items() if value})
        client.wire = target.dial()
        packet = startup(user=target.user, database=target.dbname, **given)
        refused = [frame for frame in client.wire.first(packet) if frame.tag == "E"]
        assert not refused, refused[0].fields
        return "started"

    def greets(self, client: Client, rest: str) -> object:
        """`greets VERSION NAME=VALUE …`"""
        version, *words = shlex.split(rest)
        major, minor = map(int, version.split("."))
        client.wire = client.target.dial()
        parameters = dict(word.split("=", 1) for word in words)
        target = client.target
        packet = startup((major << 16) | minor, user=target.user, database=target.dbname, **parameters)
        return client.sifted(client.wire.first(packet))

    def prepares(self, client: Client, rest: str) -> object:
        """`prepares NAME (TYPE, …) as SQL`"""
        found = re.fullmatch(r"(\w+)(?: \(([\w, ]+)\))? as (.+)", rest)
        assert found is not None, rest
        types = [TYPES[name] for name in found[2].split(", ")] if found[2] else []
        name = statement(found[1])
        return client.sifted(client.connected().ask(parse(name, found[3], types), describe("S", name), sync()))

    def runs(self, client: Client, rest: str) -> object:
        """`runs NAME with VALUE, …`"""
        name, _, given = rest.partition(" with ")
        values = [value.encode() for value in given.split(", ")] if given else []
        bound = bind(statement=statement(name), values=values)
        return client.sifted(client.connected().ask(bound, describe("P"), execute(), sync()))

    def closes(self, client: Client, rest: str) -> object:
        """`closes NAME`"""
        return client.sifted(client.connected().ask(close("S", statement(rest)), sync()))

    def sends(self, client: Client, rest: str) -> object:
        """`sends SQL`"""
        client.connected().send(query(rest))
        self.is_awaited = True
        return "sent"

    def reads(self, client: Client, _: str) -> object:
        """`reads`"""
        self.is_awaited = False
        return client.sifted(client.connected().ready())

    def cancels(self, client: Client, _: str) -> object:
        """`cancels`, as libpq does: the end of the connection says that it was done."""
        key = client.connected().key
        if self.is_awaited:
            with self.admin.wire() as watcher:
                until(lambda: watcher.value(ASLEEP) != "0", within_s=ASLEEP_S, what="what was sent is running")
        with client.target.dial() as wire:
            wire.send(cancel(*key))
            assert wire.ends()
        return "cancelled"

    def hears(self, client: Client, rest: str) -> object:
        """`hears N`"""
        client.wanted += int(rest)
        while len(client.heard) < client.wanted:
            client.sifted([client.connected().read()])
        return "heard"

    def leaves(self, client: Client, _: str) -> object:
        """`leaves`"""
        client.connected().send(terminate())
        client.disconnect()
        return "left"

    def vanishes(self, client: Client, _: str) -> object:
        """`vanishes`"""
        client.disconnect()
        return "vanished"


def statement(name: str) -> str:
    """A statement's name of the protocol."""
    return "" if name == "unnamed" else name


VERBS: dict[str, Callable[[Program, Client, str], object]] = {
    verb: getattr(Program, verb)
    for verb in (
        "starts",
        "greets",
        "prepares",
        "runs",
        "closes",
        "sends",
        "reads",
        "cancels",
        "hears",
        "leaves",
        "vanishes",
    )
}


def answers(target: Target, steps: Sequence[str], *, admin: Target, counts: str = "") -> list[Answer]:
    """Runs a program. counts: clients whose answers are wanted; none: all."""
    return Program(target, admin).run(steps, counts)
