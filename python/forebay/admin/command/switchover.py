"""SWITCHOVER database: makes a replica the primary while requests wait; tells of each step as it goes."""

from __future__ import annotations

import re
from typing import Final

from forebay._generated.errors import console_syntax
from forebay.admin.answer import Answer
from forebay.admin.backend import Backend, SwitchoverOrder, Tell
from forebay.admin.registration import Command, Role, required_database

_SECONDS: Final = re.compile(r"\d{1,5}(\.\d{1,6})?", re.ASCII)


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """For who hears of nothing but the end."""
    return await telling(backend, arguments, lambda _words, _detail: None)


async def telling(backend: Backend, arguments: tuple[str, ...], tell: Tell) -> Answer:
    """Answers when requests go to the new primary."""
    database = required_database(backend, arguments, "switch over")
    if [word.upper() for word in arguments[1:]] == ["BACK"]:
        backend.switch_back(database)
    else:
        await backend.switch_over(_order(database, list(arguments[1:])), tell)
    return Answer("SWITCHOVER")


async def undo(backend: Backend, arguments: tuple[str, ...]) -> None:
    """Requests go on at the old primary, unless the candidate may be one by now: then Refused says so."""
    await backend.call_off_switchover()


def _order(database: str, words: list[str]) -> SwitchoverOrder:
    """Raises ForebayError."""
    candidate: str | None = None
    times: dict[str, float] = {}
    flags: set[str] = set()
    while words:
        word = words.pop(0).upper()
        if word in ("MANUAL", "CUT"):
            flags.add(word)
        elif word == "TO" and words:
            candidate = words.pop(0)
        elif word in ("WAIT", "TIMEOUT") and words and _SECONDS.fullmatch(words[0]):
            times[word] = float(words.pop(0))
        elif word in ("WAIT", "TIMEOUT"):
            raise console_syntax(cause=f"{word} takes a number of seconds")
        else:
            raise console_syntax(cause=f'SWITCHOVER does not take "{word}" there')
    plain = SwitchoverOrder(database=database)
    return SwitchoverOrder(
        database=database,
        candidate=candidate,
        end_s=times.get("WAIT", plain.end_s),
        limit_s=times.get("TIMEOUT", plain.limit_s),
        is_manual="MANUAL" in flags,
        is_cut="CUT" in flags,
    )


COMMAND = Command("switchover", Role.ADMIN, handler, telling=telling, arguments_max=9, undo=undo)
