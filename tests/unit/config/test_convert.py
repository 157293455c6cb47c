"""`forebay convert`: the forebay.toml does what the pgbouncer.ini does, and says what is to be known of it."""

from __future__ import annotations

import os
import tempfile
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from forebay._generated.pgbouncer import KNOWN
from forebay._generated.settings import SETTINGS
from forebay.cli import root
from forebay.config import check, load, render
from forebay.config.advice.facts import Facts
from forebay.config.convert import convert, same
from hypothesis import given, settings
from hypothesis import strategies as st

INI = """\
;; the production file
[databases]
# the shop
shop = host=10.0.0.5,::1 port=5433 dbname=store pool_size=5 reserve_pool=1 reserve_pool_size=2
reports = user=report password='it''s ${PATH} "x"' query_wait_timeout=1.5
"Größe ""x"" y" = user=file password='file:/etc/passwd'
* = host=/var/run/postgresql

[users]
app = pool_mode=session max_user_connections=3

[pgbouncer]
auth_file = userlist.txt
auth_type = plain
admin_users = ops, app
%include limits.ini
resolv_conf = resolv.conf
pidfile = x.pid
logfile = forebay.log
"""
INCLUDED = """\
[pgbouncer]
; raised after the fair
; default_pool_size = 10
;listen_addr = *
default_pool_size = 15
max_user_connections = 50
server_login_retry = 5
"""
USERS = '"app" "pw of app"\n"ops" "SCRAM-SHA-256$4096:c2FsdA==${}:{}"\n"none" ""\n'.replace("{}", f"{'A' * 43}=")


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    return written(tmp_path, INI)


def written(folder: Path, text: str, users: str = USERS) -> Path:
    """An ini with what it names."""
    (folder / "pgbouncer.ini").write_text(text, encoding="utf-8")
    (folder / "limits.ini").write_text(INCLUDED)
    (folder / "userlist.txt").write_text(users, encoding="utf-8")
    (folder / "userlist.txt").chmod(0o600)
    return folder / "pgbouncer.ini"


def run(*arguments: str | Path) -> tuple[int, str]:
    """The command; its exit status and all that it says."""
    from forebay.cli import guarded

    lines: list[int] = []
    runner = CliRunner()

    with runner.isolation() as (output, error, _):
        lines.append(guarded(lambda: root.main([str(one) for one in arguments], standalone_mode=False)))
        return lines[0], output.getvalue().decode() + error.getvalue().decode()


def assert_same(ini: Path, toml: Path) -> None:
    """The same configuration, secrets included, as the engine and Python get it."""
    one, other = load(ini, environ={}), load(toml, environ={})
    assert one.config is not None, render(one.findings)
    assert other.config is not None, render(other.findings)
    assert one.config.engine.to_json() == other.config.engine.to_json()
    assert same(one.config, other.config)


@pytest.mark.parametrize("place", ["beside it", "elsewhere"])
@pytest.mark.parametrize("options", [(), ("--inline-secrets",)], ids=["", "inline"])
def test_the_toml_does_what_the_ini_does(ini: Path, tmp_path: Path, place: str, options: tuple[str, ...]) -> None:
    folder = tmp_path if place == "beside it" else tmp_path / "elsewhere"
    folder.mkdir(exist_ok=True)
    status, said = run("convert", ini, "-o", folder / "forebay.toml", *options)
    assert status == 0, said
    assert "2 lines have no effect" in said
    assert_same(ini, folder / "forebay.toml")
    text = (folder / "forebay.toml").read_text()
    assert ("pw of app" in text) == bool(options)
    files = [folder / "forebay.toml", *(folder / "forebay.secrets").iterdir()]
    assert [one.stat().st_mode & 0o777 for one in files] == [0o600] * len(files)


