"""The name system: the addresses of a name, or the servers of a service (SRV), and how long they hold.

It tells where servers are, and nothing of their roles, unless a name stands for one role alone (`?role=primary`).
Sources: RFC 1035, RFC 2782 (SRV).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from forebay.config.kinds import WEIGHT_MAX
from forebay.config.source_address import Address, Host, is_port
from forebay.control.discover.member import Member, Role, Sighting, SourceFailed, checked
from forebay.control.discover.registration import Kind, Means, need, some_hosts
from forebay.failure import Exit, Failure

if TYPE_CHECKING:
    import dns.asyncresolver
    import dns.resolver

EXAMPLE: Final = "dns://db.example.com:5432 or dns+srv://_postgres._tcp.db.example.com"
ADDRESSES, SERVICE = "dns", "dns+srv"
KINDS: Final = ("A", "AAAA")
PORT: Final = 5432
# What RFC 2782 has for "decidedly no such service".
NO_TARGET: Final = "."


class Names:
    """The members behind one name."""

    def __init__(self, address: Address, means: Means) -> None:
        (host,) = address.hosts
        self._name, self._port = host.name, host.port or PORT
        self._is_service = address.scheme == SERVICE
        self._role = Role(address.options.get("role", Role.UNKNOWN))
        self._timeout_s = means.timeout_s
        self._resolver = _resolver(address, means.timeout_s)
        # The last good addresses of each kind.
        self._known: dict[str, list[Member]] = {}

    async def look(self) -> Sighting:
        """Raises SourceFailed, also where the name has no address any more."""
        by = f"the name {self._name}"
        try:
            # dnspython has a lifetime of its own, which waits for TCP connections do not count to.
            async with asyncio.timeout(self._timeout_s):
                members, ttls, asked = await (self._service() if self._is_service else self._addresses())
        except TimeoutError:
            raise SourceFailed(f"no name server answered for {self._name} within {self._timeout_s:g} s") from None
        # The order of answers is turned round by servers; without it, equal answers are equal.
        members.sort(key=lambda each: (each.host, each.port))
        return Sighting(members=checked(members, by=by), asked=asked, ttl_s=float(min(ttls)))

    async def close(self) -> None:
        """Nothing is kept open."""

    async def _addresses(self) -> tuple[list[Member], list[int], str]:
        """A and AAAA at once. That one of them fails counts where the other has nothing: some servers know A alone.

        Addresses of a kind that fails are those that it had: no answer is not the answer that they are gone.
        """
        answers = dict(zip(KINDS, await asyncio.gather(*map(self._ask, KINDS), return_exceptions=True), strict=True))
        failed = [each for each in answers.values() if isinstance(each, BaseException)]
        found = [each for each in answers.values() if each is not None and not isinstance(each, BaseException)]
        if failed and not found:
            raise failed[0]
        for kind, answer in answers.items():
            if not isinstance(answer, BaseException):
                self._known[kind] = [
                    Member(host=record.address, port=self._port, role=self._role, source="dns", name=self._name)
                    for record in answer or ()
                ]
        members = [member for kind in KINDS for member in self._known.get(kind, ())]
        return members, [_ttl(each) for each in found] or [0], _asked(found)

    async def _service(self) -> tuple[list[Member], list[int], str]:
        """The targets stay names, so that certificates can be compared with them."""
        answer = await self._ask("SRV")
        members = []
        records = [one for one in answer or () if one.target.to_text() != NO_TARGET and is_port(one.port)]
        for record, weight in zip(records, _weights(records), strict=True):
            host = record.target.to_text().rstrip(".")
            members.append(Member(host=host, port=record.port, role=self._role, source="dns", name=host, weight=weight))
        return members, [_ttl(answer)] if answer else [0], _asked([answer] if answer else [])

    async def _ask(self, kind: str) -> dns.resolver.Answer | None:
        """None where the name has no records of this kind."""
        import dns.exception
        import dns.resolver

        try:
            return await self._resolver.resolve(self._name, kind, search=False)
        except dns.resolver.NoAnswer:
            return None
        except dns.resolver.NXDOMAIN:
            raise SourceFailed(f"there is no name {self._name}") from None
        except dns.resolver.NoNameservers:
            raise SourceFailed(f"the name servers can't answer for {self._name}") from None
        except dns.exception.Timeout:
            raise TimeoutError from None
        except (dns.exception.DNSException, OSError) as error:
            raise SourceFailed(f"the name {self._name} was not resolved ({type(error).__name__})") from None


def _weights(records: Sequence[Any]) -> list[int | None]:
    """Of SRV records. Only targets of the lowest priority have one, as long as one of them can be reached (RFC 2782).

    Weights there go to 65,535; one of 0 beside others has a very small chance, and all of them stand for no choice.
    """
    first = min((one.priority for one in records), default=0)
    heaviest = max((one.weight for one in records if one.priority == first), default=0)

    def weight(one: Any) -> int | None:
        if one.priority != first:
            return 0
        return max(1, round(one.weight * min(1, WEIGHT_MAX / heaviest))) if heaviest else None

    return [weight(one) for one in records]


def _ttl(answer: dns.resolver.Answer) -> int:
    """Of the answer and of all aliases on the way to it."""
    return int(answer.chaining_result.minimum_ttl)


def _asked(answers: list[dns.resolver.Answer]) -> str:
    return f"{answers[0].nameserver}:{answers[0].port}" if answers else "no name server"


def _resolver(address: Address, timeout_s: float) -> dns.asyncresolver.Resolver:
    """Asks the system's name servers, or the one of the option. Reads /etc/resolv.conf."""
    import dns.asyncresolver
    import dns.resolver

    given = address.options.get("server")
    try:
        resolver = dns.asyncresolver.Resolver(configure=given is None)
    except (dns.resolver.NoResolverConfiguration, OSError):
        hint = "Name one in the address: ?server=10.0.0.2:53"
        raise Failure("the system has no name server in /etc/resolv.conf", hint=hint) from None
    if given is not None:
        server = _server(given)
        resolver.nameservers = [server.name]
        resolver.port = server.port or 53
    resolver.lifetime = timeout_s
    # A question may be lost on its way: there must be time to ask again, or to ask another.
    resolver.timeout = timeout_s / 3
    return resolver


