"""What is said to a directory, byte by byte, and what of its answers is believed."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from forebay.config.access.directory import DirectoryFault, directory
from forebay.config.access.shapes import Directory
from forebay.control.ldap import ber
from forebay.control.ldap import filter as filters
from forebay.control.ldap.judge import bound_name
from hypothesis import given
from hypothesis import strategies as st

SERVERS = (("a", 389),)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("(uid=app)", "a30a" "0403756964" "0403617070"),
        ("uid=app", "a30a" "0403756964" "0403617070"),
        ("(uid=*)", "8703756964"),
        ("(uid=a*b*c)", "a410" "0403756964" "3009" "800161" "810162" "820163"),
        ("(!(a=b))", "a208" "a306" "040161" "040162"),
        ("(&(a=b)(c>=d))", "a010" "a306" "040161" "040162" "a506" "040163" "040164"),
        (r"(a=\2a)", "a306" "040161" "04012a"),
    ],
)  # fmt: skip
def test_a_filter_is_written_as_rfc_4511_says(text: str, wanted: str) -> None:
    """A filter that means something else finds somebody else."""
    assert filters.encode(text).hex() == wanted


@pytest.mark.parametrize("text", ["", "(", "(a=b", "(a=b))", "(a)", "(=b)", "(&(a=b)", r"(a=\zz)", "(" * 40])
def test_a_text_that_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(filters.BadFilter):
        filters.encode(text)


@given(st.text(max_size=40))
def test_a_user_s_name_is_one_value_of_a_filter(user: str) -> None:
    """Whatever the name, the filter compares with it and nothing else."""
    encoded = filters.encode(f"(uid={filters.escaped(user)})")
    ((tag, contents),) = ber.elements(encoded)
    attribute, value = ber.elements(contents)
    assert (tag, attribute[1], value[1].decode()) == (0xA3, b"uid", user)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """A directory is foreign input."""
    with contextlib.suppress(ber.BadMessage):
        list(ber.elements(data))


class Counted(bytes):
    """Bytes that count how many of them are copied out."""

    copied = 0

    def __getitem__(self, which: Any) -> Any:
        taken = super().__getitem__(which)
        Counted.copied += len(taken) if isinstance(taken, bytes) else 0
        return Counted(taken) if isinstance(taken, bytes) else taken


def test_the_work_on_a_message_grows_with_its_length() -> None:
    """A hostile directory's million bytes may be half a million elements: what is behind one is not copied for it."""
    count = 2000
    assert sum(1 for _ in ber.elements(Counted(b"\x04\x00" * count))) == count
    assert Counted.copied < 20 * count


def test_a_user_s_name_is_one_value_of_a_name() -> None:
    """Otherwise a user could be somebody in another part of the directory."""
    people = Directory(SERVERS, prefix="uid=", suffix=",ou=people")
    assert bound_name(people, "app,ou=admins") == r"uid=app\2cou\3dadmins,ou=people"
    assert bound_name(people, " a+b ") == r"uid=\20a\2bb\20,ou=people"
    assert bound_name(Directory(SERVERS, suffix="@example.org"), "a.b") == "a.b@example.org"


def test_options_are_a_directory_or_say_what_is_missing() -> None:
    url = directory({"ldapurl": "ldaps://h:700/dc%3Dx??one?(a=b)"})
    assert (url.servers, url.is_tls, url.base, url.attribute, url.scope, url.filter) == (
        (("h", 700),), True, "dc=x", "uid", "one", "(a=b)",
    )  # fmt: skip
    assert directory({"ldapserver": "a b", "ldapprefix": "x"}).servers == (("a", 389), ("b", 389))
    for options, words in (
        ({"ldapprefix": "x"}, "ldapserver"),
        ({"ldapserver": "a"}, "ldapbasedn"),
        ({"ldapserver": "a", "ldapprefix": "x", "ldapport": "70000"}, "ldapport"),
        ({"ldapserver": "a", "ldapprefix": "x", "ldapscheme": "ldaps", "ldaptls": "1"}, "ldaptls"),
        ({"ldapurl": "http://h"}, "ldapurl"),
        *(({"ldapserver": "a", "ldapprefix": "x", "ldaptls": word}, "0 or 1") for word in ("on", "true", "yes", "")),
    ):
        with pytest.raises(DirectoryFault, match=words):
            directory(options)
