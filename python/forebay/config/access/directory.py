"""The LDAP options of a rule, or of auth.ldap_options, as a directory; as PostgreSQL reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from forebay.config.access.shapes import Directory
from forebay.config.secret import Secret

_PORTS: Final = {"ldap": 389, "ldaps": 636}
_OPTIONS: Final = (
    "ldapurl",
    "ldapserver",
    "ldapport",
    "ldapscheme",
    "ldaptls",
    "ldapprefix",
    "ldapsuffix",
    "ldapbasedn",
    "ldapbinddn",
    "ldapbindpasswd",
    "ldapsearchattribute",
    "ldapsearchfilter",
)
_SEARCHING: Final = ("ldapbasedn", "ldapbinddn", "ldapbindpasswd", "ldapsearchattribute", "ldapsearchfilter")


class DirectoryFault(Exception):
    """Why the options name no directory. option: which of them; empty: what is missing."""

    def __init__(self, cause: str, option: str = "") -> None:
        super().__init__(cause)
        self.option = option


def directory(options: Mapping[str, str]) -> Directory:
    """The directory that options by name describe. Raises DirectoryFault."""
    for name in options:
        if name not in _OPTIONS:
            raise DirectoryFault(f'"{name}" is no option of the method ldap', name)
    given = {**(_of_url(options["ldapurl"]) if "ldapurl" in options else {}), **options}
    given.pop("ldapurl", None)
    scheme = given.get("ldapscheme", "ldap")
    if scheme not in _PORTS:
        raise DirectoryFault(f'ldapscheme is ldap or ldaps, not "{scheme}"', "ldapscheme")
    if given.get("ldaptls", "0") not in ("0", "1"):
        raise DirectoryFault(f'ldaptls is 0 or 1, not "{given["ldaptls"]}"', "ldaptls")
    is_starttls = given.get("ldaptls") == "1"
    if is_starttls and scheme == "ldaps":
        raise DirectoryFault("ldaptls begins TLS on a connection that ldaps has encrypted already", "ldaptls")
    _check_kind(given)
    searched = given.get("ldapbasedn")
    return Directory(
        _servers(given, _PORTS[scheme]),
        is_tls=scheme == "ldaps",
        is_starttls=is_starttls,
        prefix=given.get("ldapprefix", ""),
        suffix=given.get("ldapsuffix", ""),
        base=searched,
        binder=given.get("ldapbinddn", ""),
        bind_secret=Secret(given.get("ldapbindpasswd", "")),
        attribute=given.get("ldapsearchattribute", "uid"),
        filter=given.get("ldapsearchfilter", ""),
        # With options PostgreSQL searches the whole subtree; a URL says which.
        scope=given.get("scope", "sub"),
    )


def _check_kind(given: Mapping[str, str]) -> None:
    """Either the name is put between a prefix and a suffix, or it is searched."""
    is_simple = "ldapprefix" in given or "ldapsuffix" in given
    searching = next((name for name in _SEARCHING if name in given), None)
    if is_simple and searching:
        raise DirectoryFault(f"{searching} is for a search, ldapprefix and ldapsuffix are for none", searching)
    if not is_simple and "ldapbasedn" not in given:
        raise DirectoryFault("ldap needs ldapbasedn for a search, or ldapprefix or ldapsuffix")
    if "ldapsearchattribute" in given and "ldapsearchfilter" in given:
        raise DirectoryFault("ldapsearchattribute and ldapsearchfilter exclude each other", "ldapsearchfilter")


def _servers(given: Mapping[str, str], port: int) -> tuple[tuple[str, int], ...]:
    written = given.get("ldapport", "")
    if written:
        if not written.isascii() or not written.isdigit() or not 0 < int(written[:6]) < 65536:
            raise DirectoryFault(f'ldapport is 1 to 65535, not "{written}"', "ldapport")
        port = int(written)
    hosts = given.get("ldapserver", "").split()
    if not hosts:
        raise DirectoryFault("ldap needs ldapserver, or a host in ldapurl")
    return tuple((host, port) for host in hosts)


def _of_url(url: str) -> dict[str, str]:
    """The options that a URL stands for (RFC 4516): ldap[s]://host[:port]/base[?attribute[?scope[?filter]]]."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in _PORTS:
        raise DirectoryFault("ldapurl begins with ldap:// or ldaps://", "ldapurl")
    place, _, path = rest.partition("/")
    base, attribute, scope, search_filter, *more = [*path.split("?"), "", "", ""][: max(4, path.count("?") + 1)]
    if more:
        raise DirectoryFault("extensions in ldapurl are not supported", "ldapurl")
    host, port = _host_and_port(place)
    out = {"ldapscheme": scheme.lower(), "ldapserver": host, "ldapport": port}
    if base:
        out["ldapbasedn"] = unquote(base)
    if attribute:
        out["ldapsearchattribute"] = unquote(attribute)
    if search_filter:
        out["ldapsearchfilter"] = unquote(search_filter)
    if scope not in ("", "base", "one", "sub"):
        raise DirectoryFault(f'the scope in ldapurl is base, one or sub, not "{scope}"', "ldapurl")
    # The default of a URL is the base itself.
    out["scope"] = scope or "base"
    return {name: value for name, value in out.items() if value}


def _host_and_port(place: str) -> tuple[str, str]:
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        return host, rest.removeprefix(":")
    host, _, port = place.partition(":")
    return host, port
