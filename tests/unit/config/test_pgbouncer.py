"""A pgbouncer.ini does here what it did there, or says where not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from forebay._generated.settings import SETTINGS, Setting
from forebay.config import Config, Finding, Loaded, render
from forebay.config.environment import NAMED_SECTIONS

INI = """\
;; the production file
[databases]
shop = host=10.0.0.5,::1 port=5433 dbname=store pool_size=5
reports = user=report password='it''s' query_wait_timeout=1.5
* = host=/var/run/postgresql

[users]
app = pool_mode=session max_user_connections=3

[pgbouncer]
listen_addr = 127.0.0.1, ::1
listen_port = 6433
auth_type = plain
auth_file = userlist.txt
admin_users = ops, app
pool_mode = transaction
default_pool_size = 15
server_lifetime = 1800
server_check_query = <empty>
log_connections = 0
"""


def users(folder: Path, lines: str, mode: int = 0o600) -> None:
    """The auth_file."""
    (folder / "userlist.txt").write_text(lines)
    (folder / "userlist.txt").chmod(mode)


@pytest.fixture
def ini(usable: Callable[..., Config], tmp_path: Path) -> Callable[[str], Config]:
    users(tmp_path, '"app" "pw"\n"ops" "file:/etc/passwd"\n')
    return lambda text: usable(text, name="pgbouncer.ini")


def test_the_common_settings_are_translated(ini: Callable[[str], Config]) -> None:
    engine = ini(INI).engine
    assert (engine.listen.addresses, engine.listen.port) == (("127.0.0.1", "::1"), 6433)
    assert engine.auth.method == "password"
    assert engine.console.admins == ("ops", "app")
    shop, reports = engine.databases
    assert (shop.endpoints, shop.dbname) == (("10.0.0.5:5433", "[::1]:5433"), "store")
    assert (shop.pool.pool_size, reports.pool.pool_size) == (5, 15)
    assert reports.endpoints == ("/tmp/.s.PGSQL.5432",)
    assert (reports.forced_user, reports.forced_secret and reports.forced_secret.text) == ("report", "it's")
    assert (reports.pool.query_wait_timeout, reports.pool.server_lifetime) == (1_500_000, 1_800_000_000)
    assert engine.fallback_database is not None
    assert engine.fallback_database.endpoints == ("/var/run/postgresql/.s.PGSQL.5432",)
    assert engine.log.connections is False
    app, ops = engine.users
    assert (app.pool_mode, app.max_user_connections) == ("session", 3)
    assert ops.secret is not None
    assert ops.secret.text == "file:/etc/passwd"


def test_what_is_not_set_has_pgbouncers_default(ini: Callable[[str], Config]) -> None:
    engine = ini("[databases]\na = host=a\n[pgbouncer]\nauth_file = userlist.txt\n").engine
    assert (engine.listen.addresses, engine.listen.unix) == ((), "/tmp")
    assert (engine.auth.method, engine.limits.clients_max) == ("md5", 100)
    assert engine.databases[0].pool.pool_mode == "session"
    assert engine.limits.login_timeout == 60_000_000


def test_a_zero_that_means_something_else_is_no_zero_here(ini: Callable[[str], Config]) -> None:
    text = (
        "[databases]\na = host=a\n[pgbouncer]\nauth_file = userlist.txt\nserver_check_delay = 0\nserver_lifetime = 0\n"
    )
    pool = ini(text).engine.databases[0].pool
    assert (pool.server_check_delay, pool.server_lifetime) == (1, 3_600_000_000)


@pytest.mark.parametrize(
    ("name", "written", "us"),
    [
        ("server_connect_timeout", "0", 600_000_000),
        ("server_connect_timeout", "3600", 600_000_000),
        ("client_login_timeout", "0", 3_600_000_000),
        ("dns_max_ttl", "0.5", 1_000_000),
    ],
)
def test_what_is_out_of_range_here_is_the_next_that_is_not(
    name: str, written: str, us: int, load: Callable[..., Loaded], tmp_path: Path
) -> None:
    """A file that PgBouncer has started with is not refused for it; a wait that is cut short is told."""
    (tmp_path / "userlist.txt").write_text('"app" "pw"\n')
    (tmp_path / "userlist.txt").chmod(0o600)
    text = f"[databases]\na = host=a\n[pgbouncer]\nauth_file = userlist.txt\n{name} = {written}\n"
    loaded = load(text, name="pgbouncer.ini")
    assert loaded.config is not None
    engine = loaded.config.engine
    found = {
        "server_connect_timeout": engine.databases[0].pool.server_connect_timeout,
        "client_login_timeout": engine.limits.login_timeout,
        "dns_max_ttl": engine.dns.max_ttl,
    }
    assert found[name] == us
    assert [one.code for one in loaded.findings if name in one.message] == ["FBC070"] * (name != "dns_max_ttl")


# What is written for a kind of setting; what takes names of files, users or words of its own has tests of its own.
SAMPLES = {"int": "17", "duration": "17", "size": "131072", "names": "app"}
SAMPLED = [one for one in SETTINGS if one.pgbouncer and one.section not in NAMED_SECTIONS]
SAMPLED = [one for one in SAMPLED if one.kind in (*SAMPLES, "bool")]


@pytest.mark.parametrize("setting", SAMPLED, ids=lambda one: one.pgbouncer)
def test_a_setting_arrives_at_its_own_place_and_nowhere_else(setting: Setting, ini: Callable[[str], Config]) -> None:
    """What it does there, the tests show that tests/pgbouncer_settings.toml names."""
    text = "[databases]\na = host=a\n[pgbouncer]\nauth_file = userlist.txt\n"
    before = {line.key: line.value for line in ini(text).settings()}
    key = f"{setting.section}.{setting.name}"
    written = SAMPLES.get(setting.kind) or ("0" if before[key] == "true" else "1")
    after = {line.key: line.value for line in ini(f"{text}{setting.pgbouncer} = {written}\n").settings()}
    # Of processes that share a port, one alone could have the address of the metrics.
    more = {"metrics.address"} if setting.pgbouncer == "so_reuseport" else set()
    assert {name for name, value in after.items() if value != before[name]} == {key} | more


@pytest.mark.parametrize(
    ("line", "code", "words", "found"),
    [
        ("default_pool_size = 0", "FBC070", "each pool has a limit here, of 100000 servers at most", 100_000),
        ("max_packet_size = 100", "FBC070", "the smallest limit here is 65536", 65_536),
        ("max_client_conn = 0", "FBC073", "with 0 PgBouncer lets nobody in but the console", None),
    ],
)
def test_a_limit_that_is_none_here_is_told(
    line: str, code: str, words: str, found: int | None, load: Callable[..., Loaded], tmp_path: Path
) -> None:
    """A file that PgBouncer has served with starts here; one that it serves nobody with does not."""
    users(tmp_path, '"app" "pw"\n')
    loaded = load(f"[databases]\na = host=a\n[pgbouncer]\nauth_file = userlist.txt\n{line}\n", name="p.ini")
    (finding,) = loaded.findings
    assert (finding.code, finding.line) == (code, 5)
    assert words in finding.message
    if found is None:
        assert loaded.config is None
    else:
        assert loaded.config is not None
        engine = loaded.config.engine
        assert found in (engine.databases[0].pool.pool_size, engine.limits.message_bytes_max)


def test_an_abstract_socket_is_for_clients_alone(
    ini: Callable[[str], Config], only: Callable[..., Finding], tmp_path: Path
) -> None:
    text = "[databases]\na = {}\n[pgbouncer]\nauth_file = userlist.txt\nunix_socket_dir = @pooler\n"
    assert ini(text.format("host=a")).engine.listen.unix == "@pooler"
    finding = only(text.format("dbname=a"), name="p.ini")
    assert (finding.code, finding.line, "abstract namespace" in finding.message) == ("FBC073", 2, True)


def test_a_user_for_lookups_brings_pgbouncers_query(ini: Callable[[str], Config]) -> None:
    config = ini("[databases]\na = host=a\n[pgbouncer]\nauth_file = userlist.txt\nauth_user = app\n")
    assert config.auth_query is not None
    assert (config.auth_query.user, "FROM pg_authid" in config.auth_query.query) == ("app", True)


def test_a_database_has_lookups_of_its_own(ini: Callable[[str], Config]) -> None:
    """Users of one database are kept in another place than those of the next."""
    config = ini(
        "[databases]\na = host=a\nb = host=b auth_user=ann auth_dbname=a auth_query='select 1, $1'\nc = host=c\n"
        "[pgbouncer]\nauth_file = userlist.txt\n"
    )
    assert config.auth_query is None
    (query,) = config.auth_queries.values()
    assert (query.user, query.query, query.dbname, query.secret) == ("ann", "select 1, $1", "a", None)
    asked = {one.name: (one.lookup.is_asked, one.lookup.dbname) for one in config.engine.databases}
    assert asked == {"a": (False, None), "b": (True, "a"), "c": (False, None)}
    assert not config.engine.auth.ask_unknown


@pytest.mark.parametrize(
    ("line", "endpoints"),
    [
        ("host=a,b port=5433", ("a:5433", "b:5433")),
        ("host=a,b,/run/pg port=1,2,3", ("a:1", "b:2", "/run/pg/.s.PGSQL.3")),
        ("host=a,b port=,2", ("a:5432", "b:2")),
    ],
)
def test_hosts_and_ports_may_be_lists(line: str, endpoints: tuple[str, ...], ini: Callable[[str], Config]) -> None:
    text = f"[databases]\na = {line} load_balance_hosts=disable\n[pgbouncer]\nauth_file = userlist.txt\n"
    (database,) = ini(text).engine.databases
    assert (database.endpoints, database.pool.load_balance_hosts) == (endpoints, "disable")


@pytest.mark.parametrize("line", ["host=a,b port=1,2,3", "host=a load_balance_hosts=random"])
def test_a_list_that_fits_nothing_is_an_error(line: str, load: Callable[..., Loaded], tmp_path: Path) -> None:
    users(tmp_path, '"app" "pw"\n')
    loaded = load(f"[databases]\na = {line}\n[pgbouncer]\nauth_file = userlist.txt\n", name="p.ini")
    assert [one.is_error for one in loaded.findings] == [True]


@pytest.mark.parametrize(
    ("line", "column"),
    [("host=a port=x", 17), ("host=a,b port=1,0", 19), ("host=-a port=5432", 10), ("host=a port=70000", 17)],
)
def test_what_is_wrong_with_a_host_or_its_port_is_told_where_it_stands(
    line: str, column: int, load: Callable[..., Loaded], tmp_path: Path
) -> None:
    users(tmp_path, '"app" "pw"\n')
    text = f"[databases]\na = {line}\n[peers]\n1 = {line.replace('a,b', 'a').replace('1,', '')}\n"
    loaded = load(f"{text}[pgbouncer]\nauth_file = userlist.txt\npeer_id = 2\n", name="p.ini")
    of_peer = column - 2 if "," in line else column
    assert {(one.line, one.column) for one in loaded.findings} == {(2, column), (4, of_peer)}


def test_every_other_setting_is_a_finding_at_its_line(load: Callable[..., Loaded], tmp_path: Path) -> None:
    users(tmp_path, '"app" "pw"\n')
    text = (
        "[databases]\na = host=a connect_query='select 1' hots=b\n[peers]\n1 = host=x prt=1\n"
        "[pgbouncer]\nauth_file = userlist.txt\nsbuf_loopcnt = 3\nlisten_prot = 1\nquery_timeout = 5s\n"
        "auth_type = gss\n"
    )
    found = [(one.code, one.line, one.column) for one in load(text, name="p.ini").findings]
    assert found == [
        ("FBC072", 2, 37),
        ("FBC081", 4, 1),
        ("FBC072", 4, 12),
        ("FBC070", 7, 1),
        ("FBC072", 8, 1),
        ("FBC073", 9, 17),
        ("FBC014", 10, 13),
    ]


def test_peers_are_translated(ini: Callable[[str], Config], load: Callable[..., Loaded]) -> None:
    """Their pools are as large as others where they say nothing."""
    text = (
        "[databases]\na = host=a\n[pgbouncer]\nauth_file = userlist.txt\npeer_id = 3\ndefault_pool_size = 7\n"
        "cancel_wait_timeout = 2.5\n[peers]\n1 = host=10.0.0.1\n2 = host=/tmp/two port=6433 pool_size=2\n3 = host=::1\n"
    )
    engine = ini(text).engine
    assert engine.peers.own == 3
    assert [(one.id, one.endpoint, one.pool_size) for one in engine.peers.others] == [
        (1, "10.0.0.1:6432", 7),
        (2, "/tmp/two/.s.PGSQL.6433", 2),
        (3, "[::1]:6432", 7),
    ]
    assert engine.limits.cancel_wait_timeout == 2_500_000
    for faulty, code in (("0 = host=x", "FBC018"), ("x = host=x", "FBC018"), ("5 = port=1", "FBC080")):
        found = [one.code for one in load(f"{text}{faulty}\n", name="p.ini").findings]
        assert found == [code], faulty
    unnumbered = text.replace("peer_id = 3\n", "")
    assert [one.code for one in load(unnumbered, name="p.ini").findings] == ["FBC081"]


def test_included_files_are_read_in_their_place(ini: Callable[[str], Config], tmp_path: Path) -> None:
    (tmp_path / "more.ini").write_text("[pgbouncer]\nlisten_port = 7000\n")
    text = "[databases]\na = host=a\n%include more.ini\nb = host=b\n[pgbouncer]\nauth_file = userlist.txt\n"
    engine = ini(text).engine
    assert engine.listen.port == 7000
    assert [one.name for one in engine.databases] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "column"), [("%include gone.ini", 10), ("[pgbouncer]\nauth_file = gone.txt", 13)], ids=["include", "users"]
)
def test_a_file_that_is_missing_is_told_where_it_is_named(load: Callable[..., Loaded], line: str, column: int) -> None:
    """Among twenty included files, the path alone does not say which line to mend."""
    text = f"[databases]\na = host=a\n{line}\n"
    [finding] = [one for one in load(text, name="p.ini").findings if one.code == "FBC002"]
    assert finding.path.endswith("p.ini")
    assert (finding.line, finding.column) == (text.count("\n"), column)
    assert "gone." in str(finding.excerpt)


def test_a_file_that_includes_itself_ends(only: Callable[..., Finding], tmp_path: Path) -> None:
    (tmp_path / "loop.ini").write_text("%include loop.ini\n")
    users(tmp_path, '"app" "pw"\n')
    text = "[databases]\na = host=a\n[pgbouncer]\nauth_file = userlist.txt\n%include loop.ini\n"
    assert only(text, name="p.ini").code == "FBC074"


def test_a_setting_given_twice_is_said(only: Callable[..., Finding], tmp_path: Path) -> None:
    users(tmp_path, '"app" "pw"\n')
    finding = only(
        "[databases]\na = host=a\n[pgbouncer]\nauth_file=userlist.txt\nlisten_port=1\nlisten_port=2\n", name="p.ini"
    )
    assert (finding.code, finding.line) == ("FBC008", 6)


def test_a_faulty_user_list_shows_no_secret(load: Callable[..., Loaded], tmp_path: Path) -> None:
    users(tmp_path, '"app" "pw"\n"ops" hunter2\n')
    findings = load("[databases]\na = host=a\n[pgbouncer]\nauth_file=userlist.txt\n", name="p.ini").findings
    assert [(one.code, one.line) for one in findings] == [("FBC075", 2)]
    assert "hunter2" not in render(findings)


def test_a_user_list_that_all_may_read_is_said(only: Callable[..., Finding], tmp_path: Path) -> None:
    """PgBouncer says nothing, so it is no error."""
    users(tmp_path, '"app" "pw"\n', 0o644)
    finding = only("[databases]\na = host=a\n[pgbouncer]\nauth_file=userlist.txt\n", name="p.ini")
    assert (finding.code, finding.severity, finding.line) == ("FBC076", "warning", 4)


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("[pgbouncer]\nauth_file=userlist.txt\nadmin_users=ops\n", "FBC056", 'add "ops" with its secret to auth_file'),
        ("[pgbouncer]\nlisten_port=1\n", "FBC061", "set auth_file, or auth_user with auth_query"),
        ("[users]\nweb = pool_size=3\n[pgbouncer]\nauth_file=userlist.txt\n", "FBC063", 'add "web" with its secret'),
    ],
)
def test_hints_speak_of_the_files_own_settings(
    text: str, code: str, hint: str, load: Callable[..., Loaded], tmp_path: Path
) -> None:
    """Who has an ini can't do anything with `[users.ops]`."""
    users(tmp_path, '"app" "pw"\n')
    findings = load(f"[databases]\na = host=a\n{text}", name="p.ini").findings
    (finding,) = [one for one in findings if one.code == code]
    assert hint in (finding.hint or "")
    assert "[users" not in f"{finding.message} {finding.hint}"
