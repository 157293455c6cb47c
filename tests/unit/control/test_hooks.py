"""Users' functions: found, called, timed out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from forebay.api.secret_source import SecretRequest, secret_source
from forebay.control import hooks
from forebay.control.hooks import Hook, HookFailed, HookRunner, load_hooks
from forebay.failure import Failure

REQUEST = SecretRequest(database="shop", user="app")


@pytest.fixture
def runner() -> Iterator[HookRunner]:
    """A runner that is closed again."""
    made = HookRunner()
    yield made
    made.close()


def written(folder: Path, body: str) -> str:
    path = folder / "vault.py"
    path.write_text(f"import forebay\n{body}\n")
    return str(path)


def test_marked_functions_are_found_in_the_order_of_the_file(tmp_path: Path) -> None:
    """The order is the order in which they are asked."""
    body = (
        "@forebay.secret_source\ndef second(r): ...\n@forebay.secret_source(deadline_s=0.5)\nasync def first(r): ...\n"
    )
    found = load_hooks([written(tmp_path, body)])
    assert [(hook.name, hook.deadline_s) for hook in found] == [("vault.py:second", None), ("vault.py:first", 0.5)]


@pytest.mark.parametrize("body", ["", "def f(r): ..."])
def test_a_file_that_marks_nothing_is_refused(tmp_path: Path, body: str) -> None:
    """A forgotten decorator would else be a login that fails for no visible reason."""
    with pytest.raises(Failure, match="no function marked"):
        load_hooks([written(tmp_path, body)])


@pytest.mark.parametrize("body", ["import no_such_module", "1/0", "def ("])
def test_a_file_that_cant_be_loaded_is_a_sentence(tmp_path: Path, body: str) -> None:
    """Whatever it raises."""
    with pytest.raises(Failure, match="could not be loaded"):
        load_hooks([written(tmp_path, body)])


def test_a_deadline_is_above_zero() -> None:
    """Zero would mean that nobody can log in."""
    with pytest.raises(ValueError, match="above zero"):
        secret_source(deadline_s=0)


def test_plain_and_async_functions_are_called(runner: HookRunner) -> None:
    """Both are promised."""

    def plain(request: SecretRequest) -> str:
        return f"plain {request.user}"

    async def later(request: SecretRequest) -> str:
        await asyncio.sleep(0)
        return f"async {request.database}"

    async def both() -> list[object]:
        return [await runner.call(Hook("h", f, None), REQUEST, deadline_s=5) for f in (plain, later)]

    assert asyncio.run(both()) == ["plain app", "async shop"]


def test_an_exception_is_reported_without_its_text(runner: HookRunner) -> None:
    """The text might hold the secret."""

    def broken(_: SecretRequest) -> str:
        raise RuntimeError("the password is 1234")

    with pytest.raises(HookFailed, match=r"it raised RuntimeError$"):
        asyncio.run(runner.call(Hook("h", broken, None), REQUEST, deadline_s=5))


def test_a_function_that_hangs_costs_its_caller_the_deadline_and_nobody_else_anything(runner: HookRunner) -> None:
    """A vault that is down must not stop other lookups, whatever kind the function is."""
    release = threading.Event()

    def hangs(_: SecretRequest) -> str:
        release.wait()
        return "late"

    async def hangs_too(_: SecretRequest) -> str:
        await asyncio.Event().wait()
        return "never"

    async def answers(_: SecretRequest) -> str:
        return "prompt"

    async def world() -> None:
        for function in (hangs, hangs_too):
            with pytest.raises(HookFailed, match=r"no answer within 0\.05 s"):
                await runner.call(Hook("h", function, 0.05), REQUEST, deadline_s=5)
        assert await runner.call(Hook("h", answers, None), REQUEST, deadline_s=5) == "prompt"

    asyncio.run(world())
    release.set()


def test_calls_under_way_are_limited(runner: HookRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that hangs for ever would else cost a thread for every login."""
    monkeypatch.setattr(hooks, "CALLS_MAX", 2)
    limited = HookRunner()
    release = threading.Event()

    def hangs(_: SecretRequest) -> None:
        release.wait()

    async def world() -> None:
        for _ in range(2):
            with pytest.raises(HookFailed, match="no answer"):
                await limited.call(Hook("h", hangs, 0.02), REQUEST, deadline_s=5)
        with pytest.raises(HookFailed, match="2 calls are still under way"):
            await limited.call(Hook("h", hangs, 0.02), REQUEST, deadline_s=5)

    asyncio.run(world())
    release.set()
    limited.close()
