"""What sources tell of weights and zones, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from forebay.config import load_text
from forebay.config.preferences import Said
from forebay.config.resolved import Preference
from forebay.control.discover import Discovery, dns, etcd, patroni
from forebay.control.discover.member import Member, Role, Sighting
from forebay.control.discover.told import Account, Told, account_of

from tests.harness.web import Reply
from tests.unit.control.discover.test_http_sources import always, look, serving
from tests.unit.control.discover.test_kubernetes import Api, api_server, endpoint, slice_of
from tests.unit.control.discover.test_kubernetes import look as look_at_service


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (None, (None, None)),
        ({"nofailover": True, "clonefrom": True}, (None, None)),
        ({"forebay_weight": 7, "forebay_zone": "eu-west-1a"}, (7, "eu-west-1a")),
        ({"forebay_weight": "0"}, (0, None)),
        ({"forebay_weight": 7, "noloadbalance": True}, (0, None)),
        ({"forebay_weight": 101, "forebay_zone": "a b"}, (None, None)),
        ({"forebay_weight": -1, "forebay_zone": 5}, (None, None)),
        ({"forebay_weight": True}, (None, None)),
        ({"forebay_weight": 1.5}, (None, None)),
        ({"forebay_weight": None}, (None, None)),
    ],
)
def test_patronis_tags_count_over_rest_and_in_etcd(tags: dict[str, Any] | None, said: tuple[Any, Any]) -> None:
    async def story() -> Member:
        cluster = {"members": [{"name": "a", "role": "replica", "host": "db", **({"tags": tags} if tags else {})}]}
        async with serving(always(Reply(body=cluster))) as web:
            return (await look(f"patroni://{web.host}")).members[0]

    member = asyncio.run(story())
    assert (member.weight, member.zone) == said
    data = etcd._MemberData(conn_url="postgres://db:5432/postgres", tags=tags)
    kept = etcd._member("a", data, None, 0)
    assert kept is not None
    assert (kept.weight, kept.zone) == said
    assert patroni.weight_of(tags) == said[0]


def test_kubernetes_tells_zones(tmp_path: Path) -> None:
    api = Api(
        slices=[slice_of("shop", {**endpoint("10.1.0.1", "shop-1"), "zone": "b"}, endpoint("10.1.0.2", "shop-2"))]
    )

    async def story() -> list[str | None]:
        async with api_server(api, tmp_path) as web:
            return [each.zone for each in (await look_at_service(web, tmp_path, "shop")).members]

    assert asyncio.run(story()) == ["b", None]


@pytest.mark.parametrize(
    ("records", "weights"),
    [
        ([(0, 0), (0, 0)], [None, None]),
        ([(0, 60), (0, 20), (0, 0)], [60, 20, 1]),
        ([(5, 65535), (5, 6554), (5, 1)], [100, 10, 1]),
        # Only the lowest priority is asked, as long as somebody of it can be reached.
        ([(10, 0), (20, 60)], [None, 0]),
        ([], []),
    ],
)
def test_srv_records_have_weights(records: list[tuple[int, int]], weights: list[int | None]) -> None:
    assert dns._weights([SimpleNamespace(priority=p, weight=w) for p, w in records]) == weights


def seen(*members: tuple[str, int | None, str | None]) -> Sighting:
    """An answer of a source."""
    told = (
        Member(host=host, port=5432, role=Role.REPLICA, source="etcd", weight=weight, zone=zone)
        for host, weight, zone in members
    )
    return Sighting(members=tuple(told), asked="x")


def test_what_a_source_says_of_them_outlives_the_process() -> None:
    account = account_of(seen(("b", 3, None), ("a", None, "z"), ("c", None, None)))
    assert account.said == (("a:5432", Said(None, "z")), ("b:5432", Said(3, None)))
    assert Account.of(json.loads(json.dumps(account.words()))) == account
    assert Account.of({"endpoints": ["a:1"], "named": None}) == Account(("a:1",), None), "of a release before"


def test_a_weight_that_changes_is_put_in_force_and_moves_nobody() -> None:
    """The endpoints are the same: they are not asked anew, as if nobody knew them."""
    text = "[server_defaults]\nzone = 'z'\n[databases.app]\nendpoints = ['a']\ntopology = 'etcd'\nrole = 'any'\n"
    source = "topology_source = 'etcd://h/s'\npoll_user = 'app'\n[users.app]\nsecret = { env = 'A' }\n"
    loaded = load_text(text + source, environ={"A": "x"})
    assert loaded.config is not None, loaded.findings
    config, moves = loaded.config, []

    async def move() -> None:
        moves.append(discovery.overlaid(config.engine, config.topologies).databases[0])

    async def story() -> None:
        told = Told(config.topologies[0], SimpleNamespace(), lambda *_: None, move)  # type: ignore[arg-type]
        discovery._followers["app"] = (config.topologies[0], told)
        told._poll.start = lambda: None  # type: ignore[method-assign]
        await told._take(seen(("a", None, None)))
        assert moves == []
        before = told._poll
        await told._take(seen(("a", 4, "z")))
        await told._take(seen(("a", 4, "z")))
        assert told._poll is before
        (row,) = discovery.rows()
        assert (row.weight, row.zone) == (4, "z")

    discovery = Discovery(lambda *_: None, move, {})
    asyncio.run(story())
    (database,) = moves
    assert database.endpoints == ("a:5432",)
    assert database.preferences == (Preference("a:5432", 4, "z", True),)
