"""The differential test finds bugs that are planted, and nothing without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.diff import planted, run

# Of each kind one that shows soon: what is left is not seen, not kept, not undone.
SOON = ("functions-unseen", "probe-ignored", "pin-ignored", "leaked-parameter")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_planted_bugs_are_found(tmp_path: Path) -> None:
    """If a bug that other poolers have had is not found, hundreds of green programs say less than they seem to."""
    site, tool = planted.build(), run.build()
    assert set(planted.BUGS) <= planted.known(site)
    with run.database(18, run.Setup(lanes=planted.LANES), tmp_path / "servers") as server:
        bench = planted.Bench(site.resolve(), tool, server, tmp_path, seed=1)
        assert planted.prove(bench, SOON, planted.PROGRAMS_MAX)


def test_builds_that_serve_have_no_bugs_in_them() -> None:
    """An environment variable that breaks a pooler would be a gift to whoever can set it."""
    from forebay import _engine

    assert not hasattr(_engine, "planted_bugs")
