"""`forebay check` warns of what works and is a mistake all the same, at the line to change, with the numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forebay.config import Finding, check, render
from forebay.config.advice.facts import Facts, ServerFacts

# Without a finding: every case adds its mistake to this.
INI = """\
[databases]
shop = host=10.0.0.5 dbname=store
[users]
app = pool_mode=transaction
[pgbouncer]
listen_addr = 127.0.0.1
auth_type = scram-sha-256
auth_file = userlist.txt
pool_mode = transaction
"""
MD5 = "md5" + "0" * 32
Check = Callable[..., list[Finding]]


@pytest.fixture
def checked(tmp_path: Path) -> Check:
    """checked(lines, facts): the findings of INI with lines added; [databases] is the last section."""

    def run(lines: str, facts: Facts | None = None, *, users: str = '"app" "pw"\n') -> list[Finding]:
        (tmp_path / "userlist.txt").write_text(users)
        (tmp_path / "userlist.txt").chmod(0o600)
        (tmp_path / "pgbouncer.ini").write_text(INI + lines)
        return check(tmp_path / "pgbouncer.ini", environ={}, facts=facts or Facts())

    return run


def test_what_is_right_is_not_warned_of(checked: Check) -> None:
    """A false alarm teaches people not to read."""
    roomy = Facts(1, 100, 20_000, {"10.0.0.5:5432": ServerFacts(100, 3, 3_600_000_000)})
    lines = (
        "reserve_pool_size = 5\nquery_wait_timeout = 30\nmax_client_conn = 5000\nclient_idle_timeout = 600\n"
        "ignore_startup_parameters = schema\n"
    )
    findings = checked(lines, roomy)
    assert not findings, render(findings)


CASES = {
    "statement mode": ("pool_mode = statement", "FBC105", "refuses BEGIN"),
    "a reset that is not run": ("server_reset_query = DISCARD ALL", "FBC107", "no pool here is in session mode"),
    "no limit to waiting": ("query_wait_timeout = 0", "FBC111", "waits for ever"),
    "a parameter that is applied": (
        "ignore_startup_parameters = extra_float_digits, schema", "FBC110", "extra_float_digits: ignoring it is no",
    ),
    "unshared statements": ("max_prepared_statements = 0", "FBC115", "in transaction mode: statements that drivers"),
    "old logins": ("server_lifetime = 604800", "FBC117", "server_lifetime is 7d"),
    "no reserve": ("reserve_pool_timeout = 3", "FBC120", "no pool has a reserve"),
    "a limit below the pool": ("max_user_connections = 5", "FBC121", 'pool_size 20 of "every user"'),
    "short idle clients": ("client_idle_timeout = 10", "FBC127", "client_idle_timeout 10s"),
    "several processes": ("so_reuseport = 1", "FBC125", "so_reuseport is on"),
    "servers without TLS": ("server_tls_sslmode = disable", "FBC124", "travel to 10.0.0.5:5432 as they are"),
    "no keepalive": ("tcp_keepalive = 0", "FBC104", "kept for 10m, and TCP keepalive is off"),
    "a late keepalive": ("tcp_keepidle = 3600", "FBC104", "the first TCP keepalive comes after 1h"),
}  # fmt: skip


@pytest.mark.parametrize(("line", "code", "words"), CASES.values(), ids=CASES)
def test_a_mistake_is_told_at_its_line(checked: Check, line: str, code: str, words: str) -> None:
    (finding,) = [one for one in checked(line + "\n") if one.code != "FBC008"]
    assert (finding.code, finding.line) == (code, INI.count("\n") + 1)
    assert words in finding.message
    assert finding.hint
    assert finding.severity != "error"


DATABASES = {
    "everything as one user": ("[databases]\n* = host=10.0.0.6 user=boss", "FBC116", 'opened as "boss"'),
    "a reserve at once": (
        "reserve_pool_timeout = 0\n[databases]\nb = host=b reserve_pool=5", "FBC118", "reserve of 5 is used at once",
    ),
    "a reserve too late": (
        "query_wait_timeout = 4\n[databases]\nb = host=b reserve_pool=5", "FBC119",
        "is used after 5s, but a request waits for 4s",
    ),
    "a session left as it was": (
        "server_reset_query =\n[databases]\nb = host=b pool_mode=session", "FBC108", "what a client of b sets",
    ),
    "a crowd in session mode": (
        "max_client_conn = 1000\n[databases]\nb = host=b pool_mode=session", "FBC106",
        "1000 clients may connect and 20 of a pool are served",
    ),
    "an open listener": ("listen_addr = *", "FBC114", "clients connect to 0.0.0.0 without TLS"),
    "a query that knows no expiry": (
        "auth_user = app\nauth_query = SELECT usename, passwd FROM pg_shadow WHERE usename=$1", "FBC122",
        "auth_query reads pg_shadow and not valuntil",
    ),
    "a query for nobody": (
        "auth_user = app\nauth_query = SELECT * FROM lookup()", "FBC123", "auth_query has no $1",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "code", "words"), DATABASES.values(), ids=DATABASES)
def test_a_mistake_of_several_lines_is_told(checked: Check, lines: str, code: str, words: str) -> None:
    found = [one for one in checked(lines + "\n") if one.code == code]
    assert len(found) == 1, render(found)
    assert words in found[0].message
    assert found[0].line > 1


def test_pools_are_compared_with_what_the_server_accepts(checked: Check) -> None:
    """Else the first busy day shows it, with logins that are refused."""
    lines = "default_pool_size = 60\n[databases]\nreports = host=10.0.0.5 pool_size=30\nfar = host=b\n"
    facts = Facts(instances=2, servers={"10.0.0.5:5432": ServerFacts(100, 3)})
    (finding,) = checked(lines, facts)
    assert (finding.code, finding.severity, finding.line) == ("FBC101", "warning", INI.count("\n") + 1)
    assert finding.message == (
        "up to 180 servers may be opened at 10.0.0.5:5432, which has room for 97: shop/app 60, reports/app 30, "
        "in each of 2 instances"
    )
    assert "max_connections 100 less 3 reserved is 97" in str(finding.hint)
    for limit in ("max_db_connections = 24", "max_user_connections = 48"):
        codes = [one.code for one in checked(f"{lines}[pgbouncer]\n{limit}\n", facts)]
        assert "FBC101" not in codes, f"{limit} is counted"
    assert [one.code for one in checked(lines, Facts(connections_max=50))] == ["FBC101", "FBC101"], "by an option"


def test_users_who_are_no_clients_have_no_pools(checked: Check) -> None:
    """Whoever looks at the console, or is asked as, is in the user list as well: each would count as a pool."""
    users = "".join(f'"{name}" "pw"\n' for name in ("app", "ops", "watcher", "lookup"))
    lines = (
        "default_pool_size = 90\nadmin_users = ops\nstats_users = watcher\n[databases]\n"
        "shop = auth_user=lookup host=10.0.0.5\n"
    )
    facts = Facts(servers={"10.0.0.5:5432": ServerFacts(100, 3)})
    assert not [one for one in checked(lines, facts, users=users) if one.code == "FBC101"]
    more = checked(f"{lines}[pgbouncer]\nadmin_users = watcher\n", facts, users=users)
    (finding,) = (one for one in more if one.code == "FBC101")
    assert "has room for 97: 90 for each of 2 users;" in finding.message


def test_limits_of_roles_and_databases_are_told(checked: Check) -> None:
    """Hosted databases give a role twenty connections of a server's hundreds."""
    facts = Facts(2, servers={"10.0.0.5:5432": ServerFacts(500, 3, 0, {"app": 39, "web": 1}, {"store": 30, "x": 0})})
    findings = checked("default_pool_size = 20\n", facts)
    assert [(one.code, one.line) for one in findings] == [("FBC130", INI.count("\n") + 1)] * 2
    assert [one.message for one in findings] == [
        'up to 40 servers may be opened as user "app" at 10.0.0.5:5432; its CONNECTION LIMIT is 39',
        'up to 40 servers may be opened in database "store" at 10.0.0.5:5432; its CONNECTION LIMIT is 30',
    ]
    assert "ALTER ROLE app CONNECTION LIMIT 40" in str(findings[0].hint)
    assert not checked("default_pool_size = 15\n", facts)