def test_comments_say_what_is_to_be_known(ini: Path, tmp_path: Path) -> None:
    status, text = run("convert", ini)
    assert status == 0
    lines = text.splitlines()
    assert "pool_size = 15" in text
    assert "# default_pool_size" in text, "another name"
    (own,) = (line for line in lines if line.startswith("pool_size") and "= 5" in line)
    assert "#" not in own, "in [databases] it has the same name there"
    assert any(line.startswith("secret") and line.endswith("# password") for line in lines)
    assert "# raised after the fair" in lines, "the user's own comment"
    assert not any("default_pool_size = 10" in line for line in lines), "a setting that is commented out"
    assert lines[lines.index("[databases.shop]") - 1] == "# the shop"
    assert any("PgBouncer's default" in line for line in lines)
    assert f"# Different: {KNOWN['server_login_retry'].differs}." in lines
    at = f"#   {ini}:{INI.splitlines().index('resolv_conf = resolv.conf') + 1}: "
    assert f'{at}"resolv_conf" has no counterpart: the system\'s resolver is used' in lines
    assert any("pidfile is for `forebay-pgbouncer`" in line for line in lines)
    assert f"{tmp_path / 'limits.ini'}" in lines[0], "what was included"


def test_processes_that_share_a_port_serve_no_metrics_on_one_address(tmp_path: Path) -> None:
    """The second one would not start; nor did PgBouncer's serve any."""
    for shares in "01":
        text = f"[databases]\na = host=10.0.0.5\n[pgbouncer]\nauth_type = trust\nso_reuseport = {shares}\n"
        path = written(tmp_path, text)
        loaded = load(path, environ={})
        assert loaded.config is not None
        assert (loaded.config.engine.metrics is None) is (shares == "1")
        converted = convert(path, target=None).text
        assert converted is not None
        assert ('address = ""' in converted) is (shares == "1")


def test_no_secret_is_written_unless_that_is_asked_for(ini: Path) -> None:
    status, text = run("convert", ini)
    assert status == 0
    for secret in ("pw of app", "SCRAM-SHA-256", "it's", "/etc/passwd"):
        assert secret not in text
    document = tomllib.loads(text.split("not written:")[0])
    assert document["auth"]["file"] == str(ini.parent / "userlist.txt")
    assert document["databases"]["reports"]["secret"] == {"file": "forebay.secrets/reports"}
    assert "not written: forebay.secrets/reports" in text


def test_nothing_that_exists_is_written_over(ini: Path, tmp_path: Path) -> None:
    target = tmp_path / "forebay.toml"
    target.write_text("mine")
    status, said = run("convert", ini, "-o", target)
    assert (status, "exists already" in said) == (1, True)
    assert target.read_text() == "mine"
    assert not (tmp_path / "forebay.secrets").exists()


def test_the_files_belong_to_whom_the_ini_belongs(ini: Path, tmp_path: Path) -> None:
    """Root converts, and a user without rights runs the pooler."""
    if os.geteuid() == 0:
        os.chown(ini, 65534, 65534)
    assert run("convert", ini, "-o", tmp_path / "forebay.toml")[0] == 0
    made = [tmp_path / "forebay.toml", tmp_path / "forebay.secrets", *(tmp_path / "forebay.secrets").iterdir()]
    assert {(one.stat().st_uid, one.stat().st_gid) for one in made} == {(ini.stat().st_uid, ini.stat().st_gid)}


def test_a_folder_that_is_not_there_is_told(ini: Path, tmp_path: Path) -> None:
    """And nothing is left of what was begun."""
    status, said = run("convert", ini, "-o", tmp_path / "gone" / "forebay.toml")
    assert (status, "gone/forebay.toml can't be written: No such file or directory" in said) == (1, True)
    assert not (tmp_path / "gone").exists()


def test_an_ini_with_an_error_is_told_where(tmp_path: Path) -> None:
    path = written(tmp_path, "[databases]\na = host=a\n[pgbouncer]\nauth_file = userlist.txt\nlisten_prot = 1\n")
    status, said = run("convert", path, "-o", tmp_path / "forebay.toml")
    assert status == 1
    assert f'{path}:5:1: error FBC072: PgBouncer has no setting "listen_prot" in [pgbouncer]' in said
    assert 'did you mean "listen_port"?' in said
    assert not (tmp_path / "forebay.toml").exists()


def test_an_ini_is_known_by_its_section_too(ini: Path, tmp_path: Path) -> None:
    """Packages name it as they like."""
    config = ini.rename(tmp_path / "bouncer.cfg")
    assert run("check", config)[0] == 0
    assert run("convert", config, "-o", tmp_path / "forebay.toml")[0] == 0
    assert_same(config, tmp_path / "forebay.toml")
    status, said = run("convert", tmp_path / "forebay.toml")
    assert (status, "is no pgbouncer.ini" in said) == (1, True)


