"""A pgbouncer.ini as `forebay-pgbouncer` reads it: every setting works, or is said not to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forebay._generated.pgbouncer import ALIAS, KNOWN
from forebay.config import Loaded, render
from forebay.config.importers.process import DropIn, ini_settings
from forebay.config.load import load

PLAIN = "[databases]\na = host=10.0.0.5\n[pgbouncer]\nauth_file = userlist.txt\nlisten_addr = 127.0.0.1\n"

Read = Callable[..., Loaded]

# A value other than the default for each setting that works, and what else must stand beside it.
OTHER: dict[str, str] = {
    "listen_addr": "127.0.0.2", "listen_port": "7000", "unix_socket_dir": "/run/elsewhere", "unix_socket_mode": "0700",
    "unix_socket_group": "0", "listen_backlog": "77", "so_reuseport": "1", "tcp_defer_accept": "0",
    "tcp_socket_buffer": "65536", "tcp_keepalive": "0", "tcp_keepcnt": "4", "tcp_keepidle": "33", "tcp_keepintvl": "6",
    "tcp_user_timeout": "12345", "max_packet_size": "1000000", "logfile": "x.log", "pidfile": "x.pid",
    "user": "nobody", "syslog": "1", "syslog_ident": "pooler", "syslog_facility": "local3", "verbose": "2",
    "log_connections": "0", "log_disconnections": "0", "log_pooler_errors": "0", "log_stats": "0",
    "stats_period": "7.5", "conffile": "other.ini", "admin_users": "app", "stats_users": "app",
    "pool_mode": "transaction", "max_client_conn": "123", "default_pool_size": "7", "min_pool_size": "2",
    "max_db_connections": "9", "max_user_connections": "8", "max_prepared_statements": "5",
    "server_reset_query": "RESET ALL", "server_check_query": "select 2", "server_check_delay": "3",
    "server_lifetime": "99", "server_idle_timeout": "98", "server_connect_timeout": "4", "server_login_retry": "2",
    "client_login_timeout": "6", "client_idle_timeout": "95", "query_timeout": "94", "query_wait_timeout": "93",
    "idle_transaction_timeout": "92", "transaction_timeout": "91", "auth_type": "scram-sha-256",
    "auth_file": "others.txt", "auth_user": "app", "auth_dbname": "a",
    "auth_hba_file": "other.conf", "auth_ident_file": "ident.conf", "scram_iterations": "5000",
    "auth_ldap_options": "ldapserver=a ldapprefix=x", "auth_query": "select usename, passwd from f($1)",
    "client_tls_sslmode": "require",
    "client_tls_ca_file": "ca.pem", "client_tls_cert_file": "other.pem", "client_tls_key_file": "other.key",
    "client_tls_protocols": "tlsv1.3", "client_tls_ciphers": "ECDHE+CHACHA20", "client_tls_ecdhcurve": "prime256v1",
    "client_tls13_ciphers": "TLS_AES_128_GCM_SHA256", "server_tls_protocols": "tlsv1.2",
    "server_tls_ciphers": "ECDHE-RSA-AES128-GCM-SHA256", "server_tls13_ciphers": "TLS_AES_128_GCM_SHA256",
    "server_tls_sslmode": "require", "server_tls_ca_file": "ca.pem", "server_tls_cert_file": "other.pem",
    "server_tls_key_file": "other.key", "reserve_pool_size": "5", "reserve_pool_timeout": "2",
    "server_round_robin": "1", "server_fast_close": "1", "ignore_startup_parameters": "extra_float_digits",
    "application_name_add_host": "1", "login_notify_message": "be kind", "max_db_client_connections": "12",
    "max_user_client_connections": "11", "query_wait_notify": "3", "dns_max_ttl": "7", "dns_nxdomain_ttl": "8",
    "peer_id": "7", "suspend_timeout": "3", "cancel_wait_timeout": "3",
    "server_reset_query_always": "1", "disable_pqexec": "1", "pool_idle_timeout": "5", "autodb_idle_timeout": "6",
}  # fmt: skip
_TLS = "client_tls_sslmode = prefer\nclient_tls_cert_file = own.pem\nclient_tls_key_file = own.key\n"
_SERVER_TLS = "server_tls_cert_file = own.pem\nserver_tls_key_file = own.key\n"
BESIDE = {
    "auth_dbname": "auth_user = app\n",
    "auth_query": "auth_user = app\n",
    "auth_hba_file": "auth_type = hba\nauth_hba_file = hba.conf\n",
    "auth_ident_file": "auth_type = hba\nauth_hba_file = hba.conf\n",
    "auth_ldap_options": "auth_type = ldap\nauth_ldap_options = ldapserver=b ldapprefix=x\n",
    **{name: _TLS for name in KNOWN if name.startswith("client_tls")},
    **dict.fromkeys(("server_tls_cert_file", "server_tls_key_file"), _SERVER_TLS),
}


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """read(lines, **how): what PLAIN with more lines in [pgbouncer] gives."""
    for name in ("ca.pem", "own.pem", "own.key", "other.pem", "other.key"):
        (tmp_path / name).write_text("-")
        (tmp_path / name).chmod(0o600)
    (tmp_path / "hba.conf").write_text("local all all trust\n")
    (tmp_path / "other.conf").write_text("host all all 127.0.0.1/32 md5\n")
    (tmp_path / "ident.conf").write_text("m root app\n")
    for name, text in (("userlist.txt", '"app" "pw"\n'), ("others.txt", '"app" "other"\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)

    def run(lines: str, **how: Any) -> Loaded:
        settings = dict(line.split(" = ", 1) for line in PLAIN.splitlines()[3:] if line)
        settings |= dict(line.split(" = ", 1) for line in lines.splitlines())
        path = tmp_path / "pgbouncer.ini"
        path.write_text("\n".join([*PLAIN.splitlines()[:3], *(f"{k} = {v}" for k, v in settings.items()), ""]))
        return load(path, environ={}, drop_in=DropIn(**how))

    return run


def in_force(loaded: Loaded) -> tuple[Any, ...]:
    """All that a configuration brings about."""
    config = loaded.config
    assert config is not None, render(loaded.findings)
    process = config.draft.process
    assert process is not None
    own = {name: process.text(name) for name, known in KNOWN.items() if known.process}
    return config.engine.to_json(), config.auth_query, config.access, config.draft.value("log", "file"), own


def said(loaded: Loaded) -> list[str]:
    """Settings that are said to have no effect."""
    return [one.message.split('"')[1] for one in loaded.findings if one.code == "FBC070"]


def test_there_are_as_many_settings_as_in_pgbouncers_manual() -> None:
    assert len(KNOWN) == 100
    assert set(OTHER) == {name for name, known in KNOWN.items() if known.instead is None}


@pytest.mark.parametrize("name", sorted(OTHER))
def test_a_setting_works(read: Read, name: str) -> None:
    """What is in force with it differs from what is without; nothing is said of it."""
    beside = BESIDE.get(name, "")
    before, after = read(beside), read(f"{beside}{name} = {OTHER[name]}\n")
    assert said(after) == []
    assert in_force(before) != in_force(after)


@pytest.mark.parametrize("name", sorted(name for name, known in KNOWN.items() if known.instead))
def test_a_setting_without_effect_is_said_with_what_replaces_it(read: Read, name: str) -> None:
    """Whoever relied on it must hear of it."""
    loaded = read(f"{name} = 1\n")
    assert said(loaded) == [name]
    assert in_force(loaded) == in_force(read(""))
    [finding] = [one for one in loaded.findings if one.code == "FBC070"]
    assert str(KNOWN[name].instead) in finding.message


def test_every_default_of_pgbouncer_is_one_that_is_taken(read: Read) -> None:
    """An ini that spells out the defaults is an ini."""
    skipped = ("auth_file", "listen_addr", "auth_user", "auth_query")
    lines = "".join(f"{n} = {k.default}\n" for n, k in KNOWN.items() if k.instead is None and n not in skipped)
    loaded = read(lines)
    assert loaded.config is not None, render(loaded.findings)
    assert said(loaded) == []


def test_names_of_old_are_known(read: Read) -> None:
    loaded = read("service_name = x\n")
    assert ALIAS == {"service_name": "job_name"}
    assert said(loaded) == ["service_name"]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("syslog = maybe", "0 or 1"),
        ("log_connections = maybe", "0 or 1"),
        ("verbose = -1", "a whole number"),
        ("stats_period = soon", "a number of seconds"),
        ("syslog_facility = mail", "one of auth, "),
        ("tcp_user_timeout = 5s", "a number of milliseconds"),
        ("unix_socket_group = nobody-knows-it", "no group"),
    ],
)
def test_a_value_that_pgbouncer_would_refuse_is_an_error_at_its_line(read: Read, line: str, wanted: str) -> None:
    loaded = read(f"{line}\n")
    assert loaded.config is None
    [finding] = [one for one in loaded.findings if one.is_error]
    assert wanted in finding.message
    assert (finding.line, finding.column) == (6, len(line.split(" = ")[0]) + 4)


def test_it_logs_and_listens_as_pgbouncer_does(read: Read) -> None:
    """Lines that pgBadger reads, and no port that PgBouncer would not have."""
    config = read("").config
    assert config is not None
    assert config.log_format == "pgbouncer"
    log = config.engine.log
    assert (log.attempts, log.servers, log.connections, log.disconnections, log.refusals) == (True,) * 5
    assert config.engine.metrics is None
    assert config.engine.speaks_pgbouncer
    assert config.engine.console.own_uid == os.getuid()


@pytest.mark.parametrize("how", [{"verbose": 1}, {"overrides": {"verbose": "1"}}])
def test_verbose_logs_decisions(read: Read, how: dict[str, Any]) -> None:
    config = read("", **how).config
    assert config is not None
    assert config.engine.log.level == 0


def test_metrics_are_served_where_the_environment_says(read: Read, tmp_path: Path) -> None:
    read("")
    environ = {"FOREBAY_METRICS_ADDRESS": "127.0.0.1:9999"}
    config = load(tmp_path / "pgbouncer.ini", environ=environ, drop_in=DropIn()).config
    assert config is not None
    assert config.engine.metrics is not None
    assert config.engine.metrics.address == "127.0.0.1:9999"


def test_what_set_gave_yields_to_the_file_but_at_that_moment(read: Read) -> None:
    """SET holds until a RELOAD finds the setting in the file."""
    lines = "default_pool_size = 5\n"
    now = read(lines, now={"default_pool_size": "6"}).config
    later = read(lines, overrides={"default_pool_size": "6", "min_pool_size": "2"}).config
    assert now is not None
    assert later is not None
    assert now.engine.databases[0].pool.pool_size == 6
    assert (later.engine.databases[0].pool.pool_size, later.engine.databases[0].pool.min_pool_size) == (5, 2)


def test_every_setting_is_shown_with_its_value(read: Read) -> None:
    """SHOW CONFIG; the password of LDAP is not shown."""
    lines = 'default_pool_size = 5\nauth_ldap_options = ldapserver=x ldapbindpasswd="hunter2 and" ldapport=1\n'
    config = read(lines).config
    assert config is not None
    assert config.draft.process is not None
    shown = {line.key: line for line in ini_settings(config.draft.process)}
    assert len(shown) == 100
    assert (shown["default_pool_size"].value, shown["default_pool_size"].default) == ("5", "20")
    assert shown["auth_ldap_options"].value == "ldapserver=x ldapbindpasswd=***** ldapport=1"
    assert (shown["listen_port"].is_changeable, shown["verbose"].is_changeable) == (False, True)


def test_what_the_process_does_is_said_where_it_is_not_done(tmp_path: Path, read: Read) -> None:
    """`forebay run pgbouncer.ini` writes no PID file."""
    read("pidfile = x.pid\nsyslog = 1\n")
    loaded = load(tmp_path / "pgbouncer.ini", environ={})
    told = [one for one in loaded.findings if one.code == "FBC100"]
    assert [(one.severity, one.message.split()[0]) for one in told] == [("info", "pidfile"), ("info", "syslog")]
    assert loaded.config is not None
    assert loaded.config.log_format == "text"
