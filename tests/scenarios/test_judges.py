"""auth.type = "ldap" and "pam": passwords judged by a real directory, and by the system's own PAM."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Start
from tests.harness import directory
from tests.harness.certificates import Authority
from tests.harness.directory import BASE, DirectoryServer
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.wire import message, startup
from tests.scenarios.test_access import told

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

PASSWORD = "pässword, of app"


@pytest.fixture(scope="module")
def ldap(authority: Authority) -> Iterator[DirectoryServer]:
    """A directory that knows the user app."""
    with directory.running(authority.issue("ldap", "localhost", "127.0.0.1")) as server:
        yield server


def judged(start: Start, server: Postgres, variant: Variant, authority: Authority, **auth: Any) -> Forebay:
    """A forebay that knows no secret of the users that a directory knows."""
    absent: dict[str, Any] = {"users.app": {"_absent": True}, "users.gone": {"_absent": True}}
    given = {"type": "ldap", "ldap_ca": str(authority.certificate), "ask_timeout": "3s", **auth}
    return start(configuration(server, variant, auth=given, **absent))


SEARCH = f'ldapbasedn="{BASE}" ldapbinddn="cn=searcher,{BASE}" ldapbindpasswd="may search"'


def test_a_directory_judges_passwords_in_every_way_of_asking(
    start: Start, server: Postgres, variant: Variant, ldap: DirectoryServer, authority: Authority, tmp_path: Path
) -> None:
    """Bind, search and bind, over TLS from the first byte or after a request; a rule for each way."""
    at, simple = f"ldapserver=localhost ldapport={ldap.port}", f'ldapprefix="uid=" ldapsuffix=",ou=people,{BASE}"'
    ways = {
        "simple": f"{at} {simple}",
        "tls": f"ldapscheme=ldaps ldapserver=localhost ldapport={ldap.secure_port} {simple}",
        "starttls": f"{at} ldaptls=1 {simple}",
        "search": f"{at} {SEARCH}",
        "filter": f'{at} {SEARCH} ldapsearchfilter="(&(objectClass=person)(mail=$username@example.org))"',
        "url": f'ldapurl="ldap://localhost:{ldap.port}/{BASE}?uid?sub" ldapbinddn="cn=searcher,{BASE}" '
        'ldapbindpasswd="may search"',
    }
    hba = tmp_path / "hba.conf"
    hba.write_text("".join(f"host {way} all all ldap {options}\n" for way, options in ways.items()))
    databases: dict[str, Any] = {way: {} for way in ways}
    absent: dict[str, Any] = {"users.app": {"_absent": True}}
    auth = {"type": "hba", "hba_file": str(hba), "ldap_ca": str(authority.certificate)}
    forebay = start(configuration(server, variant, databases=databases, auth=auth, **absent))
    failed = "LDAP authentication failed"
    for way in ways:
        target = forebay.target.at(dbname=way)
        assert told(target.at(password=PASSWORD)) == "app", way
        assert failed in told(target.at(password="wrong")), way
        assert failed in told(target.at(user="nobody_at_all", password=PASSWORD)), way
    for user in ("double", "*", "app)(uid=*", "app,ou=people", ""):
        assert failed in told(forebay.target.at(dbname="search", user=user or "x", password="twice")), user
    with forebay.target.dial() as wire:
        wire.send(startup(user="app", database="simple"))
        assert wire.read().tag == "R"
        wire.send(message("p", b"\0"))
        assert [frame.fields["C"] for frame in wire.rest()] == ["28P01"], "an empty password is nobody's"
    text = forebay.log_path.read_text()
    assert PASSWORD not in text
    assert "may search" not in text


def test_a_directory_that_can_not_be_trusted_is_told_nothing(
    start: Start, server: Postgres, variant: Variant, ldap: DirectoryServer, authority: Authority, tmp_path: Path
) -> None:
    """Its certificate is another authority's, or it is not there: the login fails, and the log says why."""
    stranger = Authority(tmp_path, "strangers")
    options = (
        f'ldapscheme=ldaps ldapserver=localhost ldapport={ldap.secure_port} ldapprefix="uid=" ldapsuffix=",{BASE}"'
    )
    forebay = judged(start, server, variant, stranger, ldap_options=options)
    answer = told(forebay.target.at(password=PASSWORD))
    assert "could not be checked by LDAP" in answer
    assert "localhost" not in answer, "who has proved nothing is not told where the directory is"
    assert any("TLS with localhost failed" in str(one["because"]) for one in forebay.events("ldap_failed"))
    # A client that was asked for its password before a reload: the next directory never sees it.
    with forebay.target.dial() as wire:
        wire.send(startup(user="app", database=forebay.target.dbname))
        assert wire.read().tag == "R"
        other = f'ldapserver=localhost ldapport={ldap.port} ldapprefix="uid=" ldapsuffix=",ou=people,{BASE}"'
        sections = {**forebay.sections, "auth": {**forebay.sections["auth"], "ldap_options": other}}
        assert forebay.reload(sections)["event"] == "reload"
        wire.send(message("p", PASSWORD.encode() + b"\0"))
        assert [frame.fields["C"] for frame in wire.rest()] == ["28000"]
    assert forebay.events("ldap_failed")[-1]["because"] == "the directory is not configured any more"
    assert told(forebay.target.at(password=PASSWORD)) == "app"


