"""What is said of a configuration that lets people in by rules, certificates, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from forebay._engine import check_pattern
from forebay.config import load, load_text
from forebay.config.access.records import records
from forebay.config.finding import Report
from forebay.config.source import Source
from hypothesis import given
from hypothesis import strategies as st

DATABASE = '[databases.shop]\nendpoints = ["10.0.0.5:5432"]\n[users.app]\nsecret = { env = "APP" }\n'
RULES = 'type = "hba"\nhba_file = "hba"'
# Quotes may stand in the middle of a word.
QUOTED = '"bind"'


def codes(folder: Path, auth: str, more: str = "") -> set[str]:
    """Codes of what is found."""
    text = f"{DATABASE}[auth]\n{auth}\n{more}"
    return {one.code for one in load_text(text, folder=folder, environ={"APP": "x"}).findings}


def test_what_does_not_go_together_is_said(tmp_path: Path) -> None:
    """At the check, not at the first login."""
    (tmp_path / "hba").write_text("local all all trust\nhost all all 10.1.0.0/8 md5\nhostssl all all all cert\n")
    (tmp_path / "empty").write_text("# nothing\n")
    (tmp_path / "circle").write_text("include circle\n")
    rules = 'type = "hba"\nhba_file = '
    assert codes(tmp_path, f'{rules}"hba"') == {"FBC151", "FBC158"}
    assert codes(tmp_path, f'{rules}"empty"') == {"FBC153"}
    assert "FBC074" in codes(tmp_path, f'{rules}"circle"')
    assert codes(tmp_path, 'type = "hba"') == {"FBC152"}
    assert codes(tmp_path, 'hba_file = "hba"') == {"FBC154"}
    assert codes(tmp_path, 'type = "ldap"') == {"FBC155"}
    assert codes(tmp_path, 'type = "ldap"\nldap_options = "ldapserver=a"') == {"FBC156"}
    assert codes(tmp_path, 'type = "any"') == {"FBC157"}
    assert codes(tmp_path, 'type = "cert"') == {"FBC158"}
    for method in ("trust", "any"):
        assert "FBC051" in codes(tmp_path, f'type = "{method}"', '[listen]\naddress = "0.0.0.0"\n')
    for method in ("ldap", "pam", "password"):
        assert "FBC052" in codes(tmp_path, f'type = "{method}"', '[listen]\naddress = "0.0.0.0"\n')


SECRET_WAYS = (
    '"hunter2, too" ldapsecret=1',
    '"hun""ter2"',
    "hunter2 ter2",
    "foo}ter2 ldap=x",
    '"x ter2',
    "x is=ter2",
    "x ldapport=ter2",
    "x ldapscheme=ter2",
)


@pytest.mark.parametrize("way", SECRET_WAYS)
def test_the_password_of_a_directory_is_shown_nowhere(tmp_path: Path, way: str) -> None:
    """Findings quote the line they are about, and words of it; the settings are shown by the console."""
    escaped = way.replace('"', '\\"')
    head, key = 'type = "ldap"\nldap_options = ', "ldapserver=a ldapbasedn=x ldapbindpasswd="
    texts = [f'{head}"{key}{escaped}"', f'{head}"""{key}\\\n{escaped} """', f'{head}"{key[:-6]}\\u0061sswd={escaped}"']
    texts += [f"{head}'{key}{way}'", f"{head}'{key.replace('bind', QUOTED)}{way}'", 'type = "hba"\nhba_file = "hba"']
    own = f"{key}{way}"
    for line in (f"host all all all ldap {own}", f"host all all all {own}", own, f"x \\\nldap{QUOTED}passwd={way}"):
        (tmp_path / "hba").write_text(f"{line}\n")
        for text in texts:
            loaded = load_text(f"{DATABASE}[auth]\n{text}\n", folder=tmp_path, environ={"APP": "x"})
            shown = str([(one.message, one.excerpt) for one in loaded.findings])
            if loaded.config is not None:
                shown += str(loaded.config.settings())
            assert "ter2" not in shown, (text, line, shown)


def test_a_token_before_the_password_is_named(tmp_path: Path) -> None:
    (tmp_path / "hba").write_text("host all all all ldpa ldapserver=a ldapbindpasswd=x\n")
    loaded = load_text(f"{DATABASE}[auth]\n{RULES}\n", folder=tmp_path, environ={"APP": "x"})
    assert '"ldpa" is no method' in loaded.findings[0].message


def test_what_pgbouncer_would_read_in_another_way_is_refused(tmp_path: Path) -> None:
    """A rule that PgBouncer never applies, or applies to others, must not open a network here."""
    (tmp_path / "userlist.txt").write_text('"app" "x"\n')
    (tmp_path / "userlist.txt").chmod(0o600)
    ini = (
        "[databases]\na = host=10.0.0.5\n[pgbouncer]\nauth_file = userlist.txt\nauth_type = hba\nauth_hba_file = hba\n"
    )
    (tmp_path / "pgbouncer.ini").write_text(ini)

    def found(rules: str, *, is_ini: bool) -> list[tuple[str, int]]:
        (tmp_path / "hba").write_text(f"local all all trust\n{rules}\n")
        if is_ini:
            findings = load(tmp_path / "pgbouncer.ini", environ={}).findings
        else:
            findings = load_text(f"{DATABASE}[auth]\n{RULES}", folder=tmp_path, environ={"APP": "x"}).findings
        return [(one.code, one.line) for one in findings if one.path.endswith("hba")]

    error = [("FBC150", 2)]
    for rules, wanted in (
        ("host all all 10.0.0.5/8 md5", [("FBC151", 2)]),
        ("host all all \\\n10.0.0.0/8 md5", []),
        ("host all all all pam pam_use_hostname=yes", error),
        ("# old \\\nhost all all all reject", error),
        ("host all all 10.0.0.0/8 md5 # \\\n  reject", error),
    ):
        assert found(rules, is_ini=False) == wanted, rules
        assert found(rules, is_ini=True) == error, rules


def test_mapped_addresses_are_those_of_ipv4(tmp_path: Path) -> None:
    """Clients' are compared so, and the rule would fit none of them."""
    (tmp_path / "hba").write_text(
        "host all all ::ffff:10.0.0.0/104 md5\nhost all all ::/0 md5\n"
        "host all all ::ffff:10.0.0.1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff md5\n"
    )
    loaded = load_text(f"{DATABASE}[auth]\n{RULES}\n", folder=tmp_path, environ={"APP": "x"})
    assert loaded.config is not None
    assert [rule.network for rule in loaded.config.engine.auth.access.rules or ()] == [
        ("10.0.0.0", "255.0.0.0"), ("::", "::"), ("10.0.0.1", "255.255.255.255"),
    ]  # fmt: skip


