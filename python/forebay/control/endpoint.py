"""Endpoints of servers as libpq wants them, for connections of forebay's own. Imports no driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forebay.config.resolved import ServerTls
from forebay.config.secret import Secret


def host_and_port(endpoint: str) -> tuple[str, int]:
    """Host and port as libpq wants them: a Unix socket is its folder and the number in its name."""
    if endpoint.startswith("/"):
        folder, _, name = endpoint.rpartition("/")
        port = name.rpartition(".")[2]
        return (folder, int(port)) if name.startswith(".s.PGSQL.") else (endpoint, 5432)
    host, _, port = endpoint.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def own_connection(
    endpoints: Sequence[str], dbname: str, user: str | None, secret: Secret | None, tls: ServerTls
) -> dict[str, Any]:
    """What libpq needs to know for a connection of forebay's own to the first of `endpoints` that answers."""
    places = [host_and_port(endpoint) for endpoint in endpoints]
    parameters = {
        "host": ",".join(host for host, _ in places),
        "port": ",".join(str(port) for _, port in places),
        "dbname": dbname,
        "user": user,
        "password": secret.text if secret else None,
        "sslmode": tls.mode,
        "sslrootcert": tls.ca or ("system" if tls.mode == "verify-full" else None),
        "sslcert": tls.certificate,
        "sslkey": tls.key,
    }
    return {key: value for key, value in parameters.items() if value is not None}
