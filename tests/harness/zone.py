"""A name server on a port of its own, with records of every kind and their times to live."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


@dataclass(slots=True)
class Zone:
    """records: as in a zone file, by name and kind. codes: what a kind is answered with instead."""

    records: dict[tuple[str, str], tuple[int, Iterable[str]]] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    is_silent: bool = False
    port: int = 0
    asked: Counter[str] = field(default_factory=Counter)

    def answer(self, question: bytes) -> bytes | None:
        """To a message, as a message; None for silence."""
        query = dns.message.from_wire(question)
        kind = dns.rdatatype.to_text(query.question[0].rdtype)
        self.asked[kind] += 1
        if self.is_silent:
            return None
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        name = query.question[0].name.to_text(omit_final_dot=True)
        if alias := self.records.get((name, "CNAME")):
            (target,) = alias[1]
            reply.answer.append(dns.rrset.from_text(f"{name}.", alias[0], "IN", "CNAME", target))
            name = target.rstrip(".")
        if kind in self.codes:
            reply.set_rcode(dns.rcode.Rcode(self.codes[kind]))
        elif found := self.records.get((name, kind)):
            reply.answer.append(dns.rrset.from_text(f"{name}.", found[0], "IN", kind, *found[1]))
        elif name not in {known for known, _ in self.records}:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply.to_wire()


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self._zone = zone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if (answer := self._zone.answer(data)) is not None:
            self._transport.sendto(answer, addr)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Zone]:
    """One for as long as the block lasts, over UDP."""
    zone = Zone()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Protocol(zone), local_addr=("127.0.0.1", 0))
    zone.port = transport.get_extra_info("sockname")[1]
    try:
        yield zone
    finally:
        transport.close()
