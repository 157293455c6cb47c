"""A record of pg_hba.conf as a rule. What is not understood is an error: a rule left out changes who gets in."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from forebay import _engine
from forebay.config.access.directory import DirectoryFault, directory
from forebay.config.access.judges import Judges
from forebay.config.access.records import Field, Record, Token
from forebay.config.access.shapes import AccessRule, PamService, Pattern
from forebay.config.finding import Report
from forebay.config.source import Place, names_bind_password, without_quoted

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

KINDS: Final = ("local", "host", "hostssl", "hostnossl")
_METHODS: Final = {
    "trust": "trust",
    "reject": "reject",
    "password": "password",
    "plain": "password",
    "md5": "md5",
    "scram-sha-256": "scram-sha-256",
    "cert": "cert",
    "peer": "peer",
    "ldap": "ldap",
    "pam": "pam",
}
_NOT_HERE: Final = ("gss", "sspi", "ident", "radius", "bsd", "oauth")
_MAPPED: Final = ("cert", "peer")
_ENCRYPTION: Final = ("hostgssenc", "hostnogssenc")


class Fault(Exception):
    """Why a record is no rule, and where."""

    def __init__(self, cause: str, place: Place) -> None:
        super().__init__(cause)
        self.place = place


def read_rule(record: Record, maps: Iterable[str], judges: Judges, report: Report) -> AccessRule | None:
    """The rule, or None after a report. maps: names of those that there are."""
    try:
        return _rule(record, maps, judges, report)
    except Fault as fault:
        report.add("bad_access_line", fault.place, cause=_told(str(fault), fault.place, record))
        return None


def _told(cause: str, place: Place, record: Record) -> str:
    """The cause, which quotes nothing of a directory's password: what stands behind one may be a piece of it."""
    tokens = [token for field in record.fields for token in field]
    first = next((one.place for one in tokens if names_bind_password(one.text)), None)
    is_before = first is not None and place.source is first.source and place.start < first.start
    return cause if first is None or is_before else without_quoted(cause)


def _rule(record: Record, maps: Iterable[str], judges: Judges, report: Report) -> AccessRule:
    fields = list(record.fields)
    kind = _kind(_single(fields.pop(0), "connection type"))
    databases = _names(_next(fields, record, "database"), _database)
    users = _names(_next(fields, record, "user"), _user)
    network = None if kind == "local" else _network(fields, record, report)
    named = _single(_next(fields, record, "method"), "method")
    method = _method(named, kind)
    options = dict(_option(token) for field in fields for token in field)
    given = _Options(options, named.place)
    rule_map = _map(given, method, maps)
    certificate = _certificate(given, method, kind)
    service = _service(given, method, judges)
    if options:
        name, (_, place) = next(iter(options.items()))
        raise Fault(f'"{name}" is no option of the method {method}', place)
    return AccessRule(record.where, kind, databases, users, network, method, rule_map, certificate, service)


def _next(fields: list[Field], record: Record, what: str) -> Field:
    if not fields:
        raise Fault(f"the line ends before its {what}", record.place)
    return fields.pop(0)


def _single(field: Field, what: str) -> Token:
    if len(field) > 1:
        raise Fault(f"there are several values for the {what}", field[1].place)
    return field[0]


def _kind(token: Token) -> str:
    if token.text in KINDS:
        return token.text
    if token.text in _ENCRYPTION:
        raise Fault(f"{token.text} is not supported: connections are never encrypted by GSSAPI", token.place)
    raise Fault(f'"{token.text}" is no connection type; there are {", ".join(KINDS)}', token.place)


def _names(field: Field, read: Callable[[Token], Pattern]) -> tuple[Pattern, ...]:
    return tuple(read(token) for token in field)


def _database(token: Token) -> Pattern:
    for word, pattern in (("all", "all"), ("sameuser", "same_user"), ("replication", "replication")):
        if token.is_word(word):
            return pattern
    if token.is_word("samerole") or token.is_word("samegroup"):
        raise Fault(f"{token.text} is not supported: roles' members are known to servers only", token.place)
    return _name(token)


def _user(token: Token) -> Pattern:
    if token.is_word("all"):
        return "all"
    if not token.is_quoted and token.text.startswith("+"):
        raise Fault("members of a role can't be named: they are known to servers only", token.place)
    return _name(token)


def _name(token: Token) -> Pattern:
    if token.text.startswith("/"):
        return regex(token)
    return {"name": token.text}


def regex(token: Token, *, needs_group: bool = False) -> Pattern:
    """The regular expression behind the slash of a token. Raises Fault."""
    text = token.text[1:]
    if cause := _engine.check_pattern(text, needs_group=needs_group):
        raise Fault(f"the regular expression can't be used: {cause}", token.place)
    return {"regex": text}


