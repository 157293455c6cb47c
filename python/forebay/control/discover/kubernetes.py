"""Kubernetes: the endpoints of services (EndpointSlices), and the roles that operators write on their pods as labels.

Asked of the API server with the service account of forebay's own pod, whose token is read for every look, since it is
exchanged every hour. The account needs the right to list endpointslices and to get pods in that namespace. Of pods
only the metadata is asked. Sources: Kubernetes API reference, "EndpointSlice", "Accessing the Kubernetes API from a
Pod"; what CloudNativePG, Zalando's, Crunchy Data's and Percona's operators and Patroni label pods with.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from forebay.config.source_address import MEMBERS_MAX, Address, is_port
from forebay.control.discover.http import Http, NoAnswer, T
from forebay.control.discover.member import Lease, Member, Renewal, Role, Sighting, SourceFailed, checked, zone_of
from forebay.control.discover.registration import Kind, Means, need
from forebay.failure import Exit, Failure

EXAMPLE: Final = "kubernetes://namespace/service"
ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_BYTES_MAX: Final = 65_536
SERVICES_MAX: Final = 8
# A label of a pod for each operator, the most particular first; `role` is what Patroni has by default.
ROLE_LABELS: Final = (
    "cnpg.io/instanceRole",
    "spilo-role",
    "postgres-operator.crunchydata.com/role",
    "role",
)
ROLES: Final = {
    "primary": Role.PRIMARY,
    "master": Role.PRIMARY,
    "replica": Role.REPLICA,
    "sync_standby": Role.REPLICA,
    "quorum_standby": Role.REPLICA,
    "standby_leader": Role.REPLICA,
}
# Names of ports that operators give to PostgreSQL's.
PORT_NAMES: Final = ("postgres", "postgresql", "pgport", "database", "db")
PORT: Final = 5432

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)
_METADATA: Final = {"accept": "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"}


class _Metadata(msgspec.Struct):
    name: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _Pod(msgspec.Struct):
    metadata: _Metadata


class _Port(msgspec.Struct):
    name: str | None = None
    port: int | None = None


class _Conditions(msgspec.Struct):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Target(msgspec.Struct):
    kind: str = ""
    name: str = ""


class _Endpoint(msgspec.Struct):
    addresses: list[str]
    conditions: _Conditions = msgspec.field(default_factory=_Conditions)
    targetRef: _Target | None = None  # noqa: N815  (as in the API)
    zone: str | None = None

    @property
    def pod(self) -> str | None:
        return self.targetRef.name if self.targetRef and self.targetRef.kind == "Pod" else None

    @property
    def state(self) -> str:
        if self.conditions.terminating:
            return "terminating"
        # Unknown is to be taken for ready.
        return "not ready" if self.conditions.ready is False else "ready"


class _Slice(msgspec.Struct):
    metadata: _Metadata
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None


class _Slices(msgspec.Struct):
    items: list[_Slice]


class Kubernetes:
    """The servers behind some services of a namespace."""

    def __init__(self, address: Address, means: Means) -> None:
        self._namespace = address.hosts[0].name
        self._services = address.path.split(",")
        self._port_name = address.options.get("port")
        self._account = Path(address.options.get("account", ACCOUNT))
        self._api = address.options.get("api") or _api_of(means)
        self._by = f"Kubernetes at {self._api.removeprefix('https://')}"
        self._timeout_s = means.timeout_s
        self._http = Http(timeout_s=means.timeout_s, tls=partial(_tls, self._account / "ca.crt"))

    async def look(self) -> Sighting:
        """Raises SourceFailed."""
        token = await asyncio.to_thread(_token, self._account / "token")
        login = {"authorization": f"Bearer {token}"}
        try:
            # The bound of all questions together, of which there are several.
            async with asyncio.timeout(self._timeout_s * 1.5):
                slices = (await self._get(self._slices_path, _Slices, login)).items
                found = [(each, port) for one in slices for each in one.endpoints or () for port in self._port(one)]
                if len(found) > MEMBERS_MAX:
                    raise SourceFailed(f"{self._by} names more than {MEMBERS_MAX} members")
                roles = await self._roles({each.pod for each, _ in found if each.pod}, login)
        except TimeoutError:
            raise SourceFailed(f"{self._by} gave no answer within {self._timeout_s * 1.5:g} s") from None
        # A pod may be behind several of the services.
        members = {(one.host, one.port): one for each, port in found for one in _members(each, port, roles)}
        what = f"{self._by}: service {','.join(self._services)} of namespace {self._namespace}"
        return Sighting(
            members=checked(list(members.values()), by=what),
            asked=self._api.removeprefix("https://"),
            lease=_lease(slices),
        )

    def read_files(self) -> Renewal:
        """Raises Failure."""
        return self._http.read_files()

    async def close(self) -> None:
        """Closes connections."""
        await self._http.close()

    @property
    def _slices_path(self) -> str:
        selector = quote(f"kubernetes.io/service-name in ({','.join(self._services)})")
        return (
            f"/apis/discovery.k8s.io/v1/namespaces/{self._namespace}/endpointslices?labelSelector={selector}&limit=64"
        )

    async def _roles(self, pods: set[str], login: dict[str, str]) -> dict[str, Role]:
        """By the names of pods. One that is gone since has none."""

        async def role(pod: str) -> Role:
            path = f"/api/v1/namespaces/{self._namespace}/pods/{quote(pod, safe='')}"
            try:
                found = await self._get(path, _Pod, {**login, **_METADATA})
            except _NotThere:
                return Role.UNKNOWN
            return _role(found.metadata.labels or {})

        names = sorted(pods)
        # The others are waited for when one fails: each has a timeout, and none may outlive the look.
        found = await asyncio.gather(*(role(each) for each in names), return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return {name: each for name, each in zip(names, found, strict=True) if isinstance(each, Role)}

    async def _get(self, path: str, of: type[T], headers: dict[str, str]) -> T:
        what = path.partition("?")[0]
        try:
            return await self._http.get(f"{self._api}{path}", of, headers=headers)
        except NoAnswer as none:
            if none.status == 404:
                raise _NotThere(f"{self._by} knows no {what}") from None
            hint = None
            if none.status in (401, 403):
                hint = "Give the service account a Role that may list endpointslices.discovery.k8s.io and get pods."
            raise SourceFailed(f"{self._by} gave no answer for {what}: {none}", hint=hint) from None

    def _port(self, one: _Slice) -> list[int]:
        """PostgreSQL's among those of a slice: none or one."""
        ports = [each for each in one.ports or () if each.port and is_port(each.port)]
        if self._port_name is not None:
            return [each.port for each in ports if each.port and self._port_name in (each.name, str(each.port))][:1]
        by_name = [each for name in PORT_NAMES for each in ports if each.name == name]
        likely = ports if len(ports) == 1 else by_name or [each for each in ports if each.port == PORT]
        return [each.port for each in likely if each.port][:1]


