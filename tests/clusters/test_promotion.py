"""A standby that is told to be promoted in the wrong moment."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from forebay.config.resolved import ServerTls
from forebay.config.topology import Topology
from forebay.control.switchover.line import Line
from forebay.control.switchover.promotion import Asked

from tests.harness import postgres
from tests.harness.certificates import Authority
from tests.harness.deadline import until
from tests.harness.postgres import Postgres
from tests.harness.standby import standby_of

# What it waits out where nobody wakes it, and what it may take where somebody does.
RETRY_S, WITHIN_S = 90, 40


def test_a_standby_that_waits_to_ask_again_is_woken(authority: Authority) -> None:
    """All requests wait for it, for 5 s with PostgreSQL's own setting."""
    with postgres.running(18, authority) as primary, standby_of(primary) as standby:
        with standby.target.connect(user="postgres", autocommit=True) as asked:
            asked.execute(f"alter system set wal_retrieve_retry_interval = '{RETRY_S}s'".encode())
            asked.execute("select pg_reload_conf()")
            until(
                lambda: asked.execute("show wal_retrieve_retry_interval").fetchone() == ("90s",), within_s=WITHIN_S,
                what="it is set",
            )  # fmt: skip
        print(f"promoted after {asyncio.run(_promoted(standby)):.2f} s")


async def _promoted(standby: Postgres) -> float:
    endpoint = f"127.0.0.1:{standby.port}"
    tls = ServerTls("disable", None, None, None)
    of = Topology("poll", "app", (endpoint,), "app", "postgres", None, tls, 1.0, 1.0, 2, 0, is_followed=False)
    candidate = Line(of, endpoint)
    assert await candidate.can_write() is False
    receiver = await asyncio.to_thread(_receiver, standby)
    # The postmaster is late, as on a busy machine: it hears of the promotion before it has started another receiver.
    with standby.target.connect(user="postgres", autocommit=True) as asked:
        os.kill(standby.pid, signal.SIGSTOP)
        try:
            os.kill(receiver, signal.SIGTERM)
            sql = "select wait_event from pg_stat_activity where backend_type = 'walreceiver'"
            until(lambda: asked.execute(sql.encode()).fetchone() is None, within_s=WITHIN_S, what="it has lost that")
            began = time.monotonic()
            promoting = asyncio.ensure_future(Asked(candidate).begin(WITHIN_S))
            file = standby.folder / "data" / "promote"
            async with asyncio.timeout(WITHIN_S):
                while not file.exists():  # noqa: ASYNC110 - a file has no event
                    await asyncio.sleep(0.01)
        finally:
            os.kill(standby.pid, signal.SIGCONT)
        async with asyncio.timeout(WITHIN_S):
            await promoting
    candidate.close()
    assert "received promote request" in (standby.folder / "log").read_text()
    return time.monotonic() - began


def _receiver(standby: Postgres) -> int:
    with standby.target.connect(user="postgres", autocommit=True) as asked:
        found = asked.execute("select pid from pg_stat_wal_receiver").fetchone()
    assert found is not None
    return int(found[0])
