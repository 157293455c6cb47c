"""Topology out of Kubernetes, beside a web server that answers as an API server does.

No Kubernetes runs here: objects are those of its API reference, and labels and annotations those of the operators'
documentation, with what the source does not ask for left out.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from forebay.control.discover import registry
from forebay.control.discover.member import Lease, Role, Sighting, SourceFailed
from forebay.control.discover.registration import Means

from tests.harness.certificates import Authority
from tests.harness.web import Reply, Request, Web, serving

SLICES = "/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices"
PODS = "/api/v1/namespaces/prod/pods/"


def endpoint(address: str, pod: str | None = None, **conditions: bool) -> dict[str, Any]:
    """One of a slice."""
    target = {"targetRef": {"kind": "Pod", "namespace": "prod", "name": pod, "uid": "0"}} if pod else {}
    return {"addresses": [address], "conditions": {"ready": True, **conditions}, "nodeName": "n", **target}


def slice_of(service: str, *endpoints: dict[str, Any], ports: Any = None, notes: Any = None) -> dict[str, Any]:
    """A slice of a service's."""
    return {
        "metadata": {
            "name": f"{service}-x7k2p",
            "labels": {"kubernetes.io/service-name": service},
            "annotations": notes or {},
        },
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": ports or [{"name": "postgres", "port": 5432, "protocol": "TCP"}],
    }


@dataclass
class Api:
    """slices: by service. labels: of pods. may: what the account may do. token: the only one that is accepted."""

    slices: list[dict[str, Any]] = field(default_factory=list)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    may: tuple[str, ...] = (SLICES, PODS)
    token: str = "first"

    async def answer(self, request: Request) -> Reply:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return Reply(401, {"kind": "Status", "reason": "Unauthorized"})
        url = urlsplit(request.path)
        if not url.path.startswith(self.may):
            return Reply(403, {"kind": "Status", "reason": "Forbidden"})
        if url.path == SLICES:
            (selector,) = parse_qs(url.query)["labelSelector"]
            wanted = selector.removeprefix("kubernetes.io/service-name in (").removesuffix(")").split(",")
            items = [each for each in self.slices if each["metadata"]["labels"]["kubernetes.io/service-name"] in wanted]
            return Reply(body={"kind": "EndpointSliceList", "items": items})
        name = url.path.removeprefix(PODS)
        if name not in self.labels:
            return Reply(404, {"kind": "Status", "reason": "NotFound"})
        assert "as=PartialObjectMetadata" in request.headers["accept"]
        return Reply(body={"kind": "PartialObjectMetadata", "metadata": {"name": name, "labels": self.labels[name]}})


@asynccontextmanager
async def api_server(api: Api, folder: Path) -> AsyncIterator[Web]:
    """Behind TLS, with the folder that a pod has of its account."""
    authority = Authority(folder)
    pair = authority.issue("api", "127.0.0.1")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.certificate, pair.key)
    (folder / "token").write_text(f"{api.token}\n")
    async with serving(api.answer, tls) as web:
        yield web


async def look(web: Web, folder: Path, services: str, options: str = "") -> Sighting:
    """One look, as from a pod."""
    environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(web.port)}
    address = f"kubernetes://prod/{services}?account={folder}{options}"
    source = registry.build(address, Means(environment=environment))
    try:
        return await source.look()
    finally:
        await source.close()


def roles(seen: Sighting) -> dict[str | None, tuple[str, Role, str | None]]:
    """What matters of members, by name."""
    return {each.name: (f"{each.host}:{each.port}", each.role, each.state) for each in seen.members}


