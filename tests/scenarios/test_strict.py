"""At `strict` no session meets a custom setting of another, not even its name. Those who use the same share servers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.wire import Wire, query

Start = Callable[..., Forebay]

VALUE = "select current_setting('app.tenant', true)"
PID = "select pg_backend_pid()"

# Ways to give a setting a value, with what it is once the transaction is over.
WAYS = {
    "set": ("set app.tenant = '{}'", "{}"),
    "set local": ("set local app.tenant = '{}'", ""),
    "set_config": ("select set_config('app.tenant', '{}', false)", "{}"),
    "set_config, local": ("select set_config('app.tenant', '{}', true)", ""),
    "rolled back": ("set app.tenant = '{}'; rollback; begin", ""),
    "in a block": ("do $$begin perform set_config('app.tenant', '{}', false); end$$", "{}"),
}


def begin(start: Start, server: Postgres, variant: Variant, size: int) -> Forebay:
    """A pool at `strict`."""
    return start(configuration(server, variant, databases={"app": {"pool_size": size, "level": "strict"}}))


def run(session: Wire, *texts: str) -> None:
    """Texts that must succeed."""
    for text in texts:
        assert not [frame.fields for frame in session.ask(query(text)) if frame.tag == "E"]


def are_idle(forebay: Forebay) -> bool:
    """Whether no server of the pool is being used or reset."""
    return all(row["state"] == "idle" for row in forebay.console("show servers"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.variants("uring-1", "epoll-2")
def test_clients_that_use_the_same_custom_setting_share_a_server(
    way: str, start: Start, server: Postgres, variant: Variant
) -> None:
    """Each keeps its value, and no server is closed between them."""
    forebay = begin(start, server, variant, 1)
    text, after = WAYS[way]
    with ExitStack() as stack:
        clients = [stack.enter_context(forebay.target.wire()) for _ in range(3)]
        direct = stack.enter_context(server.target.wire())
        for name, client in zip("abc", clients, strict=True):
            run(client, "begin", text.format(name), "commit")
        run(direct, "begin", text.format("d"), "commit")
        assert direct.value(VALUE) == after.format("d")
        pids = set()
        for (name, client), _ in itertools.product(zip("abc", clients, strict=True), range(3)):
            assert client.value(VALUE) == after.format(name)
            pids.add(client.value(PID))
        assert len(pids) == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.variants("uring-1", "epoll-2")
def test_who_has_not_met_a_custom_setting_gets_another_server(
    way: str, start: Start, server: Postgres, variant: Variant
) -> None:
    """It is NULL to it, as to a session of its own; in a pool that is full the server that knows it makes room."""
    forebay = begin(start, server, variant, 1)
    text, after = WAYS[way]
    with forebay.target.wire() as one, forebay.target.wire() as other:
        run(one, "begin", text.format("one"), "commit")
        for _ in range(3):
            assert other.value(VALUE) is None
            assert one.value(VALUE) == after.format("one")


@pytest.mark.variants("uring-1", "epoll-1")
def test_servers_are_kept_for_those_who_may_have_them(start: Start, server: Postgres, variant: Variant) -> None:
    """With room for both kinds, clients with a custom setting and clients without one keep to servers of their own."""
    forebay = begin(start, server, variant, 2)
    with ExitStack() as stack:
        clients = [stack.enter_context(forebay.target.wire()) for _ in range(4)]
        for name, client in zip("ab", clients, strict=False):
            run(client, f"set app.tenant = '{name}'")
        pids: list[set[str | None]] = [set(), set()]
        for _ in range(4):
            for at, client in enumerate(clients):
                # Who comes while a server is being reset takes another one, whichever it is.
                until(lambda: are_idle(forebay), within_s=5, what="all servers are idle")
                value, pid = client.rows(f"{VALUE}, pg_backend_pid()")[0]
                assert value == (None, "a", "b")[at + 1 if at < 2 else 0]
                pids[at // 2].add(pid)
        assert [len(of_kind) for of_kind in pids] == [1, 1]
        assert not pids[0] & pids[1]


@pytest.mark.variants("uring-1", "epoll-1")
def test_a_name_that_is_a_parameter_is_met_like_any_other(start: Start, server: Postgres, variant: Variant) -> None:
    """Of set_config($1, $2, true) only the values tell the name."""
    forebay = begin(start, server, variant, 1)
    with (
        forebay.target.connect(autocommit=True) as one,
        forebay.target.connect(autocommit=True) as same,
        forebay.target.connect(autocommit=True) as other,
    ):
        for session in (one, same):
            session.execute("select set_config(%s, %s, true)", ("app.tenant", "one"))
        pids = {session.execute(PID).fetchone() for session in (one, same, one, same)}
        assert len(pids) == 1
        assert other.execute(VALUE).fetchone() == (None,)


@pytest.mark.variants("uring-1", "epoll-1")
def test_a_client_that_leaves_at_once_leaves_no_name(start: Start, server: Postgres, variant: Variant) -> None:
    """Nobody is there any more to be asked for what it has set."""
    forebay = begin(start, server, variant, 1)
    for text, _ in WAYS.values():
        with forebay.target.wire() as one:
            run(one, "begin")
            one.ask(query(text.format("one")))
        with forebay.target.wire() as other:
            assert other.value(VALUE) is None
