"""The fleet that this forebay is a node of: [fleet], and the budgets of databases."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, cast

from forebay.config.draft import Draft
from forebay.config.finding import Report
from forebay.config.secret import Secret
from forebay.config.source_address import Address, parse
from forebay.failure import Failure

EXAMPLE: Final = "etcd://10.0.0.1:2379,10.0.0.2:2379"
SCHEMES: Final = ("etcd", "etcd+https")
OPTIONS: Final = ("ca", "certificate", "key")
# Names stand in keys of the store, and in lists for people.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """name: of the fleet; node: of this one in it. budgets: servers of a database over all nodes."""

    name: str
    node: str
    address: str
    user: str | None
    secret: Secret | None
    ttl_s: float
    budgets: Mapping[str, int]

    def store_address(self) -> Address:
        """Where etcd is asked, and as whom. Raises Failure."""
        address = parse(self.address, example=EXAMPLE)
        return address if self.user is None else replace(address, user=self.user, password=self.secret)


def budgets(draft: Draft) -> dict[str, int]:
    """By database."""
    given = {name: one.settings.get("server_budget") for name, one in draft.databases.items()}
    return {name: cast(int, each.value) for name, each in given.items() if each is not None and each.value}


def fleet(draft: Draft) -> FleetConfig | None:
    """None where there is none."""
    name, address, user = (draft.value("fleet", one) for one in ("name", "etcd", "user"))
    if not name or not address:
        return None
    secret = draft.settings.get(("fleet", "secret"))
    return FleetConfig(
        name=str(name),
        node=node_of(draft),
        address=str(address),
        user=str(user) if user else None,
        secret=cast(Secret, secret.value) if secret else None,
        ttl_s=cast(int, draft.value("fleet", "lease_ttl")) / 1_000_000,
        budgets=budgets(draft),
    )


def node_of(draft: Draft) -> str:
    """fleet.node, or the host's name."""
    return str(draft.value("fleet", "node") or os.uname().nodename)


def fleets_can_be_joined(draft: Draft, report: Report) -> None:
    """A node has a fleet, a name of its own and an etcd; budgets are shared by somebody."""
    name, address = draft.value("fleet", "name"), draft.value("fleet", "etcd")
    if not name and not address:
        for database in draft.databases.values():
            if (given := database.settings.get("server_budget")) is not None and given.value:
                report.add("budget_without_fleet", given.place, name=database.name)
        return
    place = draft.place("fleet", "name" if name else "etcd")
    if not name or not address:
        report.add("incomplete_fleet", place, missing="etcd" if name else "name")
        return
    for setting, value in (("name", str(name)), ("node", node_of(draft))):
        if _NAME.fullmatch(value) is None:
            report.add("unusable_fleet_name", draft.place("fleet", setting), setting=setting, value=value)
    if wrong := _wrong_address(draft, str(address)):
        cause, hint = wrong
        report.add("unusable_fleet_etcd", draft.place("fleet", "etcd"), cause=cause, hint=hint)
    for database in draft.databases.values():
        given = database.settings.get("server_budget")
        if given is not None and given.value and database.name == "*":
            report.add("budget_of_the_fallback", given.place)


def _wrong_address(draft: Draft, text: str) -> tuple[str, str] | None:
    """What is wrong with where and as whom etcd is asked, and what to do about it; holds no password."""
    try:
        address = parse(text, example=EXAMPLE)
    except Failure as failure:
        return str(failure), failure.hint or ""
    user, secret = draft.value("fleet", "user"), draft.settings.get(("fleet", "secret"))
    if address.scheme not in SCHEMES:
        return f"fleet.etcd begins with {address.scheme}://", f"write {EXAMPLE}, or etcd+https://"
    if not address.hosts or address.path:
        return "fleet.etcd names no host" if not address.hosts else "fleet.etcd has a path", f"write {EXAMPLE}"
    if unknown := [one for one in address.options if one not in OPTIONS]:
        return f'fleet.etcd has the option "{unknown[0]}"', f"it has {', '.join(OPTIONS)}"
    if address.options and address.scheme != SCHEMES[1]:
        return f'fleet.etcd has the option "{next(iter(address.options))}", which is for TLS', f"write {SCHEMES[1]}://"
    if "key" in address.options and "certificate" not in address.options:
        return 'fleet.etcd has the option "key" without "certificate"', "name both files"
    if address.user is not None:
        return "fleet.etcd holds a login", "set fleet.user and fleet.secret instead"
    if bool(user) != (secret is not None):
        return "fleet.user and fleet.secret go together", "set both, or none of them"
    if secret is not None and isinstance(secret.value, Secret) and secret.value.is_verifier:
        return "fleet.secret can't be shown to anybody", "give it the plain password"
    return None