def test_files_that_can_not_be_read_are_found(tmp_path: Path) -> None:
    """Only a file that is not there may be left out."""
    (tmp_path / "plain").write_text("")
    for named, wanted in (("gone", set()), ("plain/rules", {"FBC002"})):
        (tmp_path / "hba").write_text(f"local all all trust\ninclude_if_exists {named}\n")
        assert codes(tmp_path, RULES) == wanted
    ldap = 'type = "ldap"\nldap_options = "ldapserver=a ldapprefix=x"\nldap_ca = '
    for named, wanted in (("plain", set()), ("gone.pem", {"FBC040"})):
        assert codes(tmp_path, f'{ldap}"{named}"') == wanted


def test_a_rule_that_lets_the_whole_network_in_is_told(tmp_path: Path) -> None:
    """As auth.type itself is; a rule may be meant so, which makes it a warning."""
    public = '[listen]\naddress = "0.0.0.0"\n'
    for rule, wanted in (
        ("host all all 0.0.0.0/0 trust", {"FBC161"}),
        ("hostssl all all all trust", {"FBC161"}),
        ("host all all 0.0.0.0/0 password", {"FBC162"}),
        ("hostnossl all all ::/0 ldap ldapserver=a ldapprefix=x", {"FBC162"}),
        ("hostssl all all all pam", set()),
        ("host all all 127.0.0.1/32 trust", set()),
        ("local all all trust", set()),
        ("host all all all scram-sha-256", set()),
    ):
        (tmp_path / "hba").write_text(f"{rule}\n")
        assert codes(tmp_path, RULES, public) & {"FBC161", "FBC162"} == wanted, rule
        assert not codes(tmp_path, RULES) & {"FBC161", "FBC162"}, rule


@given(st.text(alphabet=' \t\r\n,"#\\aÄ@', max_size=60))
def test_any_text_is_read_without_a_failure(text: str) -> None:
    """Each token's place is inside the text."""
    source = Source("hba", text)
    for record in records(source, Report()):
        for token in (token for field in record.fields for token in field):
            covered = text.encode()[token.place.start : token.place.end].decode()
            assert covered
            assert token.place.line == text.encode()[: token.place.start].decode().count("\n") + 1


def test_expressions_are_checked() -> None:
    assert check_pattern("^a$") is None
    assert check_pattern("(") is not None
    assert check_pattern("^a$", needs_group=True) is not None
