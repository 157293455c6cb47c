"""What each type of setting accepts, and what the engine gets for it.

A reader takes a node and returns the engine's value, or None after it has reported what is wrong. `KINDS` is the
registration: one line for each type of spec/settings.toml.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from forebay._generated.settings import Setting
from forebay.config import measures
from forebay.config.finding import Report, closest
from forebay.config.source import without_secrets
from forebay.config.tree import Node

Value = str | int | bool | tuple[str, ...]

_TRUTH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_FOUND = {
    "table": "a table",
    "array": "a list",
    "string": "text",
    "integer": "a number",
    "float": "a fraction",
    "boolean": "true or false",
    "datetime": "a date",
}
_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}\.?)*", re.ASCII)
_SOCKET_NAME = ".s.PGSQL."
PORT_DEFAULT = 5432
PEER_PORT_DEFAULT = 6432
UNIX_PATH_BYTES_MAX = 107
WEIGHT_MAX = 100


@dataclass(frozen=True, slots=True)
class Reading:
    """One value being read: name is how findings call it; base the folder that relative paths start from."""

    setting: Setting
    node: Node
    name: str
    base: Path
    report: Report

    def wrong_type(self, wanted: str) -> None:
        """Reports that the node is of another type."""
        self.report.add("wrong_type", self.node.place, name=self.name, wanted=wanted, found=_FOUND[self.node.kind])


def read_duration(reading: Reading) -> int | None:
    """Microseconds."""
    return _measure(reading, measures.duration_us, "bad_duration", "a duration in quotes")


def read_size(reading: Reading) -> int | None:
    """Bytes. A bare number is bytes as well."""
    if reading.node.kind == "integer":
        return _within(reading, int(reading.node.value or 0), measures.size_bytes)
    return _measure(reading, measures.size_bytes, "bad_size", "a size in quotes")


def read_int(reading: Reading) -> int | None:
    """A whole number."""
    value = reading.node.value
    if reading.node.is_text and isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value, re.ASCII):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        reading.wrong_type("a whole number")
        return None
    return _within(reading, value, int)


def read_bool(reading: Reading) -> bool | None:
    """True or false."""
    value = reading.node.value
    if reading.node.is_text and isinstance(value, str):
        value = _TRUTH.get(value.lower(), value)
    if isinstance(value, bool):
        return value
    reading.wrong_type("true or false")
    return None


def read_enum(reading: Reading) -> str | None:
    """One of the setting's choices."""
    word = read_string(reading)
    if word is None or word in reading.setting.choices:
        return word
    choices = ", ".join(reading.setting.choices)
    meant = closest(word, reading.setting.choices)
    reading.report.add("not_a_choice", reading.node.place, meant=meant, name=reading.name, text=word, choices=choices)
    return None


def read_string(reading: Reading) -> str | None:
    """Text without NUL."""
    value = reading.node.value
    if not isinstance(value, str) or reading.node.kind != "string" or "\0" in value:
        reading.wrong_type("text in quotes")
        return None
    return value


def read_mode(reading: Reading) -> int | None:
    """Permission bits, written in octal as text or as TOML's 0o770."""
    value = reading.node.value
    if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}", value, re.ASCII):
        return int(value, 8)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777:
        return value
    reading.report.add("bad_mode", reading.node.place, name=reading.name, text=value)
    return None


def read_path(reading: Reading) -> str | None:
    """An absolute path; a relative one starts at the configuration's folder. Empty text: not set.

    A listener's may be an abstract name behind an @.
    """
    value = read_string(reading)
    if not value or (value.startswith("@") and (reading.setting.section, reading.setting.name) == ("listen", "unix")):
        return value
    return str(reading.base / value)


def read_names(reading: Reading) -> tuple[str, ...] | None:
    """Names, in order, each once."""
    names = _texts(reading)
    return None if names is None else tuple(dict.fromkeys(name for name, _ in names))


def read_addresses(reading: Reading) -> tuple[str, ...] | None:
    """IP addresses without brackets, each once; `*` stands for all of them."""
    texts = _texts(reading)
    if texts is None:
        return None
    addresses: list[str] = []
    for written, node in texts:
        if written == "*":
            addresses += ["0.0.0.0", "::"]  # noqa: S104  (the user asks for it)
            continue
        bare = written[1:-1] if written.startswith("[") and written.endswith("]") else written
        try:
            addresses.append(str(ipaddress.ip_address("127.0.0.1" if bare == "localhost" else bare)))
        except ValueError:
            reading.report.add("bad_address", node.place, name=reading.name, text=written)
            return None
    return tuple(dict.fromkeys(addresses))


