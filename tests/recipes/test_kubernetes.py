"""docs/howto/kubernetes.md: the manifests are valid, and what they say is what happens when their container runs.

No Kubernetes runs here: its API server is a web server with the answers of the API reference.
"""

from __future__ import annotations

import asyncio
import copy
import signal
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate
import psycopg
import pytest

from tests.harness import hosts, island
from tests.harness.certificates import Authority
from tests.harness.hosts import Host, Network
from tests.harness.pod import Manifest, Pod, manifests, one
from tests.harness.postgres import PASSWORD, Postgres
from tests.harness.target import Target
from tests.harness.web import Reply, Request, serving
from tests.recipes import fleet
from tests.recipes.fleet import CLIENT, EXAMPLES, Newcomers, eventually, stayer

MANIFEST = EXAMPLES / "kubernetes/forebay.yaml"
VERSIONS = ("1.31", "1.34", "1.37")
PODS = ("10.0.0.21", "10.0.0.22")
API_PORT = 6443
TOKEN = "the pod's own"

needs_a_namespace = pytest.mark.skipif(not island.is_possible(), reason="needs root and iproute2")


@pytest.fixture(scope="module")
def objects() -> list[Manifest]:
    """What `kubectl apply` would get."""
    return manifests(MANIFEST)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_are_what_the_api_takes(objects: list[Manifest], version: str) -> None:
    """By the API's own schemas; a field that it does not know is refused."""
    for each in objects:
        kubernetes_validate.validate(dict(each), version, strict=True)
    wrong = copy.deepcopy(dict(one("Deployment", objects)))
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 60
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_the_manifests_mean_each_other(objects: list[Manifest]) -> None:
    """A name that leads nowhere is found in a cluster alone, at the worst moment."""
    deployment = one("Deployment", objects)["spec"]
    pod = deployment["template"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    (container,) = pod["containers"]
    service = one("Service", objects)["spec"]
    for selector in (
        deployment["selector"]["matchLabels"],
        service["selector"],
        one("PodDisruptionBudget", objects)["spec"]["selector"]["matchLabels"],
        pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    names = {each["name"] for each in container["ports"]}
    probes = ("startupProbe", "readinessProbe", "livenessProbe")
    assert {container[probe]["httpGet"]["port"] for probe in probes} <= names
    assert {each["targetPort"] for each in service["ports"]} <= names
    binding = one("RoleBinding", objects)
    account = one("ServiceAccount", objects)["metadata"]["name"]
    assert pod["serviceAccountName"] == account == binding["subjects"][0]["name"]
    assert binding["roleRef"]["name"] == one("Role", objects)["metadata"]["name"]
    assert {each["metadata"]["namespace"] for each in objects} == {"database"}
    # A rolling update takes away none before another one is ready, and neither does an eviction.
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert one("PodDisruptionBudget", objects)["spec"]["minAvailable"] < deployment["replicas"]


def allowed(objects: list[Manifest], method: str, path: str) -> bool:
    """Whether the Role lets its account ask the API for a path of its namespace."""
    words = path.partition("?")[0].strip("/").split("/")
    group = words[1] if words[0] == "apis" else ""
    at = words.index("namespaces")
    kind, named = words[at + 2], len(words) > at + 3
    verb = "get" if named else "list"
    return method == "GET" and any(
        group in rule["apiGroups"] and kind in rule["resources"] and verb in rule["verbs"]
        for rule in one("Role", objects)["rules"]
    )


@dataclass
class ApiServer:
    """An API server on a host's loopback, in a thread of its own; it allows what the Role of the manifests does."""

    host: Host
    objects: list[Manifest]
    tls: ssl.SSLContext
    port: int = 0
    _loop: asyncio.AbstractEventLoop | None = None

    async def _answer(self, request: Request) -> Reply:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Reply(401, {"kind": "Status", "reason": "Unauthorized"})
        if not allowed(self.objects, request.method, request.path):
            return Reply(403, {"kind": "Status", "reason": "Forbidden"})
        if "/endpointslices" in request.path:
            return Reply(body={"kind": "EndpointSliceList", "items": [SLICE]})
        labels = {"cnpg.io/instanceRole": "primary"}
        return Reply(body={"kind": "PartialObjectMetadata", "metadata": {"name": "shop-1", "labels": labels}})

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with serving(self._answer, self.tls) as web:
            self.port = web.port
            ready.set()
            await self._over.wait()

    def __enter__(self) -> ApiServer:
        ready = threading.Event()
        run = lambda: asyncio.run(self._serve(ready))  # noqa: E731
        self._thread = threading.Thread(target=lambda: self.host.within(run))
        self._thread.start()
        assert ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(30)


SLICE: dict[str, Any] = {
    "metadata": {"name": "shop-r-x7k2p", "labels": {"kubernetes.io/service-name": "shop-r"}},
    "addressType": "IPv4",
    "endpoints": [
        {"addresses": [fleet.DATABASE], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": "shop-1"}}
    ],
    "ports": [{"name": "postgres", "port": 5432, "protocol": "TCP"}],
}


@dataclass
class Cluster:
    """The pods of the Deployment, with what a cluster has around them."""

    network: Network
    pods: list[Pod]
    apis: list[ApiServer]
    client: Host

    def target(self, pod: Pod, **changes: Any) -> Target:
        """Where the Service would send a client that this pod is to serve."""
        port = pod.port("postgres")
        return Target("pod", pod.host.address, port, **{
            "dbname": "shop", "user": "app", "password": PASSWORD.format("app"), **changes
        })  # fmt: skip

    def start(self, number: int) -> Pod:
        """Starts one, up to where its startupProbe passes."""
        pod, api = self.pods[number], self.apis[number]
        pod.start(KUBERNETES_SERVICE_HOST="127.0.0.1", KUBERNETES_SERVICE_PORT=str(api.port))
        probe = pod.container["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= 30

        def passes() -> bool:
            assert pod.program is not None
            assert pod.program.process.poll() is None, pod.program.log()[-3000:]
            return pod.passes("startupProbe")

        eventually(passes, "its startupProbe passes")
        return pod

    def console(self, pod: Pod, sql: str) -> list[dict[str, str | None]]:
        """A console command's rows."""
        target = self.target(pod, dbname="forebay", user="ops", password=PASSWORD.format("ops"))
        return fleet.answers(self.client, target, sql)


@pytest.fixture
def cluster(server: Postgres, tmp_path: Path, objects: list[Manifest]) -> Iterator[Cluster]:
    """Two pods that have not been started."""
    with server.target.connect(user="postgres", autocommit=True) as admin:
        if not admin.execute("select 1 from pg_roles where rolname = 'forebay_poll'").fetchone():
            admin.execute("create role forebay_poll login")
    account = tmp_path / "account"
    account.mkdir()
    authority = Authority(account)
    pair = authority.issue("api", "127.0.0.1")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.certificate, pair.key)
    (account / "token").write_text(TOKEN)
    secrets = {("forebay", name): PASSWORD.format(name) for name in ("app", "ops", "poll")}
    spec = one("Deployment", objects)["spec"]["template"]["spec"]
    with hosts.network(tmp_path) as network, fleet.postgresql(network, server):
        pods = [
            Pod(network, network.host(address), tmp_path / f"pod-{number}", objects, spec, secrets, account)
            for number, address in enumerate(PODS)
        ]
        with (
            ApiServer(pods[0].host, objects, tls) as first,
            ApiServer(pods[1].host, objects, tls) as second,
        ):
            yield Cluster(network, pods, [first, second], network.host(CLIENT))
            for program in network.programs:
                program.kill()


@needs_a_namespace
@pytest.mark.timeout(300)
def test_the_container_serves_with_what_the_cluster_tells_it(cluster: Cluster) -> None:
    """Configuration, secrets, service account and probes of the manifests, and PostgreSQL found through the API."""
    pod = cluster.start(0)
    assert pod.passes("readinessProbe")
    assert pod.passes("livenessProbe")
    client = stayer("client", cluster.client, cluster.target(pod))
    client.ask()
    client.rest()
    (row,) = cluster.console(pod, "show endpoints")
    assert (row["endpoint"], row["role"], row["source"]) == (f"{fleet.DATABASE}:5432", "primary", "kubernetes")
    port = pod.port("metrics")
    assert pod.host.get(f"http://{pod.host.address}:{port}/primary?database=shop")[0] == 200
    assert pod.host.get(f"http://{pod.host.address}:{port}/replica?database=shop")[0] == 503


@needs_a_namespace
@pytest.mark.timeout(300)
def test_a_pod_that_is_replaced_is_out_of_the_service_before_it_refuses_anybody(cluster: Cluster) -> None:
    """A rolling update: the next pod is ready, then SIGTERM; it ends within terminationGracePeriodSeconds by itself,
    although a transaction goes on for ever.
    """
    old = cluster.start(0)
    new = cluster.start(1)
    assert new.passes("readinessProbe")
    in_block = stayer("in a transaction", cluster.client, cluster.target(old))
    in_block.connection.execute("begin")
    with Newcomers(cluster.client, cluster.target(old)) as newcomers:
        newcomers.more(3)
        assert old.program is not None
        began = time.monotonic()
        old.program.process.send_signal(signal.SIGTERM)
        eventually(lambda: not old.passes("readinessProbe"), "its readinessProbe fails")
        assert old.passes("livenessProbe")
        # kube-proxy takes a moment to hear of it: whoever still comes is served.
        newcomers.more(3)
    assert newcomers.failed == []
    probe = old.container["readinessProbe"]
    notice_s = 10.0
    assert f'drain_notice = "{notice_s:g}s"' in one("ConfigMap", old.objects)["data"]["forebay.toml"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < notice_s
    in_block.connection.execute("select 1")
    later = stayer("later", cluster.client, cluster.target(new))
    later.ask()
    later.rest()
    assert old.program.process.wait(timeout=120) == 0
    assert time.monotonic() - began < old.spec["terminationGracePeriodSeconds"]
    with pytest.raises(psycopg.OperationalError):
        in_block.connection.execute("select 1")
    in_block.rest()
