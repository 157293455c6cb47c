"""The write canary, what a failover may have cost, and what a restart of forebay must not forget."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.test_failover import keys, promote
from tests.conftest import skip_without_uring
from tests.harness import pooler, postgres
from tests.harness.certificates import Authority
from tests.harness.deadline import until
from tests.harness.ledger import Clients
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.standby import caught_up, standby_of

VARIANTS = (Variant("uring", 2), Variant("epoll", 1))
WITHIN_S = 40
CLIENTS = 12
Pair = tuple[Postgres, Postgres]


@pytest.fixture
def pair(authority: Authority) -> Iterator[Pair]:
    """A primary and its standby, both of which may be killed. Whoever wants to waits for the standby."""
    with postgres.running(18, authority, synchronous_standby_names="*") as primary, standby_of(primary) as standby:
        admin(standby, "alter system set synchronous_standby_names = ''", "select pg_reload_conf()")
        yield primary, standby


def admin(server: Postgres, *statements: str) -> None:
    """Carries out statements as the superuser."""
    with server.target.connect(user="postgres", dbname="postgres", autocommit=True) as asked:
        for each in ("set synchronous_commit = local", *statements):
            asked.execute(each.encode())


def endpoint(server: Postgres) -> str:
    return f"127.0.0.1:{server.port}"


@contextlib.contextmanager
def forebays(pair: Pair, folder: Path, **sections: Any) -> Iterator[list[Forebay]]:
    """One with each I/O driver before the same servers."""
    database = {"endpoints": [*map(endpoint, pair)], "topology": "poll", "poll_user": "app", "canary_interval": "200ms",
                "canary_timeout": "1s", "server_check_delay": "0s", **sections.pop("database", {})}  # fmt: skip
    with contextlib.ExitStack() as stack:
        started = []
        for variant in VARIANTS:
            with skip_without_uring(variant):
                own = {name: dict(each) for name, each in sections.items()}
                if "clusters" in own:
                    own["clusters"]["file"] = str(folder / str(variant) / own["clusters"]["file"])
                    own["listen"] = {"port": postgres.free_port()}
                given = configuration(pair[0], variant, databases={"app": database}, **own)
                started.append(stack.enter_context(pooler.running(folder / str(variant), given, variant)))
        yield started


def row(forebay: Forebay, server: Postgres) -> dict[str, str | None]:
    """SHOW ENDPOINTS of one."""
    return next(row for row in forebay.console("show endpoints") if row["endpoint"] == endpoint(server))


def are(started: list[Forebay], servers: Pair, *roles: str) -> None:
    """Waits until these are the servers' roles."""
    for forebay in started:
        until(
            lambda forebay=forebay: [row(forebay, one)["role"] for one in servers] == [*roles],
            within_s=WITHIN_S, what=f"the servers are {roles}",
        )  # fmt: skip


def canary_is(forebay: Forebay, server: Postgres, words: str) -> dict[str, str | None]:
    """Waits until that came of the last one."""

    def found() -> dict[str, str | None] | None:
        one = row(forebay, server)
        return one if (one["canary"] or "").startswith(words) else None

    try:
        return until(found, within_s=WITHIN_S, what=f"the canary is {words}")
    except AssertionError as late:
        raise AssertionError(f"{late}: {row(forebay, server)}") from None


def walreceiver(standby: Postgres) -> int:
    """Its process id."""
    with standby.target.connect(user="postgres", autocommit=True) as asked:
        found = asked.execute("select pid from pg_stat_wal_receiver").fetchone()
    assert found is not None
    return int(found[0])


