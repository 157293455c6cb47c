"""SET name = value: changes a setting until the configuration says otherwise; what drivers set is passed over."""

from __future__ import annotations

from typing import Final

from forebay._generated.errors import console_syntax
from forebay.admin.answer import Answer, Notice
from forebay.admin.backend import Backend
from forebay.admin.registration import Command, Role

# Parameters that drivers set at the beginning of a session; PgBouncer's console takes and ignores them too.
IGNORED: Final = frozenset(
    (
        "application_name",
        "client_encoding",
        "datestyle",
        "default_transaction_isolation",
        "extra_float_digits",
        "standard_conforming_strings",
        "timezone",
    )
)


async def handler(backend: Backend, arguments: tuple[str, ...]) -> Answer:
    """Answers when the value is in force."""
    name = arguments[0].lower() if arguments else ""
    if name in IGNORED:
        return Answer("SET", notices=[Notice("SET ignored")])
    if len(arguments) != 3 or arguments[1].upper() not in ("=", "TO"):
        raise console_syntax(cause="SET takes a name, = and a value, in quotes where it is more than a word")
    await backend.set_setting(name, arguments[2])
    return Answer("SET")


COMMAND = Command("set", Role.ADMIN, handler, arguments_max=1000)
