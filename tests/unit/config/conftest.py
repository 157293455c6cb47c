"""A configuration written into a folder of its own and read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from forebay import config
from forebay.config import Config, Finding, Loaded

MINIMAL = '[databases.shop]\nendpoints = ["10.0.0.5:5432"]\n[users.app]\nsecret = { env = "APP" }\n'

Load = Callable[..., Loaded]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """load(text, name="forebay.toml", **environment): writes the text and reads it."""

    def run(text: str, *, name: str = "forebay.toml", environ: Mapping[str, str] | None = None) -> Loaded:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return config.load(path, environ={"APP": "app's secret", **(environ or {})})

    return run


@pytest.fixture
def usable(load: Load) -> Callable[..., Config]:
    """The configuration of a text that has no error."""

    def run(text: str, **options: object) -> Config:
        loaded = load(text, **options)
        assert loaded.config is not None, config.render(loaded.findings)
        return loaded.config

    return run


@pytest.fixture
def codes(load: Load) -> Callable[..., list[tuple[str, int, int]]]:
    """(code, line, column) of every finding of MINIMAL with a text before it."""

    def run(text: str, **options: object) -> list[tuple[str, int, int]]:
        return [(one.code, one.line, one.column) for one in load(text + "\n" + MINIMAL, **options).findings]

    return run


@pytest.fixture
def minimal() -> str:
    """A configuration without findings; it needs the variable APP."""
    return MINIMAL


@pytest.fixture
def only(load: Load) -> Callable[..., Finding]:
    """The one finding of a text."""

    def run(text: str, **options: object) -> Finding:
        findings = load(text, **options).findings
        assert len(findings) == 1, config.render(findings)
        return findings[0]

    return run
