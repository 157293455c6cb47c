"""Who may see and do what."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from forebay.config.advice.facts import Facts, endpoints_of, is_fallback, listed, shown, value_and_place
from forebay.config.advice.times import is_near
from forebay.config.draft import Draft
from forebay.config.finding import Report
from forebay.config.secret import Secret

# Where secrets are, and the column that tells until when they are good.
_EXPIRY: Final = {"pg_shadow": "valuntil", "pg_authid": "rolvaliduntil"}


def listeners(draft: Draft, facts: Facts, report: Report) -> None:
    """What travels over a network should not be read there."""
    addresses = draft.value("listen", "address") if draft.bound is None else draft.bound
    far = [one for one in addresses if not ipaddress.ip_address(one).is_loopback] if addresses else []  # type: ignore[union-attr]
    is_plain = draft.value("listen", "tls.mode") == "disable" or not draft.value("listen", "tls.certificate")
    if far and is_plain and not any(name.startswith("listen.tls.") for name in draft.faulty):
        place = draft.place("listen", "tls.mode")
        place = place if place != draft.whole else draft.place("listen", "address")
        report.add("open_plaintext", place, address=far[0])


def servers(draft: Draft, facts: Facts, report: Report) -> None:
    """The same towards servers, where TLS was switched off."""
    for database in draft.databases.values():
        mode, place = value_and_place(draft, database, "tls.mode")
        far = [one for one in endpoints_of(database) if not is_near(one)]
        if far and mode in ("disable", "allow") and place != database.place:
            name = shown(draft, "server_defaults", "tls.mode")
            report.add("servers_in_plaintext", place, name=name, mode=mode, endpoint=far[0])
            return


def md5_secrets(draft: Draft, facts: Facts, report: Report) -> None:
    """An MD5 secret is as good as its password, and no good for SCRAM."""
    secrets = {name: one.settings["secret"].value for name, one in draft.users.items() if "secret" in one.settings}
    weak = [name for name, secret in secrets.items() if isinstance(secret, Secret) and _is_md5(secret)]
    if not weak:
        return
    place = draft.place("auth", "file")
    if place == draft.whole:
        place = draft.users[weak[0]].place
    row = "md5_secrets_unusable" if draft.value("auth", "type") == "scram-sha-256" else "md5_secrets"
    report.add(row, place, count=len(weak), all=len(secrets), users=listed(weak))


def _is_md5(secret: Secret) -> bool:
    return secret.is_verifier and secret.text.startswith("md5")


def fallback(draft: Draft, facts: Facts, report: Report) -> None:
    """A user that is forced on every database there is."""
    for database in draft.databases.values():
        forced = database.settings.get("user")
        if is_fallback(database) and forced is not None:
            report.add("fallback_forced_user", forced.place, user=forced.value)


def lookups(draft: Draft, facts: Facts, report: Report) -> None:
    """A query that looks secrets up must look for the right user, and whether the secret is still good."""
    given = draft.settings.get(("auth", "query"))
    if given is None or not given.value:
        return
    query, name = str(given.value).lower(), shown(draft, "auth", "query")
    if "$1" not in query:
        report.add("query_without_user_name", given.place, name=name)
    for table, column in _EXPIRY.items():
        if re.search(rf"\b{table}\b", query) and column not in query:
            report.add("query_ignores_expiry", given.place, name=name, table=table, column=column)