def _server(text: str) -> Host:
    """The option's name server: an address, since nobody could resolve its name."""
    name, _, port = text.rpartition(":") if text.count(":") == 1 or text.startswith("[") else (text, "", "53")
    if name.startswith("[") and text.endswith("]"):
        name, port = text, "53"
    try:
        ipaddress.ip_address(name.strip("[]"))
        number = int(port)
    except ValueError:
        number = 0
    if not is_port(number):
        raise Failure(
            f'"{text}" is not the address of a name server', hint="Write ?server=10.0.0.2:53.", exit=Exit.USAGE
        )
    return Host(name.strip("[]"), number)


def _build(address: Address, means: Means) -> Names:
    some_hosts(address, example=EXAMPLE)
    (host, *others) = address.hosts
    if others:
        hint = "Name one, which stands for all members."
        raise Failure(f"a {address.scheme}:// address has one name", hint=hint, exit=Exit.USAGE)
    if address.scheme == SERVICE and host.port:
        hint = "Leave the port out: SRV records hold one."
        raise Failure(f"a {SERVICE}:// address has no port", hint=hint, exit=Exit.USAGE)
    role = address.options.get("role", Role.UNKNOWN)
    if role not in list(Role):
        hint = "Write role=primary or role=replica, or leave it out."
        raise Failure(f'"{role}" is no role', hint=hint, exit=Exit.USAGE)
    need(address, "dns")
    return Names(address, means)


KIND: Final = Kind(schemes=(ADDRESSES, SERVICE), example=EXAMPLE, options=frozenset(("role", "server")), build=_build)
