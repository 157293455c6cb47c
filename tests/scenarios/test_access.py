"""auth.type = "hba", cert, peer and any: who is let in by which rule, shown by libpq's own clients."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import Start
from tests.harness.certificates import Authority, Pair
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import PASSWORD, Postgres
from tests.harness.target import Target

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

RULES = """\
# who   database     user            address        method
local   all          all                            trust
host    all          watcher         all            reject
hostssl all          other           all            trust
host    all          other           all            reject
host    wide         app             127.0.0.1/32   trust
host    all          scram_user      127.0.0.0/8    scram-sha-256
host    all          /^md5_          127.0.0.0/8    md5
host    all          @names.txt      127.0.0.1/32   password
host    replication  postgres        all            trust
"""

DATABASES = {"app": {}, "wide": {}}


def told(target: Target, **options: Any) -> str:
    """Who the server says the session is, or the words of the refusal."""
    try:
        with target.connect(**options) as connection:
            return str(connection.execute("select session_user").fetchone()[0])  # type: ignore[index]
    except psycopg.OperationalError as error:
        return str(error)


def own(user: str) -> dict[str, str]:
    """A user and its password."""
    return {"user": user, "password": PASSWORD.format(user)}


def with_rules(
    start: Start, server: Postgres, variant: Variant, folder: Path, rules: str, maps: str = "", **sections: Any
) -> Forebay:
    """A forebay whose rules lie beside its configuration."""
    (folder / "hba.conf").write_text(rules)
    (folder / "names.txt").write_text('password_user "app user"\n')
    auth: dict[str, Any] = {"type": "hba", "hba_file": str(folder / "hba.conf"), "ask_timeout": "2s"}
    if maps:
        (folder / "ident.conf").write_text(maps)
        auth["ident_file"] = str(folder / "ident.conf")
    listen = {"unix": str(folder), **sections.pop("listen", {})}
    encrypted = {"tls.mode": "prefer"}
    return start(
        configuration(
            server, variant, databases=DATABASES, auth=auth, listen=listen, server_defaults=encrypted, **sections
        )
    )


def test_the_first_rule_that_fits_decides(
    start: Start, server: Postgres, variant: Variant, tls: tuple[Pair, Any], tmp_path: Path
) -> None:
    """By database, user, address, encryption and method; whom none fits is turned away, known or not."""
    listen = {"tls.certificate": tls[0].certificate, "tls.key": tls[0].key}
    forebay = with_rules(start, server, variant, tmp_path, RULES, listen=listen)
    target = forebay.target
    assert told(target.at(dbname="wide")) == "app"
    assert "no rule admits" in told(target)
    assert "no rule admits" in told(target.at(user="nobody_at_all"))
    assert "rejects" in told(target.at(user="watcher"))
    assert "rejects" in told(target.at(**own("other")))
    assert told(target.at(**own("other")), sslmode="require") == "other"
    for user in ("scram_user", "md5_user", "password_user"):
        assert told(target.at(**own(user))) == user
        assert "password authentication failed" in told(target.at(user=user, password="wrong"))
    assert told(target.at(host=str(tmp_path), user="scram_user")) == "scram_user"
    rules = [str(one.get("rule")) for one in forebay.events("login_refused")]
    assert f"{tmp_path}/hba.conf:3" in rules


def test_a_rule_for_replication_is_no_rule_for_databases(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path
) -> None:
    """`all` admits no standby, and `replication` no client of a database."""
    forebay = with_rules(
        start, server, variant, tmp_path, "host replication postgres all trust\nhost app all all trust\n"
    )
    physical = forebay.target.at(user="postgres").dsn(replication="true")
    with psycopg.connect(physical, autocommit=True) as connection:
        assert connection.pgconn.exec_(b"IDENTIFY_SYSTEM").ntuples == 1
    assert told(forebay.target.at(user="postgres")) == "postgres"
    assert "no rule admits" in told(forebay.target.at(user="postgres", dbname="wide"))
    with pytest.raises(psycopg.OperationalError, match="no rule admits"):
        psycopg.connect(forebay.target.dsn(replication="true"))


def test_a_reload_takes_rules_over_or_keeps_the_old_ones(
    start: Start, server: Postgres, variant: Variant, tmp_path: Path
) -> None:
    """One line that can't be understood refuses them all; nobody is let in by half a file."""
    forebay = with_rules(start, server, variant, tmp_path, "host all app all trust\n")
    hba = tmp_path / "hba.conf"
    assert told(forebay.target) == "app"
    faulty = ("host all all all trust\nhost all all all md6\n", "include nothing.conf\n", "host all @gone all md5\n")
    for text in faulty:
        hba.write_text(text)
        assert forebay.reload()["event"] == "reload_refused"
        assert told(forebay.target) == "app"
        assert "no rule admits" in told(forebay.target.at(user="other"))
    assert any(str(one["at"]).endswith("hba.conf:2:18") for one in forebay.events("config_finding"))
    hba.write_text("host all other all trust\n")
    assert forebay.reload()["event"] == "reload"
    assert told(forebay.target.at(user="other")) == "other"
    assert "no rule admits" in told(forebay.target)


