"""pg_hba.conf and pg_ident.conf are read as PostgreSQL reads them: its own views say how that is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forebay.config.access.hba import read_rule
from forebay.config.access.ident import read_line
from forebay.config.access.judges import Judges
from forebay.config.access.records import records
from forebay.config.access.shapes import AccessRule, MapLine, PamService, Pattern
from forebay.config.finding import Report
from forebay.config.source import Source

from tests.harness.postgres import Postgres

LINES_MIN = 300

DATABASES = ("all", "shop", '"all"', "sameuser", "replication", "a,b, c", '"q""1","x y"', r"/^db\d+$", '"/^d"', "a b")
USERS = ("all", "app", '"App",app', "u1,u2", r"/^app_[a-z]+$", "sameuser", '"+plain"', 'a"b c"d')
ADDRESSES = (
    "10.0.0.0/8", "127.0.0.1/32", "0.0.0.0/0", "10.0.0.0 255.0.0.0", "10.1.2.3 255.0.255.0", "::1/128", "fe80::/10",
    "::1 ffff:ffff::", "all", "10.0.0.0/33", "::/129", "10.0.0.0/x", "10.0.0.0/-1", "10.0.0.0 ::", "10.0.0.0 nomask",
    "1.2.3.4/", "10.0.0.0/8,11.0.0.0/8", "2001:db8::1", "192.168.1.7/24",
)  # fmt: skip
METHODS = (
    "trust", "reject", "password", "md5", "scram-sha-256", "cert", "peer", "ldap", "pam", "md4", "TRUST", '"trust"',
    "cert map=m", "peer map=m", "md5 map=m", "trust clientcert=verify-full", "cert clientcert=verify-ca", "md5 md5",
    "cert clientcert=verify-full", "pam pamservice=x", "pam pam_use_hostname=1", "md5 x=y",
    'ldap ldapserver=a ldapprefix="uid=" ldapsuffix=",dc=x"', "ldap ldapserver=a ldapbasedn=dc=x ldapprefix=y",
    'ldap ldapurl="ldap://h:390/dc=x?uid?sub"', "ldap ldapserver=a ldapbasedn=dc=x ldapport=0", "ldap ldapserver=a",
    "ldap ldapserver=a ldapprefix=x ldapscheme=ldapx", "md5 # a comment", "md5,trust",
    "ldap ldapserver=a ldapprefix=x ldaptls=1",
    "ldap ldapserver=a ldapbasedn=x ldapsearchattribute=u ldapsearchfilter=(u=$username)",
)  # fmt: skip
ODD = (
    "local", "host", "host all", "host all all", "host all all all", "remote all all all trust",
    "local,host all all trust",
    "local all all trust trust", "local all all 127.0.0.1/32 trust", "HOST all all all trust",
    '"host" all all all trust',
    "host all all samehost trust", "host all all samenet md5", "host all +group all md5", "host samerole all all md5",
    "host all all db.example.org md5", "host all all .example.org md5", "host all all all gss", "local all all ident",
    "host all all all ident", "hostgssenc all all all gss", "host all all all radius", r"host /( all all md5",
    "host all,sameuser,replication all all md5", "hostssl all all all cert map=m", "hostnossl all all all cert",
    "local all all cert", "local all all peer map=m", "host all all all md5,", "host all all all md5 a=b,c=d",
)  # fmt: skip


def hba_lines() -> list[str]:
    """Each field in turn with everything it may be, and some of all at once."""
    lines = [f"host {names} all 10.0.0.0/8 md5" for names in DATABASES]
    lines += [f"{kind} {names} {users} trust" for kind in ("local",) for names in DATABASES[:6] for users in USERS]
    lines += [f"host all {users} 10.0.0.0/8 md5" for users in USERS]
    lines += [f"{kind} all all {address} md5" for kind in ("host", "hostssl", "hostnossl") for address in ADDRESSES]
    lines += [f"local all all {method}" for method in METHODS]
    lines += [f"{kind} all all 10.0.0.0/8 {method}" for kind in ("host", "hostssl") for method in METHODS]
    mixed = itertools.product(("hostssl",), DATABASES[::2], USERS[::3], ADDRESSES[::4], METHODS[::6])
    lines += ["\t".join(fields) for fields in itertools.islice(mixed, 0, None, 3)]
    return [*lines, *ODD]


def asked(server: Postgres, name: str, text: str, columns: str, order: str) -> Iterator[dict[str, Any]]:
    """What a view of the server says of a file with this text. The server itself goes on with the rules that it has."""
    path = server.folder / "data" / f"pg_{name}.conf"
    before = path.read_text()
    try:
        path.write_text(text)
        view = "pg_hba_file_rules" if name == "hba" else "pg_ident_file_mappings"
        with server.target.at(user="postgres").connect() as admin:
            rows = admin.execute(f"select {columns} from {view} order by {order}").fetchall()  # type: ignore[call-overload]
    finally:
        path.write_text(before)
    names = [column.strip() for column in columns.split(",")]
    return (dict(zip(names, row, strict=True)) for row in rows)


def read(line: str) -> tuple[AccessRule | None, str]:
    """The rule of a line, and what is wrong with it."""
    report = Report()
    judges = Judges(PamService("forebay"))
    found = [read_rule(one, ("m",), judges, report) for one in records(Source("hba", line), report)]
    faults = "; ".join(one.message for one in report.findings if one.is_error)
    return (found[0] if found else None), faults


def shown(pattern: Pattern) -> str:
    """A name as the views show it."""
    if isinstance(pattern, str):
        return {"same_user": "sameuser"}.get(pattern, pattern)
    return pattern["name"] if "name" in pattern else f"/{pattern['regex']}"


def test_rules_are_read_as_postgresql_reads_them(server: Postgres) -> None:
    """A line read otherwise than its author knows it lets in whom it should not, or nobody."""
    lines = hba_lines()
    assert len(lines) >= LINES_MIN
    columns = "line_number, type, database, user_name, address, netmask, auth_method, error"
    of_server = {
        row["line_number"]: row for row in asked(server, "hba", "\n".join(lines) + "\n", columns, "line_number")
    }
    differing, compared = [], 0
    for number, line in enumerate(lines, 1):
        rule, faults = read(line)
        theirs = of_server[number]
        error = theirs["error"]
        if error is not None and "not supported by this build" in error:
            continue
        if error is not None:
            # PgBouncer's own files say `host … cert`; without TLS such a client is refused at its login.
            is_refused = faults or (rule and rule.kind == "host" and rule.method == "cert")
            differing += [] if is_refused else [(line, error)]
        elif rule is None:
            is_meant = any(words in faults for words in MEANT)
            differing += [] if is_meant else [(line, faults)]
        else:
            compared += 1
            differing += [(line, difference) for difference in differences(rule, theirs)]
    assert not differing
    assert compared >= 150


# What only a server can know, or has other libraries for, is refused.
MEANT = ("not supported", "known to servers only")


def differences(rule: AccessRule, theirs: dict[str, Any]) -> Iterator[tuple[object, object]]:
    """What the rule says, and what the server says instead."""
    method = "peer" if theirs["auth_method"] == "ident" else theirs["auth_method"]
    at = (theirs["address"], theirs["netmask"]) if theirs["netmask"] else None
    pairs = (
        (rule.kind, theirs["type"]),
        (rule.method, method),
        ([shown(one) for one in rule.databases], theirs["database"]),
        ([shown(one) for one in rule.users], theirs["user_name"]),
        (rule.network, at),
    )
    return (pair for pair in pairs if pair[0] != pair[1])


IDENT = (
    "m root app", 'm "Root" "App User"', "m root all", 'm root "all"', r"m /^(.*)@x$ \1", r"m /^(.*)@x$ a_\1_b",
    "m root", "m", "m a b c", "m a,b c", "m root /^a", r"m /( a", "m root +group", r"m /^x$ \1", "# nothing",
    "m root a,b",
)  # fmt: skip


def test_maps_are_read_as_postgresql_reads_them(server: Postgres) -> None:
    """The same for pg_ident.conf."""
    columns = "line_number, map_name, sys_name, pg_username, error"
    of_server = {
        row["line_number"]: row for row in asked(server, "ident", "\n".join(IDENT) + "\n", columns, "line_number")
    }
    for number, line in enumerate(IDENT, 1):
        report = Report()
        found: list[MapLine | None] = [read_line(one, report) for one in records(Source("ident", line), report)]
        theirs = of_server.get(number)
        if theirs is None:
            assert not found
            continue
        mine = found[0] if found else None
        if theirs["error"] is not None:
            assert report.has_errors, (line, theirs["error"])
        elif report.has_errors:
            # The server finds a group that is missing at a login, and passes over a fourth field.
            assert "+group" in line or r"\1" in line or line == "m a b c", line
        else:
            assert mine is not None
            assert (mine.map, shown(mine.system), shown(mine.user)) == tuple(theirs.values())[1:4], line


def test_a_file_is_found_to_be_wrong_with_line_and_column(tmp_path: Path) -> None:
    """Whoever mends it must see where."""
    report = Report()
    text = "local all all peer\nhost all \\\n  all 10.0.0.0/8 md6\n"
    judges = Judges(PamService("forebay"))
    rules = [read_rule(one, (), judges, report) for one in records(Source("pg_hba.conf", text), report)]
    assert [rule is None for rule in rules] == [False, True]
    (finding,) = report.findings
    assert (finding.code, finding.where) == ("FBC150", "pg_hba.conf:3:18")
