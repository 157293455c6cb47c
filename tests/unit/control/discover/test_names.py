"""Topology out of the name system: addresses, services, how long they hold, and ways in which there is no answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from forebay.control.discover import registry
from forebay.control.discover.member import Member, Role, Sighting, SourceFailed
from forebay.control.discover.registration import Means

from tests.harness.zone import Zone, serving

SERVER_FAILURE = 2


async def look(address: str, zone: Zone, timeout_s: float = 1.0) -> Sighting:
    """One look at the zone."""
    mark = "&" if "?" in address else "?"
    source = registry.build(f"{address}{mark}server=127.0.0.1:{zone.port}", Means(timeout_s=timeout_s))
    return await source.look()


def test_names_lead_to_members_for_as_long_as_their_records_hold() -> None:
    """An alias may hold for less than what it leads to: it is what a failover changes."""

    async def story() -> None:
        async with serving() as zone:
            zone.records = {
                ("db.test", "A"): (30, ["10.0.0.2", "10.0.0.1"]),
                ("db.test", "AAAA"): (20, ["fd00::1"]),
                ("writer.test", "CNAME"): (5, ["host.test."]),
                ("host.test", "A"): (60, ["10.0.0.9"]),
                ("_postgres._tcp.test", "SRV"): (7, ["10 5 5433 b.test.", "0 5 5432 a.test."]),
                ("_none._tcp.test", "SRV"): (7, ["0 0 0 ."]),
            }
            seen = await look("dns://db.test:6000", zone)
            assert [(each.host, each.port, each.role) for each in seen.members] == [
                (host, 6000, Role.UNKNOWN) for host in ("10.0.0.1", "10.0.0.2", "fd00::1")
            ]
            assert (seen.ttl_s, seen.asked) == (20, f"127.0.0.1:{zone.port}")
            seen = await look("dns://writer.test?role=primary", zone)
            assert seen.members == (
                Member(host="10.0.0.9", port=5432, role=Role.PRIMARY, source="dns", name="writer.test"),
            )
            assert seen.ttl_s == 5
            seen = await look("dns+srv://_postgres._tcp.test", zone)
            assert [(each.host, each.port, each.name) for each in seen.members] == [
                ("a.test", 5432, "a.test"),
                ("b.test", 5433, "b.test"),
            ]
            assert seen.ttl_s == 7
            with pytest.raises(SourceFailed, match="names no member"):
                await look("dns+srv://_none._tcp.test", zone)

    asyncio.run(story())


def test_a_server_that_knows_one_kind_of_address_alone_is_enough() -> None:
    """Many fail at AAAA, where a machine has IPv4 only."""

    async def story() -> None:
        async with serving() as zone:
            zone.records[("db.test", "A")] = (30, ["10.0.0.1"])
            zone.codes["AAAA"] = SERVER_FAILURE
            assert [each.host for each in (await look("dns://db.test", zone)).members] == ["10.0.0.1"]

    asyncio.run(story())


@pytest.mark.parametrize("kind", ["A", "AAAA"])
def test_addresses_of_a_kind_that_fails_are_kept(kind: str) -> None:
    """No answer is not the answer that they are gone: half of the cluster would be."""

    async def story() -> None:
        async with serving() as zone:
            source = registry.build(f"dns://db.test?server=127.0.0.1:{zone.port}", Means(timeout_s=5))

            async def hosts() -> list[str]:
                return [each.host for each in (await source.look()).members]

            zone.records = {("db.test", "A"): (30, ["10.0.0.1"]), ("db.test", "AAAA"): (20, ["fd00::1"])}
            assert await hosts() == ["10.0.0.1", "fd00::1"]
            zone.codes[kind] = SERVER_FAILURE
            other, address = ("AAAA", "fd00::2") if kind == "A" else ("A", "10.0.0.2")
            zone.records["db.test", other] = (30, [address])
            assert sorted(await hosts()) == sorted([address, "10.0.0.1" if kind == "A" else "fd00::1"])
            del zone.codes[kind], zone.records["db.test", kind]
            assert await hosts() == [address], "it has none any more"

    asyncio.run(story())


def _none(zone: Zone) -> None:
    zone.records[("db.test", "TXT")] = (30, ["x"])


def _fails(zone: Zone) -> None:
    zone.codes.update({"A": SERVER_FAILURE, "AAAA": SERVER_FAILURE})


def _silent(zone: Zone) -> None:
    zone.is_silent = True


def _crowd(zone: Zone) -> None:
    zone.records[("db.test", "A")] = (30, [f"10.0.0.{number}" for number in range(65)])


BAD: dict[str, tuple[Callable[[Zone], None], str]] = {
    "no such name": (lambda _: None, "there is no name db.test"),
    "no address": (_none, "names no member"),
    "a failure": (_fails, "the name servers can't answer for db.test"),
    "silence": (_silent, "db.test within 0.2 s"),
    "a crowd": (_crowd, "names more than 64 members"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_answer_without_addresses_is_a_failure(case: str) -> None:
    """Whoever asks keeps what it knew; an empty cluster would send its clients away."""
    prepare, told = BAD[case]

    async def story() -> None:
        async with serving() as zone:
            prepare(zone)
            began = time.monotonic()
            with pytest.raises(SourceFailed) as failed:
                # Who answers has the time that a busy machine takes.
                await look("dns://db.test", zone, timeout_s=0.2 if zone.is_silent else 10)
            assert told in str(failed.value)
            assert time.monotonic() - began < 10
            assert zone.asked["A"] >= 1

    asyncio.run(story())
