"""Times: who closes an idle connection first, how long requests wait, how long a login lives."""

from __future__ import annotations

import ipaddress
from typing import Final

from forebay.config.advice.facts import Facts, endpoints_of, given_values, shown, spoken, value_and_place
from forebay.config.draft import Draft
from forebay.config.finding import Report

# The shortest memory of a large cloud's network for silent connections is 240 s (Azure), of most 350 s (AWS).
NETWORK_FORGETS_US: Final = 350_000_000
# Linux's, where nothing else is set.
SYSTEM_KEEPALIVE_US: Final = 2 * 3_600_000_000
LONG_LIFE_US: Final = 24 * 3_600_000_000
SHORT_IDLE_US: Final = 60_000_000


def before_the_server(draft: Draft, facts: Facts, report: Report) -> None:
    """PostgreSQL must not be the one that closes idle servers."""
    for database in draft.databases.values():
        for endpoint in endpoints_of(database):
            server = facts.servers.get(endpoint)
            idle, place = value_and_place(draft, database, "server_idle_timeout")
            if server is None or not server.idle_limit or 0 < idle < server.idle_limit:
                continue
            report.add(
                "idle_above_server", place, name="server_idle_timeout", idle=spoken(idle),
                limit=spoken(server.idle_limit), endpoint=endpoint,
            )  # fmt: skip


def before_the_network(draft: Draft, facts: Facts, report: Report) -> None:
    """What lies between forgets silent connections."""
    first = int(str(draft.value("tcp", "keepalive_idle"))) or SYSTEM_KEEPALIVE_US
    is_kept = bool(draft.value("tcp", "keepalive"))
    if is_kept and first <= NETWORK_FORGETS_US:
        return
    name = "keepalive_idle" if is_kept else "keepalive"
    keepalive = f"the first TCP keepalive comes after {spoken(first)}" if is_kept else "TCP keepalive is off"
    for database in draft.databases.values():
        far = [one for one in endpoints_of(database) if not is_near(one)]
        idle, _ = value_and_place(draft, database, "server_idle_timeout")
        if far and (idle == 0 or idle > NETWORK_FORGETS_US):
            report.add(
                "idle_behind_nat", draft.place("tcp", name), endpoint=far[0], idle=spoken(idle), keepalive=keepalive,
                name="server_idle_timeout",
            )  # fmt: skip
            return


def is_near(endpoint: str) -> bool:
    """Whether no network lies before it: a Unix socket or a loopback address."""
    host = endpoint.rpartition(":")[0].strip("[]")
    if endpoint.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def of_waiting(draft: Draft, facts: Facts, report: Report) -> None:
    """A queue without an end."""
    for _, wait, place in given_values(draft, "query_wait_timeout"):
        if wait == 0:
            report.add("wait_without_end", place)


def of_idle_clients(draft: Draft, facts: Facts, report: Report) -> None:
    """Applications keep idle connections on purpose."""
    for _, limit, place in given_values(draft, "client_idle_timeout"):
        if 0 < limit < SHORT_IDLE_US:
            report.add("idle_clients_cut", place, limit=spoken(limit))


def of_logins(draft: Draft, facts: Facts, report: Report) -> None:
    """A login is as old as its server."""
    for _, lifetime, place in given_values(draft, "server_lifetime"):
        if lifetime == 0 or lifetime > LONG_LIFE_US:
            name = shown(draft, "server_defaults", "server_lifetime")
            report.add("servers_keep_logins", place, name=name, lifetime=spoken(lifetime))