def test_a_standby_that_confirms_nothing_is_told_and_no_failover_comes_of_it(pair: Pair, tmp_path: Path) -> None:
    """Reads answer and commits hang: nobody sees why, or a pooler takes the only good primary away."""
    primary, standby = pair
    with forebays(pair, tmp_path) as started:
        are(started, pair, "primary", "replica")
        for forebay in started:
            one = canary_is(forebay, primary, "confirmed")
            assert int(one["canary_ms"] or -1) >= 0
            assert row(forebay, standby)["canary"] is None
            assert _confirms(forebay, primary) == ["1"]
        receiver = walreceiver(standby)
        os.kill(receiver, signal.SIGSTOP)
        try:
            for forebay in started:
                late = canary_is(forebay, primary, "late: no synchronous standby confirms")
                assert (late["role"], row(forebay, standby)["role"]) == ("primary", "replica")
                with forebay.target.connect(autocommit=True) as client:
                    assert client.execute("select count(*) from people").fetchone() == (100,), "reads go on"
                    client.execute("set synchronous_commit = off")
                    client.execute("insert into scratch values (1, 'and who does not ask for it, writes')")
                (told,) = forebay.events("canary_late")
                assert (told["level"], told["endpoint"]) == ("error", endpoint(primary))
                assert told["took_ms"] >= 1000
                assert _confirms(forebay, primary) == ["0"]
        finally:
            os.kill(receiver, signal.SIGCONT)
        for forebay in started:
            canary_is(forebay, primary, "confirmed")
            assert len(forebay.events("canary_confirmed")) == 1
            roles = [(one["endpoint"], one["role"]) for one in forebay.events("endpoint_role")]
            assert sorted(roles) == sorted([(endpoint(primary), "primary"), (endpoint(standby), "replica")])
        _a_right_that_is_gone_is_told_once(primary, started)


def _confirms(forebay: Forebay, server: Postgres) -> list[str]:
    name = f'forebay_endpoint_confirms_writes{{database="app",endpoint="{endpoint(server)}"}} '
    return [line.removeprefix(name) for line in forebay.metrics().split("\n") if line.startswith(name)]


def _a_right_that_is_gone_is_told_once(primary: Postgres, started: list[Forebay]) -> None:
    of = "function pg_logical_emit_message(boolean, text, text, boolean)"
    with primary.target.connect(user="postgres", dbname="app", autocommit=True) as asked:
        asked.execute("set synchronous_commit = local")
        asked.execute(f"revoke execute on {of} from public".encode())
        for forebay in started:
            canary_is(forebay, primary, "refused: permission denied")
        asked.execute("select pg_sleep(0.7)")
        for forebay in started:
            assert len(forebay.events("canary_refused")) == 1
            assert _confirms(forebay, primary) == []
            assert row(forebay, primary)["role"] == "primary"
        asked.execute(f"grant execute on {of} to public".encode())
        for forebay in started:
            canary_is(forebay, primary, "confirmed")


def test_none_is_sent_where_none_is_wanted(pair: Pair, tmp_path: Path) -> None:
    """A server whose WAL is read by somebody who minds."""
    primary, _standby = pair
    with forebays(pair, tmp_path, database={"canary_interval": "0s"}) as started:
        are(started, pair, "primary", "replica")
        with primary.target.connect(user="postgres", autocommit=True) as asked:
            count = "select count(*) from pg_stat_activity where application_name = 'forebay canary'"
            assert asked.execute(count.encode()).fetchone() == (0,)
        for forebay in started:
            assert row(forebay, primary)["canary"] is None
            assert _confirms(forebay, primary) == []


def test_after_a_failover_it_is_told_what_may_be_missing(pair: Pair, tmp_path: Path) -> None:
    """And before it, that too much would be."""
    primary, standby = pair
    with forebays(pair, tmp_path, database={"rpo_target": "1s", "canary_interval": "0s"}) as started:
        are(started, pair, "primary", "replica")
        with Clients(started[0].target, 4) as clients:
            until(lambda: clients.ledger.served > 50, within_s=WITHIN_S, what="they write")
            for forebay in started:
                # As they write, there is always something that only the primary has; how much, is told.
                until(lambda forebay=forebay: row(forebay, standby)["lag_ms"], within_s=WITHIN_S, what="it is measured")
            admin(standby, "select pg_wal_replay_pause()")
            for forebay in started:
                until(
                    lambda forebay=forebay: forebay.events("rpo_at_risk"), within_s=WITHIN_S, what="that it is behind"
                )
                assert int(row(forebay, standby)["lag_ms"] or 0) > 1000
            primary.kill()
            admin(standby, "select pg_wal_replay_resume()")
            promote(standby)
            are(started, pair, "down", "primary")
            served = clients.ledger.served
            until(lambda: clients.ledger.served > served + 50, within_s=WITHIN_S, what="they write again")
        for forebay in started:
            (told,) = until(lambda forebay=forebay: forebay.events("failover_loss"), within_s=WITHIN_S, what="the cost")
            assert (told["old"], told["new"], told["timelines"]) == (endpoint(primary), endpoint(standby), 1)
            assert (told["level"], told["because"][:8]) == ("warn", "at most ")
            # All that was received is replayed before it is promoted: some seconds of doubt at most.
            assert 0 <= told["missing_ms_max"] < WITHIN_S * 1000
            print(told)
        there = keys(standby)
        lost = clients.ledger.committed - there
        # They do not wait for the standby: what the last look did not see may be lost, and no more than is told.
        assert not lost or all(forebay.events("failover_loss")[0]["missing_ms_max"] > 0 for forebay in started)


