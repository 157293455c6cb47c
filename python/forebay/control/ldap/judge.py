"""Whether a directory takes a password for a user's. It blocks until the deadline at most."""

from __future__ import annotations

import os
import secrets
import ssl
import time
from typing import Final

from forebay.config.access.shapes import Directory
from forebay.control.ldap import filter as filters
from forebay.control.ldap.connection import SUCCESS, Connection, DirectoryFailed

# What a bind answers where the name or the password is wrong, or the account may not be used.
_REFUSALS: Final = (19, 32, 34, 48, 49, 50, 53)
# What PostgreSQL refuses in a name that is searched for.
_FORBIDDEN: Final = set("*()\\/\0")
_DN_SPECIAL: Final = set(',+"\\<>;=#\0')


def is_right(directory: Directory, user: str, password: str, *, authorities: str | None, timeout_s: float) -> bool:
    """Whether the directory lets `user` bind with `password`; servers are tried in order.

    authorities: PEM file with those that sign its certificate; None: the system's, or LDAPTLS_CACERT.
    Raises DirectoryFailed when none can be asked.
    """
    if not password or not user:
        return False
    deadline = time.monotonic() + timeout_s
    tls = _context(authorities) if directory.is_tls or directory.is_starttls else None
    failures = []
    for number, (host, port) in enumerate(directory.servers):
        # Its share of the time, so that a silent one leaves some for those behind it.
        now = time.monotonic()
        until = now + (deadline - now) / (len(directory.servers) - number)
        try:
            with Connection.open(host, port, tls=tls if directory.is_tls else None, deadline=until) as connection:
                if directory.is_starttls and tls is not None:
                    connection.start_tls(tls, host)
                return _judge(connection, directory, user, password)
        except DirectoryFailed as failed:
            failures.append(f"{host}:{port}: {failed}")
    raise DirectoryFailed("; ".join(failures))


def _judge(connection: Connection, directory: Directory, user: str, password: str) -> bool:
    if directory.base is None:
        return _binds(connection, bound_name(directory, user), password)
    found = _search(connection, directory, directory.base, user)
    if found is None:
        # A name that is not there costs a bind as well, so that its time does not tell.
        _binds(connection, f"cn={secrets.token_hex(8)},{directory.base}", password)
        return False
    return _binds(connection, found, password)


def bound_name(directory: Directory, user: str) -> str:
    """The name that is bound without a search. Where that is a DN, the user's name is one value in it and no more."""
    is_dn = "=" in directory.prefix
    return f"{directory.prefix}{_dn_value(user) if is_dn else user}{directory.suffix}"


def _dn_value(value: str) -> str:
    """A value in a DN (RFC 4514, section 2.4)."""
    out = "".join(f"\\{ord(sign):02x}" if sign in _DN_SPECIAL else sign for sign in value)
    if out.startswith(" "):
        out = f"\\20{out[1:]}"
    return f"{out[:-1]}\\20" if out.endswith(" ") else out


def _search(connection: Connection, directory: Directory, base: str, user: str) -> str | None:
    """The name of the one entry that is the user's."""
    if _FORBIDDEN & set(user):
        return None
    code = connection.bind(directory.binder, directory.bind_secret.text)
    if code != SUCCESS:
        raise DirectoryFailed(f"it does not let us search (LDAP result {code})")
    written = directory.filter.replace("$username", filters.escaped(user))
    try:
        encoded = filters.encode(written or f"({directory.attribute}={filters.escaped(user)})")
    except filters.BadFilter as error:
        raise DirectoryFailed(f"the search filter can't be read: {error}") from error
    names = connection.search(base, directory.scope, encoded)
    return names[0] if len(names) == 1 else None


def _binds(connection: Connection, name: str, password: str) -> bool:
    # A bind without a name is one as nobody, which succeeds with any password.
    if not name:
        return False
    code = connection.bind(name, password)
    if code not in (SUCCESS, *_REFUSALS):
        raise DirectoryFailed(f"it could not tell (LDAP result {code})")
    return code == SUCCESS


def _context(authorities: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authorities or os.environ.get("LDAPTLS_CACERT") or None)
    except OSError as error:
        raise DirectoryFailed(f"the authorities of directories can't be read: {error.strerror or error}") from error
