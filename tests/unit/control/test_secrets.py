"""The order of the sources, and what a failing one means."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from forebay.api.secret_source import SecretRequest
from forebay.control.hooks import Hook, HookRunner
from forebay.control.secrets import LookupFailed, Secrets


@pytest.fixture
def runner() -> Iterator[HookRunner]:
    """A runner that is closed again."""
    made = HookRunner()
    yield made
    made.close()


class Query:
    """A database that knows one user, or is down."""

    def __init__(self, *, is_down: bool = False) -> None:
        self.is_down = is_down
        self.asked: list[str] = []

    async def secret(self, database: str, user: str) -> str | None:
        self.asked.append(user)
        if self.is_down:
            raise LookupFailed("no answer within 5 s")
        return "from the query" if user == "app" else None


def find(runner: HookRunner, *functions: object, query: Query | None = None, user: str = "app") -> str | None:
    """What the sources say."""
    marked = [Hook(f"h{index}", function, None) for index, function in enumerate(functions)]  # type: ignore[arg-type]
    secrets = Secrets(runner=runner, hooks=marked, query=query, ask_timeout_s=5)
    return asyncio.run(secrets.find("shop", user))


def knows(_: SecretRequest) -> str:
    return "from a function"


def knows_nobody(_: SecretRequest) -> None:
    return None


def raises(_: SecretRequest) -> str:
    raise OSError("the vault is down")


def returns_bytes(_: SecretRequest) -> bytes:
    return b"secret"


def test_the_first_source_that_knows_the_user_answers(runner: HookRunner) -> None:
    """Later ones are not bothered."""
    query = Query()
    assert find(runner, knows_nobody, knows, query=query) == "from a function"
    assert query.asked == []
    assert find(runner, knows_nobody, query=query) == "from the query"


def test_nobody_knows_the_user(runner: HookRunner) -> None:
    """That is an answer, and may be remembered."""
    assert find(runner, knows_nobody, query=Query(), user="nobody") is None


@pytest.mark.parametrize("failing", [raises, returns_bytes])
def test_a_source_that_fails_is_passed_over(runner: HookRunner, failing: object) -> None:
    """The next one may know."""
    assert find(runner, failing, knows) == "from a function"


def test_a_failure_is_not_taken_for_no_such_user(runner: HookRunner) -> None:
    """It would be remembered, and the user locked out after the vault came back."""
    with pytest.raises(LookupFailed, match="OSError"):
        find(runner, raises, knows_nobody)
    with pytest.raises(LookupFailed, match="no answer within"):
        find(runner, query=Query(is_down=True))


def test_what_the_server_says_to_auth_query_is_in_the_log_alone(
    runner: HookRunner, caplog: pytest.LogCaptureFixture
) -> None:
    """By the class of an error nobody finds a wrong password of auth_user; a client need not know who that is."""

    class Refusing:
        async def secret(self, database: str, user: str) -> str | None:
            words = 'connection failed: FATAL:  password authentication failed for user "lookup"\nmore'
            raise LookupFailed("OperationalError") from OSError(words)

    secrets = Secrets(runner=runner, hooks=[], query=Refusing(), ask_timeout_s=5)
    with caplog.at_level("WARNING", logger="forebay"), pytest.raises(LookupFailed) as told:
        asyncio.run(secrets.find("shop", "app"))
    assert str(told.value) == "auth_query: OperationalError"
    (record,) = caplog.records
    fields = record.fields  # type: ignore[attr-defined]
    assert fields["error"] == 'connection failed: FATAL:  password authentication failed for user "lookup"'