def test_pools_that_multiply_are_told_without_a_server(checked: Check) -> None:
    users = "".join(f'"user{number}" "pw"\n' for number in range(14)) + '"app" "pw"\n'
    databases = "".join(f"db{number} = host=10.0.0.5\n" for number in range(7))
    (finding,) = checked(f"default_pool_size = 20\n[databases]\n{databases}", users=users)
    assert finding.code == "FBC102"
    assert "up to 2400 servers may be opened at 10.0.0.5:5432: 20 for each of 15 users in each of 8 databases" in (
        finding.message
    )


def test_a_server_that_closes_idle_sessions_first_is_told(checked: Check) -> None:
    facts = Facts(servers={"10.0.0.5:5432": ServerFacts(1000, 3, 60_000_000)})
    (finding,) = checked("server_idle_timeout = 600\n", facts)
    assert (finding.code, finding.line) == ("FBC103", INI.count("\n") + 1)
    assert "server_idle_timeout 10m is longer than idle_session_timeout 1m of 10.0.0.5:5432" in finding.message
    assert not checked("server_idle_timeout = 50\n", facts)


def test_more_clients_than_open_files_are_told(checked: Check) -> None:
    (finding,) = checked("max_client_conn = 1000\n", Facts(descriptors=1024))
    assert (finding.code, finding.line) == ("FBC109", INI.count("\n") + 1)
    assert finding.message == "max_client_conn 1000 needs 1100 open files; this process may have 1024"


