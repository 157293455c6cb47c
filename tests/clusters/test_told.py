"""A running forebay whose endpoints a source tells of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Start
from tests.harness import etcd
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres, free_port
from tests.harness.wire import query


@pytest.mark.variants("epoll-2")
def test_an_online_restart_keeps_what_the_source_has_told(
    server: Postgres, standby: Postgres, variant: Variant, start: Start, tmp_path: Path
) -> None:
    """While the source is away, the listed endpoints would be in force: nobody would be served."""
    with etcd.running(tmp_path) as store:
        store.put("/service/shop/leader", "one", lease=store.call("lease/grant", {"TTL": "600"})["ID"])
        for name, node, role in (("one", server, "primary"), ("two", standby, "replica")):
            url = f"postgres://127.0.0.1:{node.port}/postgres"
            store.put(f"/service/shop/members/{name}", {"conn_url": url, "state": "running", "role": role})
        database = {
            "endpoints": [f"127.0.0.1:{free_port()}"], "topology": "etcd", "poll_user": "postgres",
            "topology_source": f"etcd://{store.host}/shop",
        }  # fmt: skip
        listen = {"port": free_port(), "address": ["127.0.0.1"]}
        forebay = start(configuration(server, variant, databases={"app": database}, listen=listen))
        until(lambda: set(roles(forebay).values()) == {"primary", "replica"}, within_s=10, what="both are known")
        with forebay.target.wire() as busy, forebay.target.wire() as idle:
            backend = busy.value("select pg_backend_pid()")
            busy.ask(query("begin"))
            assert idle.value("select 1") == "1"
            store.stop()
            forebay.upgrade()
            assert busy.value("select pg_backend_pid()") == backend
            busy.ask(query("commit"))
            assert idle.value("select 2") == "2"
        assert roles(forebay) == {f"127.0.0.1:{server.port}": "primary", f"127.0.0.1:{standby.port}": "replica"}
        for node, role in ((server, "primary"), (standby, "replica")):
            labels = f'database="app",endpoint="127.0.0.1:{node.port}"'
            assert f'forebay_endpoint_role{{{labels},role="{role}"}} 1\n' in forebay.metrics()
        assert f'forebay_endpoint_lag_bytes{{database="app",endpoint="127.0.0.1:{standby.port}"}}' in forebay.metrics()
        assert forebay.events("topology_source_away")[-1]["keeps"] == "what it told last"


def roles(forebay: Forebay) -> dict[str | None, str | None]:
    """SHOW ENDPOINTS."""
    return {row["endpoint"]: row["role"] for row in forebay.console("show endpoints")}
