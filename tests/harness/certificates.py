"""A certificate authority of the tests' own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates into a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self.certificate = folder / f"{name}.crt"
        self._ca.cert_pem.write_to_path(str(self.certificate))

    def issue(self, name: str, *identities: str, common_name: str | None = None) -> Pair:
        """A certificate for host names and addresses, in `name`.crt and `name`.key; written over what is there."""
        issued = self._ca.issue_cert(*identities, common_name=common_name)
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pair.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        pair.key.touch(mode=0o600)
        pair.key.write_bytes(issued.private_key_pem.bytes())
        return pair
