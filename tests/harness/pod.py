"""A pod's container run by hand: command, environment, files, ports and probes as its manifest has them, on a host of a
network. What needs a cluster is not here: the image, its user, limits, and whoever acts on the probes.
"""

from __future__ import annotations

import base64
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.harness.hosts import Host, Network, Program

Manifest = Mapping[str, Any]

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def manifests(path: Path) -> list[Manifest]:
    """The objects of a file."""
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def one(kind: str, among: list[Manifest], name: str | None = None) -> Manifest:
    """The only object of a kind, or the one of a name."""
    (found,) = [
        each for each in among if each["kind"] == kind and (name is None or each["metadata"]["name"] == name)
    ]  # fmt: skip
    return found


@dataclass
class Pod:
    """spec: of the pod. secrets: values by secret and key. account: the folder of its service account."""

    network: Network
    host: Host
    folder: Path
    objects: list[Manifest]
    spec: Manifest
    secrets: Mapping[tuple[str, str], str]
    account: Path
    program: Program | None = None

    @property
    def container(self) -> Manifest:
        """The only one."""
        (found,) = self.spec["containers"]
        return dict(found)

    def start(self, **environment: str) -> None:
        """Runs the container's command, with its volumes where it has them; environment: what a cluster adds."""
        self.folder.mkdir(exist_ok=True)
        given = {each["name"]: self._value(each) for each in self.container.get("env", ())}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        mounts = {ACCOUNT: self.account, **self._volumes()}
        # Folders that are there in this process alone: /etc and /run as they are, in memory, with mounts on top.
        lines = ["set -e"]
        for top in ("/etc", "/run"):
            copy = shlex.quote(str(self.folder / top.strip("/")))
            kept = f"cp -a /etc/. {copy}" if top == "/etc" else "true"
            lines.append(f"mkdir -p {copy}; mount -t tmpfs none {copy}; {kept}; mount --bind {copy} {top}")
        for at, what in mounts.items():
            lines.append(f"mkdir -p {shlex.quote(at)}; mount --bind {shlex.quote(str(what))} {shlex.quote(at)}")
        lines.append('exec "$@"')
        command = ["unshare", "--mount", "sh", "-c", "\n".join(lines), "container", *self.container["command"]]
        self.program = self.network.start(
            self.host, self.folder.name, command, environment={"PATH": path, **environment, **given}
        )

    def _value(self, variable: Manifest) -> str:
        if "value" in variable:
            return str(variable["value"])
        key = variable["valueFrom"]["secretKeyRef"]
        return self.secrets[key["name"], key["key"]]

    def _volumes(self) -> dict[str, Path]:
        """Folders by where they are mounted."""
        named = {each["name"]: each for each in self.spec["volumes"]}
        return {mount["mountPath"]: self._volume(named[mount["name"]]) for mount in self.container["volumeMounts"]}

    def _volume(self, volume: Manifest) -> Path:
        folder = self.folder / str(volume["name"])
        folder.mkdir(exist_ok=True)
        made = one("ConfigMap", self.objects, volume["configMap"]["name"])
        for name, text in made.get("data", {}).items():
            (folder / name).write_text(text)
        for name, text in made.get("binaryData", {}).items():
            (folder / name).write_bytes(base64.b64decode(text))
        return folder

    def port(self, name: str | int) -> int:
        """Of a port's name."""
        return next(each["containerPort"] for each in self.container["ports"] if name in each.values())

    def passes(self, probe: str) -> bool:
        """What a kubelet makes of a probe: livenessProbe, readinessProbe, startupProbe."""
        get = self.container[probe]["httpGet"]
        status, _ = self.host.get(f"http://{self.host.address}:{self.port(get['port'])}{get['path']}")
        return 200 <= status < 400
