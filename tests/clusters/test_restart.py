"""An online restart of a forebay that follows a cluster: what is known of the endpoints outlives it."""

from __future__ import annotations

import os
import signal

import pytest

from tests.clusters.test_roles import clustered, endpoints
from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Variant, configuration
from tests.harness.postgres import Postgres, free_port

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

# Longer than the test may take: no probe of the new process is answered, or missed, before its end.
PROBE_S = 60


def test_nobody_waits_until_the_new_process_has_asked_the_endpoints(
    pair: tuple[Postgres, Postgres], variant: Variant, start: Start
) -> None:
    """Its first probes may take long; the process before it has just been answered."""
    primary, standby = pair
    split = clustered(*pair, read_write_split=True, read_consistency="eventual", poll_timeout=f"{PROBE_S}s")
    listen = {"port": free_port(), "address": ["127.0.0.1"]}
    forebay = start(configuration(primary, variant, databases={"app": split}, listen=listen))
    endpoints(forebay, "app", 2)
    # A replica is asked for: whether a text reads is not known before the catalogue has been read again.
    sql = "/* forebay: role=replica */ select current_setting('port')::int"
    with forebay.target.connect(autocommit=True) as client:
        until(lambda: client.execute(sql).fetchone() == (standby.port,), within_s=30, what="reads are the replica's")
        client.execute("insert into scratch values (1, 'before')")
        postmasters = [int((one.folder / "data" / "postmaster.pid").read_text().split()[0]) for one in pair]
        for pid in postmasters:
            # What is connected goes on, and nobody is let in: no probe of a new process is answered.
            os.kill(pid, signal.SIGSTOP)
        try:
            forebay.upgrade()
            client.execute("insert into scratch values (2, 'after')")
            assert client.execute(sql).fetchone() == (standby.port,)
            rows = endpoints(forebay, "app", 2)
            assert {row["role"] for row in rows.values()} == {"primary", "replica"}
            assert {row["answered_ms"] for row in rows.values()} == {None}, "it has asked in vain so far"
        finally:
            for pid in postmasters:
                os.kill(pid, signal.SIGCONT)
        answered = lambda: {row["answered_ms"] is None for row in endpoints(forebay, "app", 2).values()}  # noqa: E731
        until(lambda: answered() == {False}, within_s=60, what="they have answered")
        client.execute("insert into scratch values (3, 'after')")
    told = [one["role"] for one in forebay.events("endpoint_role")]
    assert sorted(told) == ["primary", "replica"], "of no role that is as before it is told anew"