def _network(fields: list[Field], record: Record, report: Report) -> tuple[str, str] | None:
    token = _single(_next(fields, record, "address"), "address")
    if token.is_word("all"):
        return None
    if token.is_word("samehost") or token.is_word("samenet"):
        raise Fault(f"{token.text} is not supported; write the addresses", token.place)
    written, slash, bits = token.text.partition("/")
    try:
        address = ipaddress.ip_address(written)
    except ValueError:
        raise Fault(f'"{written}" is no IP address; names of hosts are not supported', token.place) from None
    if getattr(address, "scope_id", None):
        raise Fault("an address with a zone is not supported", token.place)
    if slash:
        if not bits.isascii() or not bits.isdigit() or int(bits[:4]) > address.max_prefixlen:
            raise Fault(f'"{bits}" is no length of a mask, which is 0 to {address.max_prefixlen}', token.place)
        full = (1 << address.max_prefixlen) - 1
        mask = type(address)(full ^ (full >> int(bits)))
    else:
        mask = _mask(_single(_next(fields, record, "mask"), "mask"), address)
    address, mask = _unmapped(address, mask)
    if int(address) & ~int(mask):
        if record.is_pgbouncers:
            cause = (
                f"PgBouncer lets a rule with bits behind its mask fit nobody; write the network of {written}, or all"
            )
            raise Fault(cause, token.place)
        report.add("masked_address", token.place, address=written, mask=mask)
    return str(address), str(mask)


def _unmapped(address: _Address, mask: _Address) -> tuple[_Address, _Address]:
    """IPv4 addresses in IPv6's clothes as what they are, for so clients' are compared."""
    inner = getattr(address, "ipv4_mapped", None)
    if inner is None or int(mask) >> 32 != (1 << 96) - 1:
        return address, mask
    return inner, ipaddress.IPv4Address(int(mask) & 0xFFFFFFFF)


def _mask(token: Token, address: _Address) -> _Address:
    try:
        mask = ipaddress.ip_address(token.text)
    except ValueError:
        raise Fault(
            f'"{token.text}" is no mask; write the address as {address}/bits, or a mask behind it', token.place
        ) from None
    if mask.version != address.version:
        raise Fault(f"an IPv{address.version} address has an IPv{address.version} mask", token.place)
    return mask


def _method(token: Token, kind: str) -> str:
    method = _METHODS.get(token.text)
    if method is None and token.text == "ident" and kind == "local":
        method = "peer"
    if method is None and token.text in _NOT_HERE:
        raise Fault(f"the method {token.text} is not supported; there are {', '.join(_METHODS)}", token.place)
    if method is None:
        raise Fault(f'"{token.text}" is no method; there are {", ".join(_METHODS)}', token.place)
    if method == "peer" and kind != "local":
        raise Fault("peer is for lines of the type local", token.place)
    # PgBouncer's files say host where hostssl is meant; without TLS such a client is refused.
    if method == "cert" and kind not in ("host", "hostssl"):
        raise Fault("cert is for lines of the type hostssl", token.place)
    return method


def _option(token: Token) -> tuple[str, tuple[str, Place]]:
    name, equals, value = token.text.partition("=")
    if not equals:
        raise Fault(f'"{name}" is no option, which is written name=value', token.place)
    return name, (value, token.place)


@dataclass(frozen=True, slots=True)
class _Options:
    """Options that are taken one by one; what is left at the end belongs to no method of the line."""

    left: dict[str, tuple[str, Place]]
    at: Place

    def take(self, name: str) -> tuple[str, Place] | None:
        return self.left.pop(name, None)


def _map(options: _Options, method: str, maps: Iterable[str]) -> str | None:
    if method not in _MAPPED or (given := options.take("map")) is None:
        return None
    name, place = given
    if name not in maps:
        raise Fault(f'there is no map "{name}" in auth.ident_file', place)
    return name


def _certificate(options: _Options, method: str, kind: str) -> str:
    if (given := options.take("clientcert")) is None:
        return "none"
    value, place = given
    if kind != "hostssl":
        raise Fault("clientcert is for lines of the type hostssl", place)
    if value not in ("verify-ca", "verify-full"):
        raise Fault(f'clientcert is verify-ca or verify-full, not "{value}"', place)
    if method == "cert":
        if value == "verify-ca":
            raise Fault("with the method cert, clientcert is verify-full", place)
        return "none"
    return value


def _service(options: _Options, method: str, judges: Judges) -> int:
    if method == "ldap":
        own = {name: value for name, value in options.left.items() if name.startswith("ldap")}
        for name in own:
            options.left.pop(name)
        try:
            found = directory({name: value for name, (value, _) in own.items()})
        except DirectoryFault as fault:
            place = own[fault.option][1] if fault.option in own else options.at
            raise Fault(str(fault), place) from None
        return judges.number(found)
    if method == "pam":
        given, hosts = options.take("pamservice"), options.take("pam_use_hostname")
        named = given[0] if given else judges.default.name
        if hosts is not None and hosts[0] not in ("0", "1"):
            raise Fault(f'pam_use_hostname is 0 or 1, not "{hosts[0]}"', hosts[1])
        return judges.number(PamService(named, hosts is not None and hosts[0] == "1"))
    return 0