def test_a_directory_that_hangs_costs_nobody_else_anything(
    start: Start, server: Postgres, variant: Variant, authority: Authority
) -> None:
    """Row 38: its own logins end at their deadline; users of other rules, and those who are in, notice nothing."""
    with directory.running(authority.issue("ldap2", "localhost")) as ldap:
        at = f'ldapserver=localhost ldapport={ldap.port} ldapprefix="uid=" ldapsuffix=",ou=people,{BASE}"'
        folder = Path(str(authority.certificate)).parent
        hba = folder / f"{secrets.token_hex(4)}.conf"
        hba.write_text(f"host all app,a1,a2 all ldap {at}\nhost all scram_user all scram-sha-256\n")
        absent: dict[str, Any] = {"users.app": {"_absent": True}}
        auth = {"type": "hba", "hba_file": str(hba), "ask_timeout": "2s"}
        forebay = start(configuration(server, variant, auth=auth, **absent))
        target = forebay.target.at(user="scram_user", password="secret of scram_user")
        assert told(forebay.target.at(password=PASSWORD)) == "app"
        os.kill(ldap.pid, signal.SIGSTOP)
        try:
            answers: list[str] = []
            hanging = [
                threading.Thread(target=lambda: answers.append(told(forebay.target.at(password=PASSWORD))))
                for _ in range(100)
            ]
            began = time.monotonic()
            for one in hanging:
                one.start()
            assert told(target) == "scram_user"
            for one in hanging:
                one.join()
            assert time.monotonic() - began >= 2
            assert all("could not be checked" in answer for answer in answers)
        finally:
            os.kill(ldap.pid, signal.SIGCONT)
        assert told(forebay.target.at(password=PASSWORD)) == "app"


@contextlib.contextmanager
def pam_service(script: Path) -> Iterator[str]:
    """A service of the system's PAM that asks a program whether a password is right."""
    name = f"forebay-test-{secrets.token_hex(4)}"
    path = Path("/etc/pam.d") / name
    script.write_text('#!/bin/sh\nread -r password\n[ "$PAM_USER/$password" = "app/right" ]\n')
    script.chmod(0o755)
    path.write_text(
        f"auth [success=1 default=ignore] pam_exec.so quiet expose_authtok {script}\n"
        "auth requisite pam_deny.so\nauth required pam_permit.so\naccount required pam_permit.so\n"
    )
    try:
        yield name
    finally:
        path.unlink()


@pytest.mark.skipif(not os.access("/etc/pam.d", os.W_OK), reason="services of PAM are root's to write")
def test_pam_judges_passwords(
    start: Start, server: Postgres, variant: Variant, authority: Authority, tmp_path: Path
) -> None:
    """The system's own modules, by auth.type and by a rule."""
    with pam_service(tmp_path / "judge") as name:
        forebay = judged(start, server, variant, authority, type="pam", pam_service=name)
        assert told(forebay.target.at(password="right")) == "app"
        assert "PAM authentication failed" in told(forebay.target.at(password="wrong"))
        assert "PAM authentication failed" in told(forebay.target.at(user="nobody_at_all", password="right"))
        hba = tmp_path / "hba.conf"
        hba.write_text(f"host all all all pam pamservice={name}\n")
        sections = {**forebay.sections, "auth": {"type": "hba", "hba_file": str(hba)}}
        assert forebay.reload(sections)["event"] == "reload"
        assert told(forebay.target.at(password="right")) == "app"
        assert "PAM authentication failed" in told(forebay.target.at(password="wrong"))
