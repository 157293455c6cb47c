"""What make does again after which change, on a tree of empty files with the project's names."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tidy.sources import GENERATED, ROOT, files

BUILDS = "maturin develop"
# What a fresh build leaves behind, oldest first.
BUILT = (
    ".venv/bin/python",
    ".venv/.maturin",
    ".cargo/config.toml",
    ".venv/.test",
    ".venv/.lint",
    "python/forebay/_engine.abi3.so",
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which everything has been built."""
    root = tmp_path_factory.mktemp("checkout")
    names = [path.relative_to(ROOT) for path in files("")]
    names += [path.relative_to(ROOT) for part in GENERATED for path in ROOT.glob(f"crates/*/{part}*.rs")]
    for age, name in [*((1000, name) for name in names), *((500 - at, Path(name)) for at, name in enumerate(BUILT))]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
        os.utime(root / name, (1_000_000_000 - age, 1_000_000_000 - age))
    shutil.copyfile(ROOT / "Makefile", root / "Makefile")
    return root


def make(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs make as a user would, though this test may run under a make."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=tree, capture_output=True, text=True, check=False, env=environment)


def made(tree: Path, target: str, *, changed: str | None = None) -> str:
    """What `make target` would run if one file had just been changed."""
    assert changed is None or (tree / changed).is_file(), f"there is no {changed} any more"
    change = ["-W", changed] if changed else []
    done = make(tree, "-n", *change, target)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_is_built_twice(tree: Path) -> None:
    """`make run` on a built checkout starts at once."""
    assert "Nothing to be done" in made(tree, "build")
    assert made(tree, "run").split() == [".venv/bin/forebay", "up"]


@pytest.mark.parametrize(
    "changed",
    [
        "crates/forebay-core/src/worker.rs",
        "crates/forebay-runtime/src/driver/uring.rs",
        "crates/forebay-spec/src/generated/errors.rs",
        "crates/forebay-pgwire/src/text/mod.rs",
        "crates/forebay-py/src/lib.rs",
        "crates/forebay-config/Cargo.toml",
        "Cargo.toml",
        "Cargo.lock",
        "pyproject.toml",
    ],
)
@pytest.mark.parametrize("target", ["build", "run", "test-python", "style", "lint", "bench", "soak", "drivers"])
def test_what_the_engine_is_built_of_builds_it_again(tree: Path, target: str, changed: str) -> None:
    """An old engine under new tests proves nothing."""
    assert BUILDS in made(tree, target, changed=changed)


@pytest.mark.parametrize(
    "changed",
    [
        "crates/forebay-core/benches/hot_loop.rs",
        "crates/forebay-runtime/tests/engine.rs",
        "crates/forebay-runtime/examples/engine.rs",
        "crates/forebay-runtime/src/driver/tests/harness.rs",
        "crates/forebay-core/src/tables/tests.rs",
        "crates/forebay-sim/src/driver.rs",
        "crates/forebay-core/src/fuzz_entry/mod.rs",
        "crates/forebay-core/clippy.toml",
        "python/forebay/cli/__init__.py",
        "tests/tidy/test_makefile.py",
        "README.md",
    ],
)
@pytest.mark.parametrize("target", ["build", "test-python", "style"])
def test_what_the_engine_is_not_built_of_leaves_it_alone(tree: Path, target: str, changed: str) -> None:
    """Who edits a test need not wait for a release build."""
    assert BUILDS not in made(tree, target, changed=changed)


def test_a_build_script_would_build_it_again(tree: Path) -> None:
    """No crate has one so far."""
    script = tree / "crates/forebay-py/build.rs"
    script.touch()
    try:
        assert BUILDS in made(tree, "build")
    finally:
        script.unlink()


@pytest.mark.parametrize(
    ("target", "extras"),
    [
        ("test", "test"),
        ("test-python", "test"),
        ("soak", "test"),
        ("drivers", "test"),
        ("wheel-test", "test"),
        ("style", "lint test"),
        ("lint", "lint test"),
    ],
)
@pytest.mark.parametrize("changed", ["pyproject.toml", "tools/requirements.py"])
def test_targets_that_need_tools_install_them(tree: Path, target: str, extras: str, changed: str) -> None:
    """A fresh clone has none of them."""
    assert f"tools/requirements.py {extras} |" in made(tree, target, changed=changed)


@pytest.mark.parametrize("target", ["bench", "bench-idle"])
def test_a_quick_build_is_not_measured(tree: Path, target: str) -> None:
    """Its figures would stand beside those of releases."""
    profile = tree / ".venv/.profile"
    profile.write_text("quick\n")
    try:
        done = make(tree, target)
    finally:
        profile.unlink()
    assert done.returncode == 2
    assert "PROFILE=quick" in done.stderr
    assert "poolbench" not in done.stdout


@pytest.mark.parametrize("target", ["build", "run", "test", "style", "lint", "bench", "bench-idle", "soak", "wheel"])
def test_every_target_starts_from_nothing(tree: Path, target: str) -> None:
    """A fresh clone has no virtual environment."""
    fresh = tree.parent / "fresh"
    shutil.copytree(tree, fresh, ignore=shutil.ignore_patterns(".venv", "_engine*"))
    try:
        told = made(fresh, target)
    finally:
        shutil.rmtree(fresh)
    assert "-m venv .venv" in told
    assert (BUILDS in told) == (target != "wheel")
