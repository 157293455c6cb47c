"""What is said of a database's endpoints: how much of the requests each is to have, and where it is.

The configuration says it of an endpoint, of a host, or of a network for hosts that are written as addresses; the most
particular counts. What it does not say, a source of topology may.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from forebay.config.draft import Draft, Entity
from forebay.config.resolved import Preference

WEIGHT: Final = 1


@dataclass(frozen=True, slots=True)
class Said:
    """What a source tells of an endpoint; None: nothing."""

    weight: int | None = None
    zone: str | None = None


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the configuration says. weights, zones: by endpoint, host or network. zone: where forebay is, or empty."""

    weights: Mapping[str, str]
    zones: Mapping[str, str]
    zone: str


NOTHING: Final = Said()
NO_WISHES: Final = Wishes({}, {}, "")


def wishes(draft: Draft, database: Entity) -> Wishes:
    """Those of a database."""
    weights, zones = (pairs(database, name) for name in ("weights", "zones"))
    own = database.settings.get("zone")
    return Wishes(weights, zones, str(own.value if own else draft.value("server_defaults", "zone")))


def preferences(wishes: Wishes, endpoints: Iterable[str], told: Mapping[str, Said]) -> tuple[Preference, ...]:
    """Of each of these endpoints of which something is said."""
    found = []
    for endpoint in endpoints:
        said = told.get(endpoint, NOTHING)
        weight, zone = _of(wishes.weights, endpoint), _of(wishes.zones, endpoint) or said.zone or ""
        number = int(weight) if weight is not None else WEIGHT if said.weight is None else said.weight
        if zone or number != WEIGHT:
            found.append(Preference(endpoint, number, zone, bool(zone) and zone == wishes.zone))
    return tuple(found)


def pairs(database: Entity, name: str) -> dict[str, str]:
    """What `weights` or `zones` of a database says, by endpoint, host or network."""
    given = database.settings.get(name)
    written = given.value if given is not None and isinstance(given.value, tuple) else ()
    return {key: value for key, _, value in (pair.rpartition("=") for pair in written)}


def _of(said: Mapping[str, str], endpoint: str) -> str | None:
    """What is said of an endpoint: by its own name, that of its host, or the smallest network that it is in."""
    host = _host(endpoint)
    for key in (endpoint, host):
        if key in said:
            return said[key]
    networks = [key for key in said if _is_network(key) and fits(key, endpoint)]
    return said[max(networks, key=lambda key: ipaddress.ip_network(key).prefixlen)] if networks else None


def fits(key: str, endpoint: str) -> bool:
    """Whether what is said of `key` is said of an endpoint."""
    host = _host(endpoint)
    if key in (endpoint, host):
        return True
    if not _is_network(key):
        return False
    try:
        return ipaddress.ip_address(host.strip("[]")) in ipaddress.ip_network(key)
    except ValueError:
        return False


def _is_network(key: str) -> bool:
    return "/" in key and not key.startswith("/")


def _host(endpoint: str) -> str:
    return endpoint if endpoint.startswith("/") else endpoint.rpartition(":")[0]
