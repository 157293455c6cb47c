"""What TLS offers, from the words of PgBouncer and OpenSSL: versions, suites of ciphers, groups of the key exchange.

The engine's library has neither TLS 1.0 and 1.1 nor suites without forward secrecy and authenticated encryption; what
names them is said, and offered without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from forebay.config.resolved import TlsOffers

_VERSIONS: Final = {"tlsv1.2": "1.2", "tlsv1.3": "1.3"}
_OLD: Final = ("tlsv1.0", "tlsv1.1")
_VERSION_GROUPS: Final = {
    "all": (*_OLD, *_VERSIONS),
    "legacy": (*_OLD, *_VERSIONS),
    "tlsv1": (*_OLD, *_VERSIONS),
    "secure": tuple(_VERSIONS),
    "default": tuple(_VERSIONS),
}
_LIBRARY_S_OWN: Final = ("default", "secure", "fast", "normal", "compat", "legacy", "all", "insecure")


@dataclass(frozen=True, slots=True)
class _Suite:
    """name: OpenSSL's; iana: the engine's; tags: OpenSSL's words that mean it and others."""

    name: str
    iana: str
    tags: frozenset[str]
    bits: int


def _suite(who: str, cipher: str) -> _Suite:
    tags = {"ALL", "HIGH", "ECDHE", "EECDH", "kECDHE", "kEECDH", "AEAD", "TLSv1.2", f"a{who}"}
    tags |= {"ECDSA"} if who == "ECDSA" else set()
    if cipher == "CHACHA20-POLY1305":
        iana, bits, own = "CHACHA20_POLY1305_SHA256", 256, {"CHACHA20"}
    else:
        bits = 256 if "256-GCM" in cipher else 128
        iana, own = f"AES_{bits}_GCM_SHA{384 if bits == 256 else 256}", {"AES", "AESGCM", f"AES{bits}"}
    return _Suite(f"ECDHE-{who}-{cipher}", f"TLS_ECDHE_{who}_WITH_{iana}", frozenset(tags | own), bits)


# In OpenSSL's order: the stronger first.
_SUITES: Final = tuple(
    _suite(who, cipher)
    for cipher in ("AES256-GCM-SHA384", "CHACHA20-POLY1305", "AES128-GCM-SHA256")
    for who in ("ECDSA", "RSA")
)
_SUITES_13: Final = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
_TAGS: Final = frozenset().union(*(suite.tags for suite in _SUITES))
_GROUPS: Final = {
    "prime256v1": "secp256r1", "secp256r1": "secp256r1", "p-256": "secp256r1",
    "secp384r1": "secp384r1", "p-384": "secp384r1", "x25519": "X25519", "x25519mlkem768": "X25519MLKEM768",
}  # fmt: skip


class NothingLeft(Exception):
    """Of a list nothing can be offered. setting: its last part, such as ciphers."""

    def __init__(self, cause: str, setting: str) -> None:
        super().__init__(cause)
        self.setting = setting


@dataclass(frozen=True, slots=True)
class Wanted:
    """As written. Each may be empty: the library's own."""

    protocols: str
    ciphers: str
    tls13_ciphers: str
    curve: str = ""


def offers(wanted: Wanted) -> tuple[TlsOffers, list[tuple[str, str]]]:
    """What is offered, and what can't be: pairs of a setting's last part and a name. Raises NothingLeft."""
    passed_over: list[tuple[str, str]] = []
    versions = _versions(wanted.protocols, passed_over)
    suites = _suites(wanted, versions or tuple(_VERSIONS.values()), passed_over)
    groups = _groups(wanted.curve, passed_over)
    return TlsOffers(versions=versions, suites=suites, groups=groups), passed_over