def read_networks(reading: Reading) -> tuple[str, ...] | None:
    """Networks as `address/length`, each once; an address is a network of its own."""
    texts = _texts(reading)
    if texts is None:
        return None
    networks: list[str] = []
    for written, node in texts:
        try:
            networks.append(str(ipaddress.ip_network(written)))
        except ValueError as error:
            cause = "bits behind its length are set" if "host bits" in str(error) else "it can't be read"
            reading.report.add("bad_network", node.place, name=reading.name, text=written, cause=cause)
            return None
    return tuple(dict.fromkeys(networks))


def read_endpoints(reading: Reading) -> tuple[str, ...] | None:
    """`host:port`, `[v6]:port` or the path of a Unix socket, completed by what was left out."""
    texts = _texts(reading)
    if texts is None:
        return None
    endpoints = [_endpoint(reading, node, written, PORT_DEFAULT) for written, node in texts]
    return None if None in endpoints else tuple(dict.fromkeys(one for one in endpoints if one))


def read_weights(reading: Reading) -> tuple[str, ...] | None:
    """A whole number for each endpoint, host or network, as `key=number`."""
    pairs = _pairs(reading)
    for key, written, node in pairs or ():
        is_number = re.fullmatch(r"\d{1,4}", written, re.ASCII) is not None and int(written) <= WEIGHT_MAX
        if not is_number:
            name = f'{reading.name}."{key}"'
            reading.report.add("out_of_range", node.place, name=name, text=written, least=0, most=WEIGHT_MAX)
            return None
    return None if pairs is None else tuple(f"{key}={int(written)}" for key, written, _ in pairs)


def read_zones(reading: Reading) -> tuple[str, ...] | None:
    """A word for each endpoint, host or network, as `key=word`."""
    pairs = _pairs(reading)
    for key, written, node in pairs or ():
        if not re.fullmatch(r"[^\s=,\x00-\x1f\x7f]{1,63}", written):
            wanted = "a zone's name of 1 to 63 characters, without blank, comma and ="
            name = f'{reading.name}."{key}"'
            reading.report.add("wrong_type", node.place, name=name, wanted=wanted, found=_FOUND[node.kind])
            return None
    return None if pairs is None else tuple(f"{key}={written}" for key, written, _ in pairs)


def read_peer(reading: Reading) -> str | None:
    """`host:port`, `[v6]:port` or the path of a Unix socket, of a pooler."""
    written = read_string(reading)
    return written and _endpoint(reading, reading.node, written, PEER_PORT_DEFAULT)


def read_socket(reading: Reading) -> str | None:
    """`address:port`, or empty; with port 0 the system chooses one."""
    written = read_string(reading)
    if not written:
        return written
    endpoint = _endpoint(reading, reading.node, written, None)
    if endpoint and endpoint.startswith("/"):
        cause = "this needs an address and a port"
        reading.report.add("bad_endpoint", reading.node.place, name=reading.name, text=written, cause=cause)
        return None
    return endpoint


KINDS: Final[dict[str, Callable[[Reading], Value | None]]] = {
    "duration": read_duration,
    "size": read_size,
    "int": read_int,
    "bool": read_bool,
    "enum": read_enum,
    "string": read_string,
    "mode": read_mode,
    "path": read_path,
    "addresses": read_addresses,
    "endpoints": read_endpoints,
    "socket": read_socket,
    "peer": read_peer,
    "weights": read_weights,
    "zones": read_zones,
    "names": read_names,
    "networks": read_networks,
}


def _measure(reading: Reading, parse: Callable[[str], int | None], row: str, wanted: str) -> int | None:
    node = reading.node
    if node.kind == "integer" and node.value == 0:
        return _within(reading, 0, parse)
    if node.kind == "integer":
        reading.report.add(row, node.place, name=reading.name, text=node.value)
        return None
    if not isinstance(node.value, str):
        reading.wrong_type(wanted)
        return None
    value = parse(node.value)
    if value is None:
        reading.report.add(row, node.place, name=reading.name, text=node.value)
        return None
    return _within(reading, value, parse)


def _within(reading: Reading, value: int, parse: Callable[[str], int | None]) -> int | None:
    least, most = reading.setting.least, reading.setting.most
    bounds = [bound if isinstance(bound, int) else parse(bound or "") for bound in (least, most)]
    if bounds[0] is None or bounds[1] is None or bounds[0] <= value <= bounds[1]:
        return value
    written = reading.node.value
    reading.report.add("out_of_range", reading.node.place, name=reading.name, text=written, least=least, most=most)
    return None