class _NotThere(SourceFailed):
    """There is no such object."""


def _members(endpoint: _Endpoint, port: int, roles: dict[str, Role]) -> list[Member]:
    """An endpoint has one address; more are for the future."""
    return [
        Member(
            host=host,
            port=port,
            role=roles.get(endpoint.pod or "", Role.UNKNOWN),
            source="kubernetes",
            name=endpoint.pod,
            state=endpoint.state,
            zone=zone_of(endpoint.zone),
        )
        for host in endpoint.addresses[:1]
    ]


def _role(labels: dict[str, str]) -> Role:
    return next((ROLES[labels[each]] for each in ROLE_LABELS if labels.get(each) in ROLES), Role.UNKNOWN)


def _lease(slices: list[_Slice]) -> Lease | None:
    """What Patroni writes on the Endpoints it holds its lease in, which Kubernetes copies to the slices."""
    for one in slices:
        notes = one.metadata.annotations or {}
        if notes.get("leader"):
            term = notes.get("transitions", "")
            return Lease(holder=notes["leader"], term=int(term) if term.isdecimal() and len(term) < 20 else None)
    return None


def _api_of(means: Means) -> str:
    """Where Kubernetes tells pods that its API server is."""
    host, port = (means.environment.get(f"KUBERNETES_SERVICE_{each}", "") for each in ("HOST", "PORT"))
    if not host:
        hint = "Run forebay in a pod, or name the API server: ?api=https://10.0.0.1:6443&account=FOLDER"
        raise Failure("KUBERNETES_SERVICE_HOST is not set: this is no pod of Kubernetes", hint=hint)
    return f"https://{f'[{host}]' if ':' in host else host}:{port or 443}"


def _token(path: Path) -> str:
    """Raises SourceFailed."""
    try:
        with path.open("rb") as file:
            token = file.read(TOKEN_BYTES_MAX).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is no token"
        hint = "Let the pod have its service account: automountServiceAccountToken: true."
        raise SourceFailed(f"the token {path} can't be read: {cause}", hint=hint) from None
    if not token.isprintable() or not token:
        raise SourceFailed(f"the token {path} is empty, or no token")
    return token


def _tls(ca: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca))
    except OSError as error:
        hint = "Let the pod have its service account, or name a folder with token and ca.crt: ?account=FOLDER"
        cause = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise Failure(f"the authority {ca} can't be read: {cause}", hint=hint) from None


def _build(address: Address, means: Means) -> Kubernetes:
    services = address.path.split(",")
    if len(address.hosts) != 1 or address.hosts[0].port or not address.path:
        hint = f"Write {EXAMPLE}; several services are separated by commas."
        raise Failure("a kubernetes:// address is a namespace and a service", hint=hint, exit=Exit.USAGE)
    if address.user is not None:
        hint = "Leave the user out: forebay has the service account of its pod."
        raise Failure("a kubernetes:// address has no user", hint=hint, exit=Exit.USAGE)
    for each in (address.hosts[0].name, *services):
        if not _NAME.fullmatch(each):
            raise Failure(f'"{each}" is no name in Kubernetes', hint=f"Write {EXAMPLE}.", exit=Exit.USAGE)
    if len(services) > SERVICES_MAX:
        hint = f"Name {SERVICES_MAX} at most."
        raise Failure(f"the kubernetes:// address names {len(services)} services", hint=hint, exit=Exit.USAGE)
    api = address.options.get("api")
    if api is not None and not re.fullmatch(r"https://[^/@\s]+", api):
        hint = "Write ?api=https://10.0.0.1:6443."
        raise Failure("the option api is not an https:// address without a path", hint=hint, exit=Exit.USAGE)
    need(address, "httpx2")
    return Kubernetes(address, means)


KIND: Final = Kind(
    schemes=("kubernetes",), example=EXAMPLE, options=frozenset(("port", "account", "api")), build=_build
)