def _versions(written: str, passed_over: list[tuple[str, str]]) -> tuple[str, ...]:
    chosen: dict[str, None] = {}
    taken_away = False
    words = _words(written.lower().replace(":", ","))
    for word in words:
        name, is_out = word.removeprefix("!"), word.startswith("!")
        names = _VERSION_GROUPS.get(name, (name,))
        if not set(names) <= {*_VERSIONS, *_OLD}:
            raise NothingLeft(f'"{name}" is no version of TLS', "protocols")
        if is_out and not chosen:
            # As libtls: what is taken away is taken from all.
            chosen = dict.fromkeys(_VERSION_GROUPS["all"])
        for one in names:
            if is_out:
                taken_away |= one in _VERSIONS
                chosen.pop(one, None)
            else:
                chosen[one] = None
    found = tuple(_VERSIONS[name] for name in chosen if name in _VERSIONS)
    if words and not found and (taken_away or not chosen):
        raise NothingLeft("no version of TLS is left that there is", "protocols")
    passed_over += [("protocols", name) for name in chosen if name in _OLD]
    # Older ones alone: what is offered instead is stronger, and the warning says so.
    return () if set(found) == set(_VERSIONS.values()) else found


def _suites(wanted: Wanted, versions: tuple[str, ...], passed_over: list[tuple[str, str]]) -> tuple[str, ...]:
    ciphers, given_13 = wanted.ciphers, _words(wanted.tls13_ciphers.replace(":", ","))
    is_own = ciphers.strip().lower() in ("", *_LIBRARY_S_OWN)
    listed = [] if is_own else _words(ciphers.replace(":", ",").replace(" ", ","))
    of_12 = [suite.iana for suite in (_SUITES if is_own else _chosen(listed, passed_over))]
    if not given_13:
        given_13 = [word for word in listed if word in _SUITES_13]
    of_13 = [name for name in given_13 if name in _SUITES_13]
    passed_over += [("suites", name) for name in given_13 if name not in _SUITES_13]
    if given_13 and not of_13 and "1.3" in versions:
        raise NothingLeft("failed to set the TLSv1.3 cipher suites: none of the list is supported", "suites")
    if not of_12 and "1.2" in versions and not (of_13 and "1.3" in versions):
        raise NothingLeft("none of the ciphers is supported", "ciphers")
    if is_own and not given_13:
        return ()
    return (*(of_13 or _SUITES_13), *of_12)


def _chosen(words: Iterable[str], passed_over: list[tuple[str, str]]) -> list[_Suite]:
    """OpenSSL's list format (openssl-ciphers(1)) over the suites that there are."""
    active: list[_Suite] = []
    killed: set[_Suite] = set()
    for word in words:
        if word.upper() == "@STRENGTH":
            active.sort(key=lambda suite: -suite.bits)
            continue
        if word.startswith("@") or word in _SUITES_13:
            continue
        sign = word[0] if word[0] in "!+-" else ""
        name = word.removeprefix(sign) if sign else word
        meant = _meant(name)
        if not meant and not sign:
            passed_over.append(("ciphers", name))
        if sign == "!":
            killed.update(meant)
        if sign in ("!", "-"):
            active = [suite for suite in active if suite not in meant]
        elif sign == "+":
            active = [suite for suite in active if suite not in meant] + [one for one in active if one in meant]
        else:
            active += [suite for suite in meant if suite not in active and suite not in killed]
    return active


def _meant(name: str) -> list[_Suite]:
    """The suites of a name or of several tags between plus signs."""
    if name.upper() in ("DEFAULT", "SECURE"):
        return list(_SUITES)
    tags = name.split("+")
    if not set(tags) <= _TAGS:
        return [suite for suite in _SUITES if name in (suite.name, suite.iana)]
    return [suite for suite in _SUITES if set(tags) <= suite.tags]


def _groups(written: str, passed_over: list[tuple[str, str]]) -> tuple[str, ...]:
    words = _words(written.replace(":", ","))
    if [word.lower() for word in words] in ([], ["auto"]):
        return ()
    if [word.lower() for word in words] == ["none"]:
        # Without a group there is no key exchange here.
        passed_over.append(("curve", "none"))
        return ()
    found = [_GROUPS[word.lower()] for word in words if word.lower() in _GROUPS]
    passed_over += [("curve", word) for word in words if word.lower() not in _GROUPS]
    if not found:
        raise NothingLeft("none of the groups is supported", "curve")
    return tuple(dict.fromkeys(found))


def _words(written: str) -> list[str]:
    return [word.strip() for word in written.split(",") if word.strip()]


def wanted_of(value: Callable[[str], object]) -> Wanted:
    """value: gives a setting's value by its last part, or None."""
    names = ("protocols", "ciphers", "suites", "curve")
    return Wanted(*(str(value(name) or "") for name in names))