def test_roles_are_those_that_operators_write_on_pods(tmp_path: Path) -> None:
    """Each has its own label, and an older one beside it that may be behind."""
    api = Api(
        slices=[
            slice_of(
                "shop-r",
                endpoint("10.1.0.1", "shop-1"),
                endpoint("10.1.0.2", "shop-2"),
                endpoint("10.1.0.3", "shop-3", ready=False, serving=True, terminating=True),
                endpoint("10.1.0.4", "shop-4", ready=False),
                endpoint("10.1.0.5", "gone"),
            ),
            slice_of("acid", endpoint("10.2.0.1", "acid-0"), notes={"leader": "acid-0", "transitions": "7"}),
            slice_of("acid-repl", endpoint("10.2.0.2", "acid-1"), endpoint("10.2.0.1", "acid-0")),
            slice_of("hippo", endpoint("10.3.0.1", "hippo-0"), endpoint("10.3.0.2", "hippo-1")),
            slice_of("bare", endpoint("10.4.0.1")),
            slice_of("other", endpoint("10.9.0.1", "other-1")),
        ],
        labels={
            "shop-1": {"cnpg.io/instanceRole": "replica", "role": "primary"},
            "shop-2": {"cnpg.io/instanceRole": "primary", "role": "replica"},
            "shop-3": {"role": "replica"},
            "shop-4": {"cnpg.io/cluster": "shop"},
            "acid-0": {"application": "spilo", "spilo-role": "master"},
            "acid-1": {"application": "spilo", "spilo-role": "replica"},
            "hippo-0": {"postgres-operator.crunchydata.com/role": "master"},
            "hippo-1": {"postgres-operator.crunchydata.com/role": "standby_leader"},
        },
    )

    async def story() -> None:
        async with api_server(api, tmp_path) as web:
            seen = await look(web, tmp_path, "shop-r")
            assert roles(seen) == {
                "shop-1": ("10.1.0.1:5432", Role.REPLICA, "ready"),
                "shop-2": ("10.1.0.2:5432", Role.PRIMARY, "ready"),
                "shop-3": ("10.1.0.3:5432", Role.REPLICA, "terminating"),
                "shop-4": ("10.1.0.4:5432", Role.UNKNOWN, "not ready"),
                "gone": ("10.1.0.5:5432", Role.UNKNOWN, "ready"),
            }
            assert (seen.lease, seen.asked) == (None, web.host)
            seen = await look(web, tmp_path, "acid,acid-repl")
            assert {name: role for name, (_, role, _) in roles(seen).items()} == {
                "acid-0": Role.PRIMARY,
                "acid-1": Role.REPLICA,
            }
            assert seen.lease == Lease(holder="acid-0", term=7)
            assert seen.holder == seen.primaries[0]
            seen = await look(web, tmp_path, "hippo")
            assert [each.role for each in seen.members] == [Role.PRIMARY, Role.REPLICA]
            assert roles(await look(web, tmp_path, "bare")) == {None: ("10.4.0.1:5432", Role.UNKNOWN, "ready")}

    asyncio.run(story())


def test_the_port_is_postgresqls(tmp_path: Path) -> None:
    """A service often has that of an exporter or of a pooler beside it."""
    ports = [{"name": "metrics", "port": 9187}, {"name": "pool", "port": 6000}, {"name": "postgresql", "port": 5433}]
    numbers = [{"name": "x", "port": 9187}, {"name": "y", "port": 5432}]
    api = Api(
        slices=[slice_of("a", endpoint("10.0.0.1"), ports=ports), slice_of("b", endpoint("10.0.0.1"), ports=numbers)]
    )

    async def story() -> None:
        async with api_server(api, tmp_path) as web:
            for service, options, port in (("a", "", 5433), ("a", "&port=pool", 6000), ("b", "", 5432)):
                seen = await look(web, tmp_path, service, options)
                assert [each.port for each in seen.members] == [port]
            with pytest.raises(SourceFailed, match="service a of namespace prod names no member"):
                await look(web, tmp_path, "a", "&port=none")

    asyncio.run(story())


def test_what_stands_in_the_way_is_told(tmp_path: Path) -> None:
    """A Role that was not written is the first thing that goes wrong."""
    crowd = [endpoint(f"10.0.0.{number}") for number in range(65)]
    api = Api(slices=[slice_of("shop", endpoint("10.0.0.1", "shop-1")), slice_of("crowd", *crowd)])

    async def refused(web: Web, service: str) -> tuple[str, str]:
        with pytest.raises(SourceFailed) as failed:
            await look(web, tmp_path, service)
        assert api.token not in str(failed.value)
        return str(failed.value), str(failed.value.hint)

    async def story() -> None:
        async with api_server(api, tmp_path) as web:
            assert "names no member" in (await refused(web, "none"))[0]
            assert "names more than 64 members" in (await refused(web, "crowd"))[0]
            api.may = (SLICES,)
            message, hint = await refused(web, "shop")
            assert f"{PODS}shop-1: HTTP status 403" in message
            assert "get pods" in hint
            api.may, api.token = (PODS,), "second"
            assert "HTTP status 401" in (await refused(web, "shop"))[0]
            (tmp_path / "token").write_text("second")
            assert "HTTP status 403" in (await refused(web, "shop"))[0], "the token is read again"
            (tmp_path / "token").unlink()
            message, hint = await refused(web, "shop")
            assert "token can't be read" in message
            assert "automountServiceAccountToken" in hint

    asyncio.run(story())
