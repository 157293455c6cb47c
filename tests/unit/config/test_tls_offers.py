"""OpenSSL's words for what TLS offers, over what the engine's library has."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from forebay.config import load_text
from forebay.config.tls_offers import NothingLeft, Wanted, offers

RSA_256 = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"
ECDSA_256 = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
ALL_13 = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
LISTS = (
    "HIGH", "ALL:!aNULL", "ECDHE+AESGCM", "EECDH+AESGCM:EECDH+CHACHA20", "HIGH:!AES256", "ECDHE-RSA-AES256-GCM-SHA384",
    "AES128:AES256", "ALL:-CHACHA20:CHACHA20", "aRSA+HIGH:!CHACHA20", "ALL:+AES128:@STRENGTH", "CHACHA20:!aECDSA:ALL",
    "ECDHE-ECDSA-AES128-GCM-SHA256:AES256-SHA:ECDHE-RSA-CHACHA20-POLY1305", "HIGH:MEDIUM:+3DES:!aNULL",
)  # fmt: skip
# OpenSSL has them as well, and the engine's library has no others.
OURS = {
    f"ECDHE-{who}-{cipher}" for who in ("ECDSA", "RSA")
    for cipher in ("AES256-GCM-SHA384", "CHACHA20-POLY1305", "AES128-GCM-SHA256")
}  # fmt: skip


def openssl_name(iana: str) -> str:
    """The name that OpenSSL has for a suite of TLS 1.2."""
    name = iana.removeprefix("TLS_").replace("_WITH", "").replace("_", "-").replace("AES-", "AES")
    return name.removesuffix("-SHA256") if name.endswith("POLY1305-SHA256") else name


@pytest.mark.parametrize("text", LISTS)
def test_a_list_means_what_openssl_says(text: str) -> None:
    """The very suites, in the very order, less those that the library lacks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(text)
    theirs = [one["name"] for one in context.get_ciphers() if one["name"] in OURS]
    offered, _ = offers(Wanted("secure", text, ""))
    assert [openssl_name(one) for one in offered.suites if one not in ALL_13] == theirs
    assert offered.suites[:3] == ALL_13


def test_defaults_are_the_library_s_own() -> None:
    for ciphers in ("", "default", "secure", "fast", "normal", "ALL"[:0]):
        offered, passed_over = offers(Wanted("secure", ciphers, "", "auto"))
        assert (offered.versions, offered.suites, offered.groups, passed_over) == ((), (), (), [])


def test_versions_and_groups() -> None:
    """Old versions are taken with a word, for no configuration of PgBouncer may fail by them."""
    for text, versions, old in (
        ("tlsv1.2", ("1.2",), 0), ("tlsv1.3", ("1.3",), 0), ("TLSv1.3, tlsv1.2", (), 0), ("all", (), 2),
        ("legacy", (), 2),
        ("tlsv1.0", (), 1), ("tlsv1.1,tlsv1.2", ("1.2",), 1), ("all:!tlsv1.3", ("1.2",), 2),
        ("!tlsv1.2", ("1.3",), 2), ("!tlsv1.1:!tlsv1.0", (), 0), (" !TLSv1.3 , !tlsv1.0", ("1.2",), 1),
    ):  # fmt: skip
        offered, passed_over = offers(Wanted(text, "", ""))
        assert (offered.versions, len(passed_over)) == (versions, old), text
    offered, passed_over = offers(Wanted("", "", "", "prime256v1:secp521r1,X25519"))
    assert (offered.groups, passed_over) == (("secp256r1", "X25519"), [("curve", "secp521r1")])


@pytest.mark.parametrize(
    ("wanted", "setting"),
    [
        (Wanted("tlsv1.4", "", ""), "protocols"),
        (Wanted("!all", "", ""), "protocols"),
        (Wanted("!tlsv1.2:!tlsv1.3", "", ""), "protocols"),
        (Wanted("tlsv1.2,!tlsv1.2", "", ""), "protocols"),
        (Wanted("", "AES256-SHA", ""), "ciphers"),
        (Wanted("", "nonsense", ""), "ciphers"),
        (Wanted("", "", "TLS_NONSENSE"), "suites"),
        (Wanted("tlsv1.2", "TLS_AES_256_GCM_SHA384", ""), "ciphers"),
        (Wanted("", "", "", "brainpoolP256r1"), "curve"),
    ],
)
def test_a_list_of_which_nothing_is_left_is_refused(wanted: Wanted, setting: str) -> None:
    with pytest.raises(NothingLeft) as nothing:
        offers(wanted)
    assert nothing.value.setting == setting


def test_suites_of_13_come_from_their_own_list_or_from_the_other() -> None:
    offered, _ = offers(Wanted("", "default", "TLS_AES_128_GCM_SHA256:TLS_AES_128_CCM_SHA256"))
    assert offered.suites[:2] == ("TLS_AES_128_GCM_SHA256", ECDSA_256)
    offered, _ = offers(Wanted("", "TLS_AES_128_GCM_SHA256:ECDHE-RSA-AES256-GCM-SHA384", ""))
    assert offered.suites == ("TLS_AES_128_GCM_SHA256", RSA_256)


def test_what_is_passed_over_is_said_at_its_place(tmp_path: Path) -> None:
    text = (
        '[listen]\ntls.ciphers = "AES256-SHA:ECDHE+AESGCM"\n[server_defaults]\ntls.protocols = "tlsv1.0"\n'
        '[databases.shop]\nendpoints = ["a"]\ntls.ciphers = "RC4"\n[databases.b]\nendpoints = ["a"]\n'
        'tls.protocols = "tlsv1.2"\n[users.app]\nsecret = { env = "APP" }\n'
    )
    findings = load_text(text, folder=tmp_path, environ={"APP": "x"}).findings
    assert [(one.code, one.line) for one in findings] == [("FBC159", 2), ("FBC159", 4), ("FBC160", 7)]
