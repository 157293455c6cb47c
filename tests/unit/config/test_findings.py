"""Each kind of mistake is found, at its place, with a code; a mistake that passes is found in production."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from forebay import config
from forebay.config import Config, Finding, Loaded

Codes = Callable[..., list[tuple[str, int, int]]]


def test_a_configuration_without_mistakes_has_no_findings(load: Callable[..., Loaded], minimal: str) -> None:
    assert load(minimal).findings == ()


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("[listen]\nport = ", ("FBC001", 2, 8)),
        ("[listne]\nport = 1", ("FBC004", 1, 2)),
        ("listen = 5", ("FBC009", 1, 1)),
        ("[listen]\nprot = 1", ("FBC005", 2, 1)),
        ("[server_defaults]\nport = 1", ("FBC006", 2, 1)),
        ("[users.ops]\nmin_pool_size = 1\nsecret = { env = 'APP' }", ("FBC006", 2, 1)),
        ("[server_defaults]\nlevel = 'safer'", ("FBC014", 2, 9)),
        ("[databases.x]\nendpoints = ['a:1']\non_pin = 'deny'", ("FBC014", 3, 10)),
        ("[users.ops]\nlevel = 'safe'\nsecret = { env = 'APP' }", ("FBC006", 2, 1)),
        ("[listen]\nport = '6432'", ("FBC010", 2, 8)),
        ("[log]\nconnections = 1", ("FBC010", 2, 15)),
        ("[server_defaults]\nquery_timeout = 5", ("FBC011", 2, 17)),
        ("[server_defaults]\nquery_timeout = '5 parsecs'", ("FBC011", 2, 17)),
        ("[limits]\nrelay_bytes_max = '1TB'", ("FBC012", 2, 19)),
        ("[listen]\nport = 65536", ("FBC013", 2, 8)),
        ("[limits]\nclient_login_timeout = '0s'", ("FBC013", 2, 24)),
        ("[server_defaults]\npool_mode = 'sesion'", ("FBC014", 2, 13)),
        ("[listen]\naddress = ['127.0.0.1', 'db.example.org']", ("FBC015", 2, 25)),
        ("[databases.x]\nendpoints = ['a:1', 'b:0']", ("FBC016", 2, 21)),
        ("[databases.x]\nendpoints = ['a b']", ("FBC016", 2, 14)),
        ("[metrics]\naddress = '127.0.0.1'", ("FBC016", 2, 11)),
        ("[listen]\nunix_mode = '999'", ("FBC017", 2, 13)),
        (f"[databases.{'x' * 64}]\nendpoints = ['a:1']", ("FBC018", 1, 12)),
        ("[databases.pgbouncer]\nendpoints = ['a:1']", ("FBC059", 1, 12)),
        ("[log]\nlevel = '${LEVEL}'", ("FBC020", 2, 9)),
        ("[log]\nlevel = '${1}'", ("FBC021", 2, 9)),
    ],
)
def test_a_faulty_setting_is_found_where_it_stands(codes: Codes, text: str, finding: tuple[str, int, int]) -> None:
    assert finding in codes(text)


def test_every_mistake_of_a_file_is_found_at_once(codes: Codes) -> None:
    text = "[listen]\nport = 'a'\nbacklog = 0\nx = 1\n[log]\nlevel = 'loud'"
    assert [code for code, _, _ in codes(text)] == ["FBC010", "FBC013", "FBC005", "FBC014"]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("[listen]\nprot = 1", "port"),
        ("[databse.x]\n", "databases"),
        ("[server_defaults]\npool_mode = 'sesion'", "session"),
        ("[server_defaults]\ndefault_pool_size = 3", "pool_size"),
        ("[listen]\nlisten_addr = '::1'", "address"),
        ("[databases.x]\nendpoints = ['a:1']\nhost = 'b'", "endpoints"),
        ("[log]\nlevel = '${LEVLE}'", "LEVEL"),
    ],
)
def test_a_finding_says_what_was_probably_meant(
    load: Callable[..., Loaded], minimal: str, text: str, meant: str
) -> None:
    findings = load(f"{text}\n{minimal}", environ={"LEVEL": "info"}).findings
    assert f'did you mean "{meant}"?' in [one.hint for one in findings]


def test_what_is_like_nothing_is_taken_for_nothing(load: Callable[..., Loaded]) -> None:
    """Whoever is told that a standby is "any" has writes sent to replicas."""
    text = "[databases.x]\nendpoints = ['a:1']\ntopology = 'poll'\npoll_user = 'u'\nrole = 'standby'"
    (hint,) = [one.hint for one in load(text).findings if one.code == "FBC014"]
    assert "did you mean" not in (hint or "")


def test_a_missing_file_is_a_finding_and_no_exception() -> None:
    [finding] = config.check("/nonexistent/forebay.toml")
    assert finding.code == "FBC002"
    assert finding.message == 'can\'t read "/nonexistent/forebay.toml": No such file or directory'


def test_a_file_that_is_no_text_is_a_finding(tmp_path: object) -> None:
    path = f"{tmp_path}/forebay.toml"
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"[listen]\n\xff\n")
    [finding] = config.check(path)
    assert (finding.code, finding.message) == ("FBC003", "this is not UTF-8 text: byte 9, in line 2")


def test_a_finding_is_printed_with_its_line_and_a_caret(only: Callable[..., Finding], minimal: str) -> None:
    finding = only(f"{minimal}[log]\n\tlevel = 'loud'\n")
    printed = config.render([finding]).split("\n", 1)
    assert printed[0].endswith(
        'forebay.toml:6:10: error FBC014: log.level: "loud" is not one of debug, info, warn, error'
    )
    assert printed[1] == "    6 | \tlevel = 'loud'\n      | \t        ^^^^^^\n"


def test_a_printed_line_shows_no_secret(load: Callable[..., Loaded]) -> None:
    text = (
        '[databases.shop]\nendpoints = ["a:1"]\n[users.a]\nsecret = "hunter2"\n[users.b]\n"secret" = \'hun"ter2\'\n'
        '[users.c]\nsecret = """\nhunter2"""\n[users]\nd = { secret = "hunter2", pool_sise = 3 }\n'
    )
    loaded = load(text)
    assert "hunter2" not in config.render(loaded.findings)
    assert "ter2" not in config.render(loaded.findings)
    assert len([one for one in loaded.findings if one.code == "FBC030"]) == 4


@pytest.mark.parametrize(
    "secret",
    [
        '"hunter2"',
        "'hunter2'",
        '[ "hunter2" ]',
        '{ plain = "hunter2" }',
        '{ env = "APP", verifier = "hunter2" }',
        '"${hunter2"',
        "{ verifier = hunter2 }",
        '"hunter2',
    ],
)
def test_no_way_to_write_a_secret_shows_it(load: Callable[..., Loaded], secret: str) -> None:
    findings = load(f"[databases.a]\nendpoints = ['a']\n[users.a]\nsecret = {secret}\n").findings
    assert findings
    assert "hunter2" not in config.render(findings)


def test_a_password_in_a_url_is_not_shown(only: Callable[..., Finding], minimal: str) -> None:
    finding = only(f"{minimal}[databases.x]\nendpoints = ['postgresql://app:hunter2@db/x']\n")
    assert finding.code == "FBC016"
    assert "hunter2" not in config.render([finding])


@pytest.mark.parametrize("scheme", ["", "patroni//", "patorni://", "https:"])
def test_a_password_in_the_address_of_a_source_is_not_shown(
    load: Callable[..., Loaded], minimal: str, scheme: str
) -> None:
    source = f'topology = "patroni"\ntopology_source = "{scheme}app:hunter2@10.0.0.1:8008"'
    findings = load(f"{minimal}[databases.x]\nendpoints = ['a']\n{source}\n").findings
    assert "FBC176" in {one.code for one in findings}
    assert "hunter2" not in config.render(findings)


@pytest.mark.parametrize("scheme", ["etcd://", "etcd//", ""])
def test_a_password_in_the_address_of_a_fleets_etcd_is_not_shown(
    load: Callable[..., Loaded], minimal: str, scheme: str
) -> None:
    fleet = f'[fleet]\nname = "x"\nnode = "n"\netcd = "{scheme}app:hunter2@10.0.0.1:2379"\n'
    findings = load(f"{fleet}{minimal}").findings
    assert "FBC192" in {one.code for one in findings}
    assert "hunter2" not in config.render(findings)


def test_a_plain_secret_of_a_source_is_not_shown(load: Callable[..., Loaded], minimal: str) -> None:
    source = 'topology_source_user = "app"\ntopology_source_secret = "hunter2"'
    findings = load(f"{minimal}[databases.x]\nendpoints = ['a']\n{source}\n").findings
    assert {"FBC030", "FBC177"} <= {one.code for one in findings}
    assert "hunter2" not in config.render(findings)


def test_where_a_secret_is_looked_up_is_shown(only: Callable[..., Finding]) -> None:
    finding = only('[databases.a]\nendpoints = ["a"]\n[users.a]\nsecret = { env = "NOPE" }\n')
    assert 'secret = { env = "NOPE" }' in config.render([finding])


def test_tables_with_headers_of_their_own_are_read(usable: Callable[..., Config], minimal: str) -> None:
    engine = usable(
        f"{minimal}[databases.shop.tls]\nmode = 'require'\n[server_defaults.tls]\nmode = 'disable'\n"
    ).engine
    assert [one.mode for one in engine.server_tls] == ["require"]


def test_a_syntax_error_beside_a_secret_does_not_show_it(only: Callable[..., Finding]) -> None:
    finding = only('[users.a]\nsecret = "hunter2" x\n')
    assert finding.code == "FBC001"
    assert "hunter2" not in config.render([finding])