def test_certificates_and_maps(
    start: Start, server: Postgres, variant: Variant, tls: tuple[Pair, Any], authority: Authority, tmp_path: Path
) -> None:
    """The common name is the user's, or a map says whose it is; a certificate of strangers is none."""
    maps = "m ann.example.org other\nm /^(.*)\\.example\\.org$ \\1\n"
    rules = "hostssl wide all all cert map=m\nhostssl app scram_user all scram-sha-256 clientcert=verify-full\n"
    rules += "hostssl app md5_user all trust clientcert=verify-ca\nhostssl app all all cert\nhost app all all cert\n"
    listen = {"tls.certificate": tls[0].certificate, "tls.key": tls[0].key, "tls.ca": authority.certificate}
    forebay = with_rules(start, server, variant, tmp_path, rules, maps, listen=listen)
    stranger = Authority(tmp_path, "strangers")

    def shown(pair: Pair | None, user: str, database: str = "app", **options: Any) -> str:
        files = {"sslcert": str(pair.certificate), "sslkey": str(pair.key)} if pair else {"sslcert": "", "sslkey": ""}
        return told(forebay.target.at(user=user, dbname=database, **options), sslmode="require", **files)

    app = authority.issue("app", "x.example.org", common_name="app")
    ann = authority.issue("ann", "x.example.org", common_name="ann.example.org")
    failed = "certificate authentication failed"
    assert shown(app, "app") == "app"
    assert failed in shown(app, "other")
    assert failed in shown(None, "app")
    assert failed in told(forebay.target), "without TLS"
    assert shown(ann, "other", "wide") == "other"
    assert failed in shown(ann, "app", "wide")
    assert failed in shown(ann, "ann", "wide"), "mapped, but there is no such user"
    assert shown(authority.issue("gone", "x", common_name="gone.example.org"), "gone", "wide") == "gone"
    assert shown(stranger.issue("app2", "x", common_name="app"), "app") != "app"
    password = PASSWORD.format("scram_user")
    scram = authority.issue("scram", "x", common_name="scram_user")
    assert shown(scram, "scram_user", password=password) == "scram_user"
    assert "certificate is required" in shown(app, "scram_user", password=password)
    assert "password authentication failed" in shown(scram, "scram_user", password="wrong")
    assert shown(app, "md5_user") == "md5_user"
    assert "certificate is required" in shown(None, "md5_user")


def test_peers_are_who_the_system_says(start: Start, server: Postgres, variant: Variant, tmp_path: Path) -> None:
    """Over the Unix socket: the user of the client's process, or whom a map makes of it."""
    me = getpass.getuser() if os.environ.get("USER") == os.environ.get("LOGNAME") else "root"
    maps = f"m {me} app\nm /^(..*)$ \\1_user\nm nobody other\n"
    forebay = with_rules(start, server, variant, tmp_path, "local app all peer map=m\nlocal wide all peer\n", maps)
    target = forebay.target.at(host=str(tmp_path))
    assert told(target) == "app"
    assert "peer authentication failed" in told(target.at(user="other"))
    assert "peer authentication failed" in told(target.at(dbname="wide"))
    assert "peer authentication failed" in told(target.at(user="nobody_at_all"))
    assert "no rule admits" in told(forebay.target)
    reasons = [one["reason"] for one in forebay.events("login_refused")]
    assert f"its process belongs to {me}" in reasons


def test_any_makes_everybody_the_forced_user(start: Start, server: Postgres, variant: Variant) -> None:
    """No proof is asked, and no name believed."""
    databases = {"app": {"user": "scram_user", "secret": {"env": "SECRET_scram_user"}}, "wide": {}}
    forebay = start(configuration(server, variant, auth={"type": "any"}, databases=databases))
    for user in ("app", "nobody_at_all"):
        assert told(forebay.target.at(user=user)) == "scram_user"
    assert "no forced user" in told(forebay.target.at(dbname="wide"))
    assert "does not exist" in told(forebay.target.at(dbname="nowhere"))
    with forebay.target.wire():
        assert {row["user"] for row in forebay.console("show clients") if row["database"] == "app"} == {"scram_user"}
