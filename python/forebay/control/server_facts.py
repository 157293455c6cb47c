"""Asks the servers of a configuration what they accept, as `forebay check --ask` wants it known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from forebay.config.advice.facts import ServerFacts
from forebay.config.resolve import Config
from forebay.config.resolved import DatabaseConfig
from forebay.config.secret import Secret
from forebay.control.console_link import CONNECT_TIMEOUT_S, driver, first_line
from forebay.control.endpoint import own_connection

_QUESTION: Final = (
    "SELECT name, setting::bigint FROM pg_settings WHERE name IN ('max_connections',"
    " 'superuser_reserved_connections', 'reserved_connections', 'idle_session_timeout')"
)
_ROLE_LIMITS: Final = "SELECT rolname, rolconnlimit FROM pg_roles WHERE rolconnlimit >= 0 AND NOT rolsuper"
_DATABASE_LIMITS: Final = "SELECT datname, datconnlimit FROM pg_database WHERE datconnlimit >= 0"
# One that was copied has another start; one that is reached by two addresses has the same.
_IDENTITY: Final = "SELECT 'identity', extract(epoch FROM pg_postmaster_start_time())::text || current_setting('port')"
# What is asked where only "*" leads to a server.
_MAINTENANCE: Final = "postgres"


@dataclass(frozen=True, slots=True)
class Asked:
    """Answers by endpoint, and why the others gave none."""

    servers: dict[str, ServerFacts]
    failures: dict[str, str]


def ask(config: Config) -> Asked:
    """Connects to each server as a pool would, and as whoever asks for its role. Raises Failure without a driver."""
    psycopg = driver()
    asked = Asked({}, {})
    for database, endpoint in _each_server(config):
        login = _login(config, database)
        if login is None:
            asked.failures[endpoint] = "no user's password is known here"
            continue
        user, secret = login
        try:
            connection = psycopg.connect(
                **_parameters(config, database, endpoint), user=user, password=secret.text, autocommit=True
            )
        except psycopg.OperationalError as error:
            asked.failures[endpoint] = f'{first_line(error)} (user "{user}")'
            continue
        try:
            found, roles, databases, itself = (
                dict(connection.execute(question).fetchall())
                for question in (_QUESTION, _ROLE_LIMITS, _DATABASE_LIMITS, _IDENTITY)
            )
        except psycopg.Error as error:
            asked.failures[endpoint] = first_line(error)
            continue
        finally:
            connection.close()
        reserved = found.get("superuser_reserved_connections", 0) + found.get("reserved_connections", 0)
        # PostgreSQL has milliseconds.
        idle = found.get("idle_session_timeout", 0) * 1000
        asked.servers[endpoint] = ServerFacts(
            found["max_connections"], reserved, idle, roles, databases, itself["identity"]
        )
    for endpoint, cause in _who_is_not_polled(config):
        asked.failures.setdefault(endpoint, cause)
    return asked


def _who_is_not_polled(config: Config) -> Iterator[tuple[str, str]]:
    """Endpoints of topologies that do not let in whoever asks them for their role: nobody would be served there."""
    psycopg = driver()
    seen: set[tuple[str, str, str]] = set()
    for topology in config.topologies:
        for endpoint in topology.endpoints:
            one = (endpoint, topology.dbname, topology.user)
            if one in seen:
                continue
            seen.add(one)
            parameters = own_connection((endpoint,), topology.dbname, topology.user, topology.secret, topology.tls)
            try:
                psycopg.connect(**parameters, connect_timeout=CONNECT_TIMEOUT_S, application_name="forebay").close()
            except psycopg.OperationalError as error:
                yield endpoint, f'{first_line(error)} (poll_user "{topology.user}")'


def _each_server(config: Config) -> Iterator[tuple[DatabaseConfig, str]]:
    seen: set[str] = set()
    fallback = config.engine.fallback_database
    for database in (*config.engine.databases, *([fallback] if fallback else [])):
        for endpoint in database.endpoints:
            if endpoint not in seen:
                seen.add(endpoint)
                yield database, endpoint


def _login(config: Config, database: DatabaseConfig) -> tuple[str, Secret] | None:
    """Who can log in there: the forced user, who runs auth.query, or the first user whose password is known."""
    if database.forced_user:
        return (database.forced_user, database.forced_secret) if database.forced_secret else None
    known = [(one.name, one.secret) for one in config.engine.users]
    if config.auth_query is not None:
        known.insert(0, (config.auth_query.user, config.auth_query.secret))
    return next(((name, secret) for name, secret in known if secret and not secret.is_verifier), None)


def _parameters(config: Config, database: DatabaseConfig, endpoint: str) -> dict[str, Any]:
    """libpq's parameters."""
    if endpoint.startswith("/"):
        folder, port = str(Path(endpoint).parent), endpoint.rpartition(".")[2]
    else:
        host, _, port = endpoint.rpartition(":")
        folder = host.strip("[]")
    tls = config.engine.server_tls[database.tls]
    files = {"sslrootcert": tls.ca, "sslcert": tls.certificate, "sslkey": tls.key}
    is_fallback = database is config.engine.fallback_database
    return {
        "host": folder, "port": port, "dbname": _MAINTENANCE if is_fallback else database.dbname,
        "sslmode": tls.mode, "connect_timeout": CONNECT_TIMEOUT_S, "application_name": "forebay",
        **{name: value for name, value in files.items() if value},
    }  # fmt: skip
