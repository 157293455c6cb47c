"""Addresses of sources: `scheme://user:password@host:port,host:port/path?option=value`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn
from urllib.parse import parse_qsl, unquote

from forebay.config.finding import closest
from forebay.config.secret import Secret
from forebay.failure import Exit, Failure

# A source that names more is not believed: nothing grows by what a peer sends.
MEMBERS_MAX: Final = 64

_SCHEME: Final = re.compile(r"([a-z][a-z0-9+]*)://(.*)", re.DOTALL)
# Of a name or an address; an underscore stands in names of services.
_HOST: Final = re.compile(r"[A-Za-z0-9_.-]{1,255}|\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9_.-]{1,32})?\]", re.ASCII)
_UNWELCOME: Final = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True)
class Host:
    """name: without brackets. port: None where none is given."""

    name: str
    port: int | None

    def at(self, port: int) -> str:
        """host:port as a URL has it; `port` where none was given."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{name}:{self.port or port}"


@dataclass(frozen=True, slots=True)
class Address:
    """path: decoded, without slashes at its ends. Prints itself without the login."""

    scheme: str
    hosts: tuple[Host, ...]
    path: str
    options: Mapping[str, str]
    user: str | None = None
    password: Secret | None = None

    def __str__(self) -> str:
        hosts = ",".join(each.at(each.port) if each.port else each.name for each in self.hosts)
        return f"{self.scheme}://{hosts}{'/' if self.path else ''}{self.path}"


def parse(text: str, *, example: str = "patroni://10.0.0.1:8008,10.0.0.2:8008") -> Address:
    """Reads an address. Raises Failure (exit code 2); its text holds no password.

    example: for the hint.
    """

    def wrong(cause: str) -> NoReturn:
        raise Failure(cause, hint=f"Write it as in {example}.", exit=Exit.USAGE)

    found = _SCHEME.fullmatch(text)
    if found is None:
        wrong("the address of a source does not begin with scheme://")
    scheme, rest = found[1], found[2]
    if _UNWELCOME.search(rest):
        wrong(f"the {scheme}:// address holds a blank or a control character")
    if "#" in rest:
        wrong(f"the {scheme}:// address holds a #, which is written %23")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    if "@" in path or "@" in query:
        # What stands before it may be the rest of a password: nothing of it is quoted.
        wrong(f"the {scheme}:// address holds an @ behind its hosts; in a password / is written %2F, ? %3F and @ %40")
    login, at, hosts = authority.rpartition("@")
    user, _, password = login.partition(":")
    names = hosts.split(",") if hosts else []
    if len(names) > MEMBERS_MAX:
        wrong(f"the {scheme}:// address names {len(names)} hosts; {MEMBERS_MAX} at most are asked")
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in options:
            wrong(f'the option "{name}" of the {scheme}:// address is given twice')
        options[name] = value
    return Address(
        scheme=scheme,
        hosts=tuple(_host(each, wrong) for each in names),
        path=unquote(path).strip("/"),
        options=options,
        user=unquote(user) if at else None,
        password=Secret(unquote(password)) if password else None,
    )


def is_host(name: str) -> bool:
    """Whether it is a host's name, or an address without brackets."""
    return _HOST.fullmatch(f"[{name}]" if ":" in name else name) is not None


def is_port(number: int) -> bool:
    """Whether a server can listen there."""
    return 0 < number < 65536


def accept(address: Address, options: Iterable[str], *, example: str) -> None:
    """Raises Failure for an option that the scheme does not have."""
    known = sorted(options)
    for name in address.options:
        if name not in known:
            near = closest(name, known)
            has = f"It has {', '.join(known)}." if known else f"It has none; write it as in {example}."
            hint = f'Did you mean "{near}"?' if near else has
            raise Failure(f'a {address.scheme}:// address has no option "{name}"', hint=hint, exit=Exit.USAGE)


def _host(text: str, wrong: Callable[[str], NoReturn]) -> Host:
    name, port = text, None
    bracket = text.rfind("]")
    colon = text.find(":", bracket + 1)
    if colon >= 0:
        name, number = text[:colon], text[colon + 1 :]
        if not (number.isascii() and number.isdecimal() and len(number) <= 5 and is_port(int(number))):
            # Where the @ is missing, it may be a password.
            shown = f'"{number}"' if number.isascii() and number.isdecimal() else "what stands behind a host's colon"
            wrong(f"{shown} is not a port from 1 to 65535")
        port = int(number)
    if not name:
        wrong("a host of the address is empty")
    if _HOST.fullmatch(name) is None:
        wrong(f'"{name}" is neither a host name nor an address; IPv6 goes in []')
    return Host(name.strip("[]"), port)
