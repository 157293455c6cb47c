"""What a kind of source tells the registry, and what a source may need besides its address."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from forebay.config.source_address import Address
from forebay.control.discover.member import TIMEOUT_S, Source
from forebay.failure import Exit, Failure

T = TypeVar("T")

# Runs one statement on a connection to a server of the cluster and returns its rows. Raises what its driver raises.
Query = Callable[[str], Awaitable[Sequence[Sequence[Any]]]]


class Servers(Protocol):
    """The servers of a cluster, to be asked in SQL with a search_path of pg_catalog and pg_temp."""

    async def ask(self, question: Callable[[Query], Awaitable[T]], beside: str) -> tuple[str, T]:
        """Who answered, and what. beside: an address that is asked as well. Raises SourceFailed."""
        ...

    def close(self) -> None:
        """Ends the connections."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What sources are made with.

    servers: for those that ask the cluster itself. environment: of the process. timeout_s: for each answer.
    """

    servers: Callable[[], Servers] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of source.

    schemes: of its addresses. example: one of those. options: what may stand behind the ?.
    build: makes a source; raises Failure.
    """

    schemes: tuple[str, ...]
    example: str
    options: frozenset[str]
    build: Callable[[Address, Means], Source]


def need(address: Address, *packages: str, extra: str = "discover") -> None:
    """Raises Failure unless the packages are there that an address of this kind needs. extra: has them."""
    missing = [each for each in packages if importlib.util.find_spec(each) is None]
    if missing:
        hint = f"Run pip install 'forebay[{extra}]'."
        raise Failure(f"a {address.scheme}:// address needs the package {missing[0]}", hint=hint)


def some_hosts(address: Address, *, example: str) -> None:
    """Raises Failure unless at least one host is named."""
    if not address.hosts:
        raise Failure(f"the {address.scheme}:// address names no host", hint=f"Write {example}.", exit=Exit.USAGE)
