"""Who can be asked for the topology of a cluster besides its servers: a file for each kind, and a line for it below.

An address tells the kind by its scheme. A source reports what it was told; which of two sources is right, and whether
a server can write, is decided by those who ask.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from forebay.config.finding import closest
from forebay.config.secret import Secret
from forebay.config.source_address import accept, parse
from forebay.control.discover import aurora, dns, etcd, kubernetes, patroni
from forebay.control.discover.member import Source
from forebay.control.discover.registration import Kind, Means
from forebay.failure import Exit, Failure

KINDS: Final[tuple[Kind, ...]] = (
    patroni.KIND,
    etcd.KIND,
    kubernetes.KIND,
    dns.KIND,
    aurora.KIND,
)


def build(text: str, means: Means, *, user: str | None = None, password: Secret | None = None) -> Source:
    """The source at an address, asked as `user` where the address holds no login.

    Imports its driver and reads certificates: where a loop already serves, call it on another thread. The source
    belongs to the loop that first asks it. Raises Failure for an address that can't be used; it holds no password.
    """
    address = parse(text)
    kind = _kind(address.scheme)
    accept(address, kind.options, example=kind.example)
    if user is not None:
        address = replace(address, user=user, password=password)
    return kind.build(address, means)


def _kind(scheme: str) -> Kind:
    by_scheme = {each: kind for kind in KINDS for each in kind.schemes}
    if scheme not in by_scheme:
        near = closest(scheme, by_scheme)
        hint = f"Did you mean {near}://?" if near else f"There are {', '.join(sorted(by_scheme))}."
        raise Failure(f"there is no source of topology with the scheme {scheme}://", hint=hint, exit=Exit.USAGE)
    return by_scheme[scheme]