@pytest.mark.parametrize(
    ("auth_type", "code", "severity"), [("md5", "FBC112", "info"), ("scram-sha-256", "FBC113", "warning")]
)
def test_md5_secrets_are_told(checked: Check, auth_type: str, code: str, severity: str) -> None:
    users = f'"app" "{MD5}"\n"batch" "{MD5}"\n"ops" "pw"\n'
    (finding,) = [one for one in checked(f"auth_type = {auth_type}\n", users=users) if one.code != "FBC008"]
    assert (finding.code, finding.severity, finding.line) == (code, severity, 8)
    assert "2 of 3 users have MD5 secrets (app, batch)" in finding.message
    assert MD5 not in render([finding])


def test_an_ini_without_a_database_may_wait_for_one(tmp_path: Path) -> None:
    """PgBouncer's packages install such a file and start it."""
    (tmp_path / "userlist.txt").write_text('"app" "pw"\n')
    (tmp_path / "userlist.txt").chmod(0o600)
    (tmp_path / "pgbouncer.ini").write_text("[databases]\n[pgbouncer]\nauth_file = userlist.txt\n")
    assert [(one.code, one.severity) for one in check(tmp_path / "pgbouncer.ini", environ={})] == [
        ("FBC129", "warning")
    ]


def test_a_toml_is_told_in_its_own_names(tmp_path: Path) -> None:
    (tmp_path / "forebay.toml").write_text(
        '[tcp]\nkeepalive = false\n[databases.shop]\nendpoints = ["10.0.0.5:5432"]\nserver_lifetime = "0s"\n'
        '[users.app]\nsecret = { env = "APP" }\n'
    )
    findings = check(tmp_path / "forebay.toml", environ={"APP": "pw"})
    assert [(one.code, one.line) for one in findings] == [("FBC104", 2), ("FBC117", 5)]
    assert "is no limit: servers keep" in findings[1].message


def test_many_users_and_databases_are_counted_in_time(checked: Check) -> None:
    """A check that takes minutes is not run before each deployment."""
    users = "".join(f'"user{number}" "pw"\n' for number in range(1000)) + '"app" "pw"\n'
    databases = "".join(f"db{number} = host=10.0.0.5 pool_size={number % 9 + 1}\n" for number in range(200))
    before = time.process_time()
    (finding,) = checked(f"[databases]\n{databases}", users=users)
    assert time.process_time() - before < 20
    assert "shop/app 20, shop/user0 20, shop/user1 20, shop/user2 20 and 201197 more" in finding.message
