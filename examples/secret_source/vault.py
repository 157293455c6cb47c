"""A secret source: looks up passwords in a JSON file, as a stand-in for a vault.

Try it: `forebay run examples/secret_source/forebay.toml`, with a PostgreSQL on 127.0.0.1:5432.
"""

from __future__ import annotations

import json
from pathlib import Path

import forebay

SECRETS = Path(__file__).with_name("secrets.json")


@forebay.secret_source(deadline_s=2.0)
async def from_file(request: forebay.SecretRequest) -> str | None:
    """The user's password, or None for a user of whom the file knows nothing."""
    secrets: dict[str, str] = json.loads(SECRETS.read_text())
    return secrets.get(f"{request.database}/{request.user}") or secrets.get(request.user)