def has_all(standby: dict[str, str | None]) -> bool:
    """By what it has replayed, and by what is remembered of where the primary was."""
    return standby["lag"] == "0" and standby["lag_ms"] is not None


def test_a_new_primary_that_crashed_unseen_makes_the_loss_no_smaller(pair: Pair, tmp_path: Path) -> None:
    """It tells how far it has replayed after the crash, its own work with it: nothing of the old seems lost."""
    primary, standby = pair
    with forebays(pair, tmp_path, database={"canary_interval": "0s"}) as started:
        are(started, pair, "primary", "replica")
        for forebay in started:
            # Where the primary was when the standby had all of it, is known from here on.
            until(lambda forebay=forebay: has_all(row(forebay, standby)), within_s=WITHIN_S, what="it has all")
        admin(standby, "select pg_wal_replay_pause()")
        admin(primary, "create table lost as select generate_series(1, 1000)")
        for forebay in started:
            until(
                lambda forebay=forebay: int(row(forebay, standby)["lag"] or 0) > 1000, within_s=WITHIN_S,
                what="it sees that the standby is behind",
            )  # fmt: skip
            forebay.send_signal(signal.SIGSTOP)
        # All of it happens while nobody looks.
        admin(standby, "select pg_wal_replay_resume()")
        primary.kill()
        promote(standby)
        admin(standby, "create table own as select generate_series(1, 100000)")
        standby.kill()
        standby.start()
        for forebay in started:
            forebay.send_signal(signal.SIGCONT)
        are(started, pair, "down", "primary")
        for forebay in started:
            (told,) = until(lambda forebay=forebay: forebay.events("failover_loss"), within_s=WITHIN_S, what="the cost")
            print(told)
            assert "missing_bytes" not in told
            assert told["missing_bytes_max"] > 1000
            assert told["missing_ms_max"] > 0
            assert "it may be less" in told["because"]


def test_two_primaries_get_no_two_writes(pair: Pair, tmp_path: Path) -> None:
    """What the loser acknowledges is lost for good, and nobody notices."""
    primary, standby = pair
    with forebays(pair, tmp_path) as started, contextlib.ExitStack() as stack:
        are(started, pair, "primary", "replica")
        # They do not wait for a standby: else the loser could acknowledge nothing anyway.
        crowds = crowds_of(started, stack)
        promote(standby)
        are(started, pair, "deposed", "primary")
        for forebay in started:
            (deposed,) = [one for one in forebay.events("endpoint_role") if one["role"] == "deposed"]
            print(forebay.variant, "deposed", deposed["time"], "standby:", *_moments(standby), sep="\n  ")
        there = keys(primary)
        write_on(crowds, 100)
        assert keys(primary) == there, "the loser gets nothing any more"
        stack.close()
        on_both = keys(standby)
        for forebay, crowd in zip(started, crowds, strict=True):
            known = crowd.ledger
            lost = known.committed - on_both
            print(forebay.variant, known.codes, f"{len(lost)} of {len(known.committed)} were the loser's last")
            assert known.foreign == []
            assert lost <= there, "what was acknowledged is at one of both"
            assert set(known.codes) <= {"08007", "57P01"}, known.codes
            assert not set(known.failed) & on_both


def crowds_of(started: list[Forebay], stack: contextlib.ExitStack) -> list[Clients]:
    """Clients of each, who write."""
    crowds = [Clients(each.target, CLIENTS, first=number * CLIENTS) for number, each in enumerate(started)]
    for crowd in crowds:
        stack.enter_context(crowd)
    write_on(crowds, 50)
    return crowds


def write_on(crowds: list[Clients], count: int) -> None:
    """Waits until each has so many more acknowledged."""
    before = [crowd.ledger.served for crowd in crowds]
    for crowd, served in zip(crowds, before, strict=True):
        until(
            lambda crowd=crowd, served=served: crowd.ledger.served > served + count, within_s=WITHIN_S,
            what="they write",
        )  # fmt: skip


