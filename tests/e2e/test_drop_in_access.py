"""`forebay-pgbouncer` with auth_type = hba: rules, maps and texts as PgBouncer has them."""

from __future__ import annotations

import getpass
from collections.abc import Iterator

import psycopg
import pytest

from tests.harness import account
from tests.harness.drop_in import DropIn, Make, maker
from tests.harness.postgres import PASSWORD, Postgres
from tests.harness.target import Target
from tests.harness.wire import query

RULES = """\
local   pgbouncer   ops                 trust
local   app         all                 peer  map=m
host    all         watcher   all       reject
host    app,other , more  scram_user , app  127.0.0.0/8  scram-sha-256
host    more        other     127.0.0.1 255.255.255.255  md5
host    forced      other     127.0.0.1/32               cert
"""


@pytest.fixture
def make(server: Postgres) -> Iterator[Make]:
    """make(**settings): a drop-in that is not started."""
    with maker(server) as make:
        yield make


def told(target: Target) -> str:
    """Who the server says the session is, or the words of the refusal."""
    try:
        with target.connect() as connection:
            return str(connection.execute("select session_user").fetchone()[0])  # type: ignore[index]
    except psycopg.OperationalError as error:
        return str(error).rpartition("FATAL:")[2].strip().split("\n")[0]


def place(made: DropIn, name: str, text: str) -> None:
    """A file beside its ini."""
    (made.folder / name).write_text(text)
    account.give(made.folder / name)


def test_rules_maps_and_texts_are_pgbouncers(make: Make) -> None:
    """Alerts and scripts read these words; a file with a fault changes nothing."""
    made: DropIn = make(
        {"more": "", "forced": "user=other"},
        auth_type="hba", auth_hba_file="hba.conf", auth_ident_file="ident.conf",
    )  # fmt: skip
    place(made, "hba.conf", RULES)
    place(made, "ident.conf", f"m {getpass.getuser()} other\n")
    made.start()
    assert told(made.target.at(user="scram_user", password=PASSWORD.format("scram_user"))) == "scram_user"
    assert told(made.target.at(user="scram_user", password="wrong")) == "SASL authentication failed"
    assert told(made.target.at(user="other", dbname="more", password="wrong")) == "password authentication failed"
    assert told(made.target.at(user="watcher")) == "login rejected"
    assert told(made.target.at(user="other")) == "no authentication method is found"
    assert told(made.target.at(user="other", dbname="forced")) == "certificate authentication failed"
    assert told(made.target.at(user="other", dbname="more", password=PASSWORD.format("other"))) == "other"
    socket = made.target.at(host=str(made.folder))
    assert told(socket.at(user="other")) == "other"
    assert told(socket.at(user="app")) == "unix socket login rejected"
    for words in ("login rejected", "no authentication method is found", "unix socket login rejected"):
        made.says(f"closing because: {words}")
    place(made, "hba.conf", RULES + "host all all all kerberos\n")
    with socket.at(user="ops", dbname="pgbouncer").wire() as console:
        (error,) = [frame.fields for frame in console.ask(query("RELOAD")) if frame.tag == "E"]
        assert error["M"].startswith("RELOAD failed")
        made.says("hba.conf:7:18")
        assert told(made.target.at(user="watcher")) == "login rejected"
        nobody = "host more watcher all ldap ldapserver=127.0.0.1 ldapport=1 ldapprefix=x\n"
        place(made, "hba.conf", nobody + "host all watcher all reject\nhost all other all trust\n" + RULES)
        console.ask(query("RELOAD"))
    assert told(made.target.at(user="other")) == "other"
    assert told(made.target.at(user="watcher", dbname="more", password="x")) == "LDAP authentication failed"
