"""Connection strings, as libpq reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from forebay.control.dsn import Dsn, parse
from forebay.failure import Exit, Failure


def read(text: str, **environment: str) -> Dsn:
    """Without the environment of the one who runs the tests."""
    return parse(text, {"USER": "me", "PGPASSFILE": "/nonexistent", **environment})


@pytest.mark.parametrize(
    ("text", "endpoints", "user", "dbname", "password"),
    [
        ("postgresql://app:s3@db.example:5433/shop", ("db.example:5433",), "app", "shop", "s3"),
        ("postgres://app@db/shop", ("db:5432",), "app", "shop", None),
        ("postgresql+psycopg://app@db", ("db:5432",), "app", "app", None),
        ("postgresql://a%40b:p%3A%2Fw@db/my%20shop", ("db:5432",), "a@b", "my shop", "p:/w"),
        ("postgresql://app@[::1]:6000/shop", ("[::1]:6000",), "app", "shop", None),
        ("postgresql://app@h1:5001,h2:5002/shop", ("h1:5001", "h2:5002"), "app", "shop", None),
        ("postgresql://app@/shop?host=/run/pg&port=5433", ("/run/pg/.s.PGSQL.5433",), "app", "shop", None),
        ("postgresql://db/shop?user=app&password=p%26q", ("db:5432",), "app", "shop", "p&q"),
        ("host=db port=5433 user=app dbname=shop", ("db:5433",), "app", "shop", None),
        (r"host = db user='a b' password='it\'s \\ here' dbname=shop", ("db:5432",), "a b", "shop", r"it's \ here"),
        ("host=h1,h2 port=5433 user=app", ("h1:5433", "h2:5433"), "app", "app", None),
        ("hostaddr=::1 user=app", ("[::1]:5432",), "app", "app", None),
    ],
)
def test_both_forms_are_read(
    text: str, endpoints: tuple[str, ...], user: str, dbname: str, password: str | None
) -> None:
    """A DSN that works with psql must work with --server."""
    dsn = read(text)
    assert (dsn.endpoints, dsn.user, dsn.dbname, dsn.password) == (endpoints, user, dbname, password)


def test_what_the_string_leaves_out_comes_from_the_environment() -> None:
    """The order is libpq's: string, then PG*, then defaults."""
    dsn = read("host=db", PGUSER="env", PGPASSWORD="p", PGDATABASE="shop", PGHOST="elsewhere", PGSSLMODE="require")
    assert (dsn.endpoints, dsn.user, dsn.dbname, dsn.password) == (("db:5432",), "env", "shop", "p")
    assert dsn.tls == {"mode": "require"}


def test_tls_words_are_translated() -> None:
    """`system` is what forebay does without a file."""
    assert read("host=db sslmode=verify-full sslrootcert=/ca.crt").tls == {"mode": "verify-full", "ca": "/ca.crt"}
    assert read("host=db sslmode=verify-full sslrootcert=system").tls == {"mode": "verify-full"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("postgresql://app@db/shop?sslmod=require", 'did you mean "sslmode"'),
        ("host=db port=none", '"none" is not a port'),
        ("host=db port=70000", "not a port from 1 to 65535"),
        ("host=h1,h2,h3 port=1,2", "3 hosts, but 2 ports"),
        ("shop", "neither a URI nor pairs"),
        ("host='db", "neither a URI nor pairs"),
    ],
)
def test_what_cant_be_read_is_refused_with_the_reason(text: str, words: str) -> None:
    """A typing error would else be a connection to somewhere else."""
    with pytest.raises(Failure) as caught:
        read(text)
    assert caught.value.exit is Exit.USAGE
    assert words.lower() in f"{caught.value.message} {caught.value.hint}".lower()


def test_no_password_is_printed() -> None:
    """A Dsn ends up in tracebacks and logs."""
    assert "hidden" not in repr(read("postgresql://app:hidden@db/shop"))


def test_the_password_comes_from_the_first_line_of_a_passfile_that_fits(tmp_path: Path) -> None:
    """As libpq finds it; escapes included."""
    passfile = tmp_path / "pass"
    passfile.write_text("# a comment\nother:*:*:app:no\ndb:5432:shop:app:a\\:b\\\\c\n*:*:*:*:late\n")
    passfile.chmod(0o600)
    assert read(f"host=db dbname=shop user=app passfile={passfile}").password == "a:b\\c"
    assert read(f"host=db dbname=blog user=app passfile={passfile}").password == "late"


def test_a_passfile_that_others_can_read_is_passed_over(tmp_path: Path) -> None:
    """libpq does so too."""
    passfile = tmp_path / "pass"
    passfile.write_text("*:*:*:*:p\n")
    passfile.chmod(0o644)
    assert read(f"host=db user=app passfile={passfile}").password is None
