"""What of a source's answer counts for a database."""

from __future__ import annotations

import pytest
from forebay.control.discover.member import Member, Role, Sighting, SourceFailed
from forebay.control.discover.told import Account, account_of


def sighting(*members: tuple[str, Role]) -> Sighting:
    """An answer of a source."""
    return Sighting(
        members=tuple(Member(host=h, port=5432, role=role, source="etcd") for h, role in members), asked="x"
    )


@pytest.mark.parametrize(
    ("members", "account"),
    [
        # In one order whatever the answer's, so that equal answers move nothing.
        ([("b", Role.REPLICA), ("a", Role.PRIMARY)], Account(("a:5432", "b:5432"), ("a:5432",))),
        # Nobody holds the lease: nobody may write.
        ([("a", Role.REPLICA), ("b", Role.REPLICA)], Account(("a:5432", "b:5432"), ())),
        # A name server knows of no roles: what the endpoints say decides.
        ([("fd00::1", Role.UNKNOWN)], Account(("[fd00::1]:5432",), None)),
        # A host that is none may be anything to whoever reads it, such as the path of a socket.
        ([("/tmp", Role.PRIMARY), ("a", Role.REPLICA)], Account(("a:5432",), ())),
    ],
)
def test_a_sighting_is_endpoints_and_who_may_write(members: list[tuple[str, Role]], account: Account) -> None:
    assert account_of(sighting(*members)) == account


def test_a_sighting_without_a_host_that_can_be_used_is_none() -> None:
    with pytest.raises(SourceFailed, match="no host"):
        account_of(sighting(("a b", Role.PRIMARY)))