ONE_LINE = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
WORD = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
SECONDS = st.one_of(st.integers(1, 600).map(str), st.just("1.5"))
VALUES: dict[str, st.SearchStrategy[str]] = {
    "bool": st.sampled_from(["0", "1", "yes", "OFF"]),
    "duration": SECONDS,
    "string": ONE_LINE.map(str.strip),
    "names": st.lists(WORD, max_size=3).map(", ".join),
    "int": st.integers(1, 60).map(str),
    "size": st.integers(65_536, 100_000).map(str),
    "mode": st.sampled_from(["0777", "0660", "700"]),
    "addresses": st.sampled_from(["", "127.0.0.1", "::1,127.0.0.1"]),
}
# These need a world of their own, or each other.
LEFT_OUT = {
    "auth_query", "auth_user", "auth_dbname", "auth_file", "unix_socket_group", "unix_socket_dir", "min_pool_size",
    "auth_hba_file", "auth_ident_file",
    # Lists of OpenSSL's, of which any text would leave nothing.
    "client_tls_protocols", "client_tls_ciphers", "client_tls13_ciphers", "client_tls_ecdhcurve",
    "server_tls_protocols", "server_tls_ciphers", "server_tls13_ciphers",
}  # fmt: skip
GENERATED = [
    one
    for one in SETTINGS
    if one.pgbouncer in KNOWN and one.kind in VALUES and one.pgbouncer not in LEFT_OUT and one.section != "users"
]


@st.composite
def inis(draw: st.DrawFn) -> str:
    """An ini without errors."""
    lines = ["[databases]"]
    for name in draw(st.lists(ONE_LINE, min_size=1, max_size=3, unique=True)):
        quoted = name.replace('"', '""')
        line = f'"{quoted}" = host={draw(st.sampled_from(["a", "10.0.0.1", "/tmp", "b,c"]))}'
        if draw(st.booleans()):
            line += f" port={draw(st.integers(1, 65535))} pool_size={draw(st.integers(1, 50))}"
        if draw(st.booleans()):
            password = draw(ONE_LINE).replace("'", "''")
            line += f" user={draw(WORD)} password='{password}' server_lifetime={draw(SECONDS)}"
        lines.append(line)
    lines += ["[users]", *(f"{name} = query_timeout=5" for name in draw(st.lists(WORD, max_size=2, unique=True)))]
    lines += ["[pgbouncer]", "auth_file = userlist.txt", "unix_socket_dir = sock"]
    for setting in draw(st.lists(st.sampled_from(GENERATED), max_size=12, unique=True)):
        lines.append(f"{setting.pgbouncer} = {draw(VALUES[setting.kind])}")
    return "\n".join(lines) + "\n"


KNOWN_ROOM = Facts(instances=2, connections_max=100, descriptors=500)
USER_LISTS = st.dictionaries(ONE_LINE, ONE_LINE, max_size=3).map(
    lambda users: "".join('"{}" "{}"\n'.format(*(one.replace('"', '""') for one in user)) for user in users.items())
)


@settings(max_examples=60, deadline=None)
@given(text=inis(), users=USER_LISTS, is_inline=st.booleans(), is_beside=st.booleans())
def test_any_ini_converts_to_the_same(text: str, users: str, is_inline: bool, is_beside: bool) -> None:
    """What people have in their files is more than we think of."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        ini = written(Path(one), text, users)
        target = Path(one if is_beside else other) / "forebay.toml"
        made = convert(ini, target=target, inline_secrets=is_inline)
        assert made.text is not None, render(made.findings)
        for name, secret in made.secrets.items():
            (target.parent / name).parent.mkdir(exist_ok=True)
            (target.parent / name).write_text(secret, encoding="utf-8")
            (target.parent / name).chmod(0o600)
        target.write_text(made.text, encoding="utf-8")
        assert_same(ini, target)
        assert all(
            one.message and one.line for path in (ini, target) for one in check(path, environ={}, facts=KNOWN_ROOM)
        )