def _texts(reading: Reading) -> list[tuple[str, Node]] | None:
    """A list of texts, or one text; commas separate where the node is text of another format."""
    node = reading.node
    if node.kind == "string":
        parts = str(node.value).split(",") if node.is_text else [str(node.value)]
        return [(part.strip(), node) for part in parts if part.strip()]
    if node.kind != "array":
        reading.wrong_type("text in quotes, or a list of them")
        return None
    out = []
    for item in node.items:
        if item.kind != "string" or not item.value:
            reading.report.add(
                "wrong_type", item.place, name=reading.name, wanted="a list of texts", found=_FOUND[item.kind]
            )
            return None
        out.append((str(item.value), item))
    return out


def _pairs(reading: Reading) -> list[tuple[str, str, Node]] | None:
    """Keys that are endpoints, hosts or networks, completed, and what is written for each."""
    node = reading.node
    if node.kind == "table":
        given = [(entry.key, str(entry.value.value), entry.value) for entry in node.entries]
        if bad := next((one for _, _, one in given if one.kind not in ("string", "integer")), None):
            reading.report.add("wrong_type", bad.place, name=reading.name, wanted="a word for each endpoint",
                               found=_FOUND[bad.kind])  # fmt: skip
            return None
    elif node.is_text and node.kind == "string":
        parts = [part.strip() for part in str(node.value).split(",") if part.strip()]
        given = [(key.strip(), value.strip(), node) for key, _, value in (part.rpartition("=") for part in parts)]
    else:
        reading.wrong_type('a table, such as { "10.0.0.6:5432" = … }')
        return None
    found: dict[str, tuple[str, str, Node]] = {}
    for key, value, one in given:
        place = _place(reading, one, key)
        if place is None:
            return None
        found[place] = (place, value, one)
    return list(found.values())


def _place(reading: Reading, node: Node, written: str) -> str | None:
    """An endpoint, a host or a network; None after a report."""
    if "/" in written and not written.startswith("/"):
        try:
            return str(ipaddress.ip_network(written))
        except ValueError as error:
            cause = "bits behind its length are set" if "host bits" in str(error) else "it can't be read"
            reading.report.add("bad_network", node.place, name=reading.name, text=written, cause=cause)
            return None
    host, port = ("", "") if written.startswith("/") else _host_and_port(written, None)
    return host if not port and _is_host(host) else _endpoint(reading, node, written, PORT_DEFAULT)


def _endpoint(reading: Reading, node: Node, written: str, port_default: int | None) -> str | None:
    """The completed endpoint, or None after a report."""
    cause = None
    if written.startswith("/"):
        path = (
            written
            if Path(written).name.startswith(_SOCKET_NAME)
            else f"{written}/{_SOCKET_NAME}{port_default or PORT_DEFAULT}"
        )
        if len(path.encode()) <= UNIX_PATH_BYTES_MAX:
            return path
        cause = f"a socket's path has {UNIX_PATH_BYTES_MAX} bytes at most"
    else:
        host, port = _host_and_port(written, port_default)
        least = 0 if port_default is None else 1
        if not port.isascii() or not port.isdigit() or not least <= int(port[:6]) < 65536:
            cause = f"the port is {least} to 65535" if port else "the port is missing"
        elif not _is_host(host):
            cause = "the host is no name and no address" if host else "the host is missing"
        else:
            return f"{host}:{int(port)}"
    shown = without_secrets(written)
    reading.report.add("bad_endpoint", node.place, name=reading.name, text=shown, cause=cause)
    return None


def _host_and_port(written: str, port_default: int | None) -> tuple[str, str]:
    default = "" if port_default is None else str(port_default)
    if written.startswith("["):
        host, bracket, rest = written.partition("]")
        return host + bracket, rest[1:] if rest.startswith(":") else default if not rest else "x"
    if written.count(":") > 1:
        return f"[{written}]", default
    host, colon, port = written.partition(":")
    return host, port if colon else default


def _is_host(host: str) -> bool:
    """A DNS name, an IPv4 address, or an IPv6 address in brackets."""
    if host.startswith("["):
        try:
            return host.endswith("]") and ipaddress.ip_address(host[1:-1]).version == 6
        except ValueError:
            return False
    if re.fullmatch(r"[\d.]+", host, re.ASCII):
        try:
            return bool(ipaddress.ip_address(host))
        except ValueError:
            return False
    return _HOST_NAME.fullmatch(host) is not None
