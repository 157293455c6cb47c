"""The resolved configuration as the engine reads it: the twin of crates/forebay-core/src/config.rs.

Durations are microseconds and 0 means "no limit"; sizes are bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from forebay.config.access.shapes import Access
from forebay.config.secret import Secret


class TlsOffers(msgspec.Struct, frozen=True):
    """What is offered to a peer; an empty list is the library's own."""

    versions: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


class ListenTls(msgspec.Struct, frozen=True):
    """TLS towards clients."""

    certificate: str
    key: str
    ca: str | None
    mode: str
    offers: TlsOffers = TlsOffers()


class Listen(msgspec.Struct, frozen=True):
    """Where clients connect."""

    addresses: tuple[str, ...]
    port: int
    unix: str | None
    unix_mode: int
    unix_group: int | None
    backlog: int
    reuse_port: bool
    proxy_from: tuple[str, ...]
    tls: ListenTls | None


class TcpOptions(msgspec.Struct, frozen=True):
    """How TCP connections are kept."""

    keepalive: bool
    keepalive_idle: int
    keepalive_interval: int
    keepalive_count: int
    user_timeout: int
    server_dead_after: int
    socket_buffer: int
    defer_accept: bool


class DnsOptions(msgspec.Struct, frozen=True):
    """How long addresses of names hold."""

    max_ttl: int
    nxdomain_ttl: int


class Arrivals(msgspec.Struct, frozen=True):
    """What becomes of what clients ask for at their login."""

    ignored_parameters: tuple[str, ...]
    is_name_with_address: bool
    login_notice: str


class EngineSettings(msgspec.Struct, frozen=True):
    """Threads and driver."""

    workers: int
    io: str
    buffers: int
    buffer_size: int
    core_dumps: bool


class Limits(msgspec.Struct, frozen=True):
    """Limits on clients and messages."""

    clients_max: int
    logins_max: int
    address_logins_max: int
    max_user_connections: int
    max_user_client_connections: int
    message_bytes_max: int
    relay_bytes_max: int
    wait_bytes_max: int
    waiters_max: int
    cancel_misses_max: int
    cancel_wait_timeout: int
    client_statements_max: int
    client_channels_max: int
    notification_bytes_max: int
    statement_bytes_max: int
    login_timeout: int
    pool_idle_timeout: int
    autodb_idle_timeout: int
    metric_pools_max: int
    client_write_timeout: int
    drain_timeout: int
    drain_notice: int


class AuthSettings(msgspec.Struct, frozen=True):
    """How clients prove who they are."""

    method: str
    ask_unknown: bool
    cache_for: int
    cache_negative_for: int
    ask_timeout: int
    access: Access


class PoolSettings(msgspec.Struct, frozen=True):
    """Settings of a database's pools."""

    pool_mode: str
    pool_size: int
    reserve_pool_size: int
    reserve_pool_timeout: int
    min_pool_size: int
    max_db_connections: int
    max_db_client_connections: int
    max_replication_connections: int
    query_wait_timeout: int
    query_wait_notify: int
    server_lifetime: int
    server_idle_timeout: int
    server_connect_timeout: int
    server_backoff_max: int
    server_opening_max: int
    load_balance_hosts: str
    load_balance: str
    eject_slower_than: int
    slow_start: int
    server_local_socket: bool
    server_check_delay: int
    server_check_query: str
    server_round_robin: bool
    server_fast_close: bool
    server_reset_query: str
    server_reset_query_always: bool
    disable_pqexec: bool
    level: str
    on_pin: str
    sequence_affinity: str
    pin_idle_limit: int
    catalogue_refresh: int
    max_prepared_statements: int
    transaction_timeout: int
    idle_transaction_timeout: int
    query_timeout: int
    client_idle_timeout: int


class SecretLookup(msgspec.Struct, frozen=True):
    """Where secrets of a database's users are looked up. dbname: where that is another database."""

    is_asked: bool
    dbname: str | None


class ClusterConfig(msgspec.Struct, frozen=True):
    """What a database has of the cluster that its endpoints are."""

    role: str
    is_split: bool
    read_consistency: str
    retries_reads: bool
    holds_per_hour_max: int


class Preference(msgspec.Struct, frozen=True):
    """What is said of an endpoint. weight: 0 for none as long as others serve. zone: empty where nobody tells."""

    endpoint: str
    weight: int
    zone: str
    is_near: bool


class DatabaseConfig(msgspec.Struct, frozen=True):
    """A database that clients may ask for. preferences: of endpoints of which something is said."""

    name: str
    dbname: str
    endpoints: tuple[str, ...]
    preferences: tuple[Preference, ...]
    forced_user: str | None
    forced_secret: Secret | None
    tls: int
    lookup: SecretLookup
    parameters: tuple[tuple[str, str], ...]
    connect_query: str
    is_budgeted: bool
    checks_commits: bool
    cluster: ClusterConfig | None
    pool: PoolSettings


class UserConfig(msgspec.Struct, frozen=True):
    """A user known beforehand; None: not overridden."""

    name: str
    secret: Secret | None
    pool_mode: str | None
    pool_size: int | None
    reserve_pool_size: int | None
    query_timeout: int | None
    query_wait_timeout: int | None
    transaction_timeout: int | None
    idle_transaction_timeout: int | None
    client_idle_timeout: int | None
    max_user_connections: int | None
    max_user_client_connections: int | None


class ServerTls(msgspec.Struct, frozen=True):
    """TLS towards servers."""

    mode: str
    ca: str | None
    certificate: str | None
    key: str | None
    offers: TlsOffers = TlsOffers()


class PeerConfig(msgspec.Struct, frozen=True):
    """Another pooler behind the same address."""

    id: int
    endpoint: str
    pool_size: int


class Peers(msgspec.Struct, frozen=True):
    """Poolers that pass cancel requests on to each other; own: this one's number, 0: none."""

    own: int
    others: tuple[PeerConfig, ...]


class Console(msgspec.Struct, frozen=True):
    """Who may use the console."""

    admins: tuple[str, ...]
    viewers: tuple[str, ...]
    own_uid: int | None = None


class Metrics(msgspec.Struct, frozen=True):
    """The HTTP listener."""

    address: str


class LogSettings(msgspec.Struct, frozen=True):
    """What the engine logs; level: 0 debug, 1 info, 2 warn, 3 error."""

    level: int
    connections: bool
    disconnections: bool
    attempts: bool
    servers: bool
    refusals: bool
    min_duration: int


class EngineConfig(msgspec.Struct, frozen=True):
    """All that the engine needs to know."""

    listen: Listen
    tcp: TcpOptions
    dns: DnsOptions
    engine: EngineSettings
    arrivals: Arrivals
    limits: Limits
    auth: AuthSettings
    databases: tuple[DatabaseConfig, ...]
    fallback_database: DatabaseConfig | None
    users: tuple[UserConfig, ...]
    server_tls: tuple[ServerTls, ...]
    peers: Peers
    console: Console
    metrics: Metrics | None
    log: LogSettings
    speaks_pgbouncer: bool

    def to_json(self) -> bytes:
        """The JSON that crosses to the engine, secrets included: never log it."""
        return msgspec.json.encode(self, enc_hook=_secret_text)


def _secret_text(value: Any) -> str:
    if isinstance(value, Secret):
        return value.text
    raise NotImplementedError(type(value).__name__)
