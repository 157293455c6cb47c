"""Small pools under clients that leave, cancel, time out, discard and listen: nobody waits for ever."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.target import Target
from tests.harness.wire import Gone, Wire, bind, cancel, close, copy_data, execute, flush, parse, query, sync, terminate

CLIENTS = 16
SECONDS = 8.0
SEED = 20_261_126
POOLS = {"one": 1, "two": 2}
# Nothing that a client does takes longer than half a second of a server.
WAIT_S = 15

Act = Callable[["Client"], None]


@dataclass
class Client:
    """One that does something else each time; what it must not be told is a fault."""

    target: Target
    luck: random.Random
    count: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    wire: Wire | None = None

    def run(self, stop: threading.Event) -> None:
        """Acts until it is told to stop, and logs in again whenever it has left."""
        while not stop.is_set():
            act = self.luck.choice(ACTS)
            try:
                if self.wire is None:
                    self.wire = self.target.at(dbname=self.luck.choice(list(POOLS))).wire()
                act(self)
                self.note(act)
            except Gone:
                self.note(act)
                self.wire = None
            except Exception as error:
                self.faults.append(f"{act.__name__}: {error!r}")
                break
        if self.wire is not None:
            self.wire.close()

    def note(self, act: Act) -> None:
        assert self.wire is not None
        self.count[act.__name__] += 1
        self.faults.extend(f"{act.__name__}: {line}" for line in self.wire.seen if "53300" in line)
        self.wire.seen.clear()

    def ask(self, *texts: str) -> None:
        assert self.wire is not None
        for text in texts:
            self.wire.ask(query(text))

    def leave(self, *last: bytes) -> None:
        """Goes, in one of the ways there are."""
        assert self.wire is not None
        self.wire.send(*last)
        time.sleep(self.luck.random() * 0.005)
        if (how := self.luck.randrange(3)) == 0:
            self.wire.send(terminate())
        (self.wire.reset if how == 1 else self.wire.close)()
        raise Gone("left")

    def send_cancel(self) -> None:
        assert self.wire is not None
        with self.target.dial() as other:
            other.send(cancel(*self.wire.key))
            other.rest()


def is_done(client: Client) -> None:
    client.ask("begin", "insert into crowded values (1, 'x')", client.luck.choice(["commit", "rollback"]))


def leaves_in_a_transaction(client: Client) -> None:
    client.ask("begin", "insert into crowded values (2, 'x')")
    client.leave()


def leaves_while_it_runs(client: Client) -> None:
    client.leave(query(f"select pg_sleep({client.luck.choice([0.005, 0.05, 0.5])})"))


def leaves_an_open_pipeline(client: Client) -> None:
    client.leave(parse("", "select 1"), bind(), execute(), *([flush()] if client.luck.random() < 0.5 else []))


def leaves_half_a_message(client: Client) -> None:
    client.leave(query("select 1")[: client.luck.randrange(1, 10)])


def leaves_in_a_copy(client: Client) -> None:
    assert client.wire is not None
    client.wire.send(query("copy crowded from stdin"))
    client.wire.read_until("G")
    client.leave(copy_data(b"1\tx\n"))


def leaves_a_temporary_table(client: Client) -> None:
    client.ask("create temp table t (a int)")
    client.leave()


def leaves_a_timeout(client: Client) -> None:
    client.ask("set statement_timeout = 1")
    client.leave()


def leaves_what_it_listens_to(client: Client) -> None:
    client.ask("listen b")
    client.leave(query("notify b"))


def leaves_after_a_cancel(client: Client) -> None:
    assert client.wire is not None
    client.wire.send(query("select pg_sleep(0.05)"))
    client.send_cancel()
    client.leave()


def cancels(client: Client) -> None:
    assert client.wire is not None
    client.wire.send(query(f"select pg_sleep({client.luck.choice([0, 0.002, 0.02])})"))
    time.sleep(client.luck.random() * 0.02)
    client.send_cancel()
    client.wire.ready()


def times_out(client: Client) -> None:
    client.ask("set statement_timeout = 1", "select pg_sleep(0.02)", "reset statement_timeout")


def discards(client: Client) -> None:
    client.ask(client.luck.choice(["discard all", "discard temp", "discard plans", "reset all"]))


def listens(client: Client) -> None:
    client.ask("listen a", "notify a", "unlisten *")


def prepares(client: Client) -> None:
    assert client.wire is not None
    name = f"s{client.luck.randrange(5)}"
    text = f"select {client.luck.randrange(50)}"
    client.wire.ask(parse(name, text), bind("", name), execute(), close("S", name), sync())
    client.ask("prepare p as select 1", "execute p", "deallocate p")


def sets(client: Client) -> None:
    client.ask(
        client.luck.choice(["set timezone = 'UTC'", "set app.x = 'y'", "select set_config('app.z', '1', false)"])
    )


def fails(client: Client) -> None:
    client.ask(
        client.luck.choice(["selec", "begin; select 1/0; commit", "do $$ begin perform 1/0; end $$"]), "rollback"
    )


def makes_a_table(client: Client) -> None:
    name = f"d{client.luck.randrange(10**9)}"
    client.ask(f"create table {name} (a int)", f"drop table {name}")


ACTS: list[Act] = [
    is_done, leaves_in_a_transaction, leaves_while_it_runs, leaves_an_open_pipeline, leaves_half_a_message,
    leaves_in_a_copy, leaves_a_temporary_table, leaves_a_timeout, leaves_what_it_listens_to, leaves_after_a_cancel,
    cancels, times_out, discards, listens, prepares, sets, fails, makes_a_table,
]  # fmt: skip


def servers(forebay: Forebay) -> dict[str, int]:
    """Servers of each pool, in any state, as the metrics count them."""
    found: Counter[str] = Counter()
    for name, count in re.findall(
        r'^forebay_servers\{database="(\w+)",[^}]*\} (\d+)$', forebay.metrics(), re.MULTILINE
    ):
        found[name] += int(count)
    return found


@pytest.mark.variants("uring-2", "epoll-1")
def test_no_waiter_is_forgotten_and_no_pool_passes_its_size(start: Start, server: Postgres, variant: Variant) -> None:
    """A server that is lost to its pool without a trace is the end of a pool of one."""
    databases = {name: {"pool_size": size, "query_wait_timeout": f"{WAIT_S}s"} for name, size in POOLS.items()}
    with server.target.at(dbname="app").wire() as wire:
        wire.rows("create table if not exists crowded (a int, b text)")
    forebay = start(configuration(server, variant, databases=databases))
    clients = [Client(forebay.target, random.Random(SEED + i)) for i in range(CLIENTS)]
    stop = threading.Event()
    threads = [threading.Thread(target=client.run, args=(stop,)) for client in clients]
    for thread in threads:
        thread.start()
    end = time.monotonic() + SECONDS
    samples: list[dict[str, int]] = []
    try:
        while time.monotonic() < end:
            samples.append(servers(forebay))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [fault for client in clients for fault in client.faults] == []
    for name, size in POOLS.items():
        counts = [sample.get(name, 0) for sample in samples]
        assert max(counts) == size, Counter(counts)
        with forebay.target.at(dbname=name).wire() as wire:
            assert wire.value("select 1") == "1"
    assert all(sum(client.count[act.__name__] for client in clients) >= 3 for act in ACTS), "each act has its turn"
    until(lambda: forebay.servers_active() == 0, within_s=5, what="every server is free again")