def _moments(standby: Postgres) -> list[str]:
    """When it was promoted, by its own log."""
    words = ("received promote request", "selected new timeline", "ready to accept connections")
    lines = (standby.folder / "log").read_text().split("\n")
    return [line for line in lines if any(word in line for word in words)][-3:]


def test_a_primary_that_comes_back_as_a_standby_gets_no_write(pair: Pair, tmp_path: Path) -> None:
    """It answers where it always did, and refuses each write with 25006."""
    primary, standby = pair
    with forebays(pair, tmp_path) as started, contextlib.ExitStack() as stack:
        are(started, pair, "primary", "replica")
        crowds = crowds_of(started, stack)
        # In order: all that was written is there when it has ended.
        primary.stop(signal.SIGINT)
        promote(standby)
        are(started, pair, "down", "primary")
        data = primary.folder / "data"
        with (data / "postgresql.auto.conf").open("a") as conf:
            conf.write(f"primary_conninfo = 'host=127.0.0.1 port={standby.port} user=postgres'\n")
        (data / "standby.signal").touch()
        primary.start()
        are(started, pair, "replica", "primary")
        caught_up(standby, primary)
        write_on(crowds, 50)
        stack.close()
        there = keys(standby)
        for forebay, crowd in zip(started, crowds, strict=True):
            known = crowd.ledger
            print(forebay.variant, known.codes)
            assert "25006" not in known.codes, known.codes
            assert known.committed <= there, "nothing acknowledged is lost"
            assert not set(known.failed) & there


def test_a_forebay_that_stood_still_blames_nobody(pair: Pair, tmp_path: Path) -> None:
    """Its own pause looks to it like everybody else's."""
    primary, standby = pair
    with forebays(pair, tmp_path) as started:
        are(started, pair, "primary", "replica")
        for forebay in started:
            canary_is(forebay, primary, "confirmed")
        told = [len(forebay.events("endpoint_role")) for forebay in started]
        with started[0].target.connect(autocommit=True) as client:
            for forebay in started:
                forebay.send_signal(signal.SIGSTOP)
            with standby.target.connect(user="postgres", autocommit=True) as asked:
                asked.execute("select pg_sleep(10)")
            for forebay in started:
                forebay.send_signal(signal.SIGCONT)
            client.execute("insert into scratch values (3, 'goes on')")
        for forebay, before in zip(started, told, strict=True):
            answered = row(forebay, primary)["answered_ms"]
            until(
                lambda forebay=forebay: int(row(forebay, primary)["answered_ms"] or 0) < 1000, within_s=WITHIN_S,
                what=f"it asks again, {answered}",
            )  # fmt: skip
            canary_is(forebay, primary, "confirmed")
            assert len(forebay.events("endpoint_role")) == before, "no role has changed"
            assert forebay.events("canary_late") == []


def test_a_restart_does_not_forget_who_was_deposed(pair: Pair, tmp_path: Path) -> None:
    """The old primary is the only one that answers when forebay comes back."""
    _primary, standby = pair
    with forebays(pair, tmp_path, clusters={"file": "clusters.json"}) as started:
        are(started, pair, "primary", "replica")
        promote(standby)
        are(started, pair, "deposed", "primary")
        for forebay in started:
            file = forebay.folder / "clusters.json"
            until(lambda file=file: '"timeline": 2' in file.read_text(), within_s=WITHIN_S, what="it is kept")
            # As a crash would: nothing is kept at its end.
            forebay.kill()
        standby.stop(signal.SIGQUIT)
        for forebay in started:
            again(forebay)
        are(started, pair, "deposed", "down")
        for forebay in started:
            forebay.stop()
            (forebay.folder / "clusters.json").write_text("{")
            again(forebay)
        # Without it, it is taken for what it says that it is.
        are(started, pair, "primary", "down")
        for forebay in started:
            (told,) = forebay.events("memory_broken")
            assert told["level"] == "error"
            assert (forebay.folder / "clusters.json.broken").read_text() == "{"


def again(forebay: Forebay) -> None:
    """Starts it once more."""
    starts = len(forebay.events("start"))
    forebay.start()
    until(lambda: len(forebay.events("start")) > starts, within_s=WITHIN_S, what="it has started")
