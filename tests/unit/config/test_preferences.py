"""What is said of endpoints: by which names, what counts before what, and what of it does nothing."""

from __future__ import annotations

import pytest
from forebay.config import load_text
from forebay.config.preferences import Said, Wishes, preferences
from forebay.config.resolved import Preference

ENDPOINTS = ("10.0.1.5:5432", "10.0.1.6:5432", "db3:5432", "[fd00::1]:5432", "/run/.s.PGSQL.5432")


def test_the_most_particular_counts_and_the_configuration_before_a_source() -> None:
    said = Wishes(
        weights={"10.0.1.5": "3", "10.0.1.5:5432": "0", "10.0.0.0/16": "7", "10.0.1.0/24": "8"},
        zones={"10.0.1.0/24": "a", "fd00::/8": "b", "/run/.s.PGSQL.5432": "a"},
        zone="a",
    )
    told = {"10.0.1.6:5432": Said(5, "z"), "db3:5432": Said(9, "c"), "[fd00::1]:5432": Said(None, "a")}
    assert preferences(said, ENDPOINTS, told) == (
        Preference("10.0.1.5:5432", 0, "a", True),
        Preference("10.0.1.6:5432", 8, "a", True),
        Preference("db3:5432", 9, "c", False),
        Preference("[fd00::1]:5432", 1, "b", False),
        Preference("/run/.s.PGSQL.5432", 1, "a", True),
    )
    assert preferences(Wishes({}, {}, ""), ENDPOINTS, {"db3:5432": Said(None, "c")}) == (
        Preference("db3:5432", 1, "c", False),
    ), "who does not know where it is, is near to nobody"


def resolved(rest: str, *, environ: dict[str, str] | None = None, defaults: str = "") -> tuple[Preference, ...]:
    """What a database of three endpoints is given."""
    text = f"[server_defaults]\n{defaults}\n[databases.app]\nendpoints = ['db1', 'db2:5433', '10.0.1.5']\n{rest}\n"
    loaded = load_text(text, environ=environ or {})
    assert loaded.config is not None, loaded.findings
    return loaded.config.engine.databases[0].preferences


def test_names_are_completed_as_those_of_endpoints() -> None:
    tables = "weights = { db1 = 2, 'db2:5433' = 0 }\nzones = { '10.0.1.0/24' = 'a', db2 = 'b' }"
    expected = (
        Preference("db1:5432", 2, "", False),
        Preference("db2:5433", 0, "b", False),
        Preference("10.0.1.5:5432", 1, "a", True),
    )
    assert resolved(tables, defaults="zone = 'a'") == expected
    environ = {
        "FOREBAY_DATABASES__app__WEIGHTS": "db1=2, db2:5433=0",
        "FOREBAY_DATABASES__app__ZONES": "10.0.1.0/24=a,db2=b",
        "FOREBAY_SERVER_DEFAULTS_ZONE": "a",
    }
    assert resolved("", environ=environ) == expected


@pytest.mark.parametrize(
    ("rest", "found"),
    [
        ("weights = { db1 = 101 }", ("FBC013", 'databases.app.weights."db1"')),
        ("weights = { db1 = -1 }", ("FBC013", "0 to 100")),
        ("weights = { db1 = 'many' }", ("FBC013", "0 to 100")),
        ("weights = { db1 = true }", ("FBC010", "true or false")),
        ("weights = 3", ("FBC010", "a table")),
        ("zones = { db1 = 'a b' }", ("FBC010", "a zone's name")),
        ("zones = { '10.0.1.1/24' = 'a' }", ("FBC", "bits behind its length")),
        ("weights = { db4 = 2 }", ("FBC180", "names db4")),
        ("weights = { '10.0.2.0/24' = 2 }", ("FBC180", "10.0.2.0/24")),
        ("weights = { db1 = 0, db2 = 0, '10.0.1.5' = 0 }", ("FBC181", "weight of 0")),
        ("weights = { db1 = 2 }\nload_balance_hosts = 'disable'", ("FBC182", "load_balance_hosts")),
        ("weights = { db1 = 2 }\ntopology = 'poll'\npoll_user = 'app'", ("FBC182", "the primary alone")),
        ("zones = { db1 = 'a' }", ("FBC182", "where forebay is")),
        ("zones = { db1 = 'a' }\nzone = 'b'", ("FBC182", 'zone "b"')),
    ],
)
def test_what_is_no_use_is_told(rest: str, found: tuple[str, str]) -> None:
    text = f"[databases.app]\nendpoints = ['db1', 'db2', '10.0.1.5']\n{rest}\n[users.app]\nsecret = {{ env = 'A' }}\n"
    findings = load_text(text, environ={"A": "x"}).findings
    code, words = found
    assert any(one.code.startswith(code) and words in str(one) for one in findings), [str(one) for one in findings]


@pytest.mark.parametrize(
    "rest",
    [
        "weights = { db1 = 2, db2 = 0 }",
        "zones = { db1 = 'a', db2 = 'b' }\nzone = 'b'",
        "weights = { db1 = 2 }\ntopology = 'poll'\npoll_user = 'app'\nrole = 'replica'",
        "weights = { db1 = 2 }\ntopology = 'poll'\npoll_user = 'app'\nread_write_split = true",
        # The source may name it.
        "weights = { db7 = 2 }\nrole = 'any'\ntopology = 'dns'\ntopology_source = 'dns://db'\npoll_user = 'app'",
    ],
)
def test_what_is_of_use_is_not_told(rest: str) -> None:
    text = f"[databases.app]\nendpoints = ['db1', 'db2', '10.0.1.5']\n{rest}\n[users.app]\nsecret = {{ env = 'A' }}\n"
    assert not [str(one) for one in load_text(text, environ={"A": "x"}).findings]
