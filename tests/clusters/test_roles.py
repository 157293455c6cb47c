"""Roles of endpoints: found by asking them, and followed by what the databases of a cluster are for."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.wire import startup

pytestmark = pytest.mark.variants("uring-2", "epoll-1")


def clustered(*servers: Postgres, **settings: Any) -> dict[str, Any]:
    """A database of the configuration whose endpoints have roles."""
    endpoints = [f"127.0.0.1:{one.port}" for one in servers]
    return {"endpoints": endpoints, "topology": "poll", "poll_user": "app", **settings}


def endpoints(forebay: Forebay, database: str, known: int) -> dict[str, dict[str, str | None]]:
    """SHOW ENDPOINTS of a database, once so many have another role than unknown."""

    def found() -> dict[str, dict[str, str | None]]:
        rows = {str(row["endpoint"]): row for row in forebay.console("show endpoints") if row["database"] == database}
        return rows if sum(row["role"] != "unknown" for row in rows.values()) == known else {}

    return until(found, within_s=10, what="the endpoints' roles are known")


def asked(forebay: Forebay, database: str, sql: str = "select pg_is_in_recovery()") -> Any:
    """What a client of a database is answered."""
    with forebay.target.at(dbname=database).connect(autocommit=True) as client:
        return client.execute(sql.encode()).fetchall()


def test_roles_are_found_and_clients_get_what_their_database_is_for(
    server: Postgres, standby: Postgres, server_15: Postgres, variant: Variant, start: Start
) -> None:
    """The standby is listed first: the place in a list says nothing."""
    nodes = standby, server
    forebay = start(
        configuration(
            server,
            variant,
            databases={
                "writes": clustered(*nodes),
                "reads": clustered(*nodes, role="replica"),
                "any": clustered(*nodes, role="any"),
                "mixed": clustered(server_15, *nodes),
                "nobody": clustered(server, role="replica", query_wait_timeout="200ms"),
            },
        )
    )
    primary, replica, stranger = (f"127.0.0.1:{one.port}" for one in (server, standby, server_15))
    found = endpoints(forebay, "writes", 2)
    assert {name: row["role"] for name, row in found.items()} == {primary: "primary", replica: "replica"}
    assert found[replica]["lag"] is not None
    assert found[primary]["lag"] is None
    assert found[primary]["timeline"] == found[replica]["timeline"] == "1"
    assert "/" in str(found[primary]["lsn"])
    for _ in range(4):
        assert asked(forebay, "writes") == [(False,)]
        assert asked(forebay, "reads") == [(True,)]
    used = {row["port"] for row in forebay.console("show servers") if row["database"] == "writes"}
    assert used == {str(server.port)}
    clients = [forebay.target.at(dbname="any").connect() for _ in range(4)]
    assert {client.execute("select pg_is_in_recovery()").fetchone() for client in clients} == {(False,), (True,)}
    for client in clients:
        client.close()
    assert endpoints(forebay, "mixed", 3)[stranger]["role"] == "stranger"
    assert asked(forebay, "mixed") == [(False,)]
    refused = [event for event in forebay.events("endpoint_role") if event["role"] == "stranger"]
    assert [(event["level"], event["endpoint"]) for event in refused] == [("error", stranger)]
    waited = forebay.target.first(startup(user="app", database="nobody"))[-1].fields
    assert (waited["C"], waited["M"][:34]) == ("57P03", 'no replica of database "nobody" wa')
    assert "(FB415)" in waited["H"]


def test_target_session_attrs_find_the_database_that_is_for_them(
    server: Postgres, standby: Postgres, variant: Variant, start: Start
) -> None:
    """libpq tells no server what it looks for: it judges by what it is greeted with, and goes to its next host."""
    nodes = server, standby
    writing = start(configuration(server, variant, databases={"shop": clustered(*nodes, read_write_split=True)}))
    reading = start(configuration(server, variant, databases={"shop": clustered(*nodes, role="replica")}))
    for forebay in (writing, reading):
        endpoints(forebay, "shop", 2)
    for forebay, says in ((writing, "off"), (reading, "on")):
        with forebay.target.at(dbname="shop").wire() as greeted:
            assert greeted.parameters["in_hot_standby"] == says, "else libpq asks, each time"
    by_attribute = {
        "read-write": writing, "primary": writing, "read-only": reading, "standby": reading, "prefer-standby": reading,
    }  # fmt: skip
    for wanted, forebay in by_attribute.items():
        for first, second in ((writing, reading), (reading, writing)):
            ports = {"host": "127.0.0.1,127.0.0.1", "port": f"{first.port},{second.port}"}
            target = first.target.at(dbname="shop")
            with target.connect(**ports, target_session_attrs=wanted) as client:
                assert client.info.port == forebay.port, (wanted, ports)
        other = reading if forebay is writing else writing
        if wanted != "prefer-standby":
            with pytest.raises(psycopg.OperationalError, match=r"session is|server is"):
                other.target.at(dbname="shop").connect(target_session_attrs=wanted)


@pytest.mark.parametrize("role", ["primary", "replica"])
def test_a_session_may_say_where_it_goes_as_it_logs_in(
    role: str, server: Postgres, standby: Postgres, variant: Variant, start: Start
) -> None:
    """A connection string is what every driver lets one change."""
    split = clustered(server, standby, read_write_split=True)
    forebay = start(configuration(server, variant, databases={"shop": split}))
    endpoints(forebay, "shop", 2)
    # By themselves they go to the other one each.
    expected, text = {
        "primary": (server, "select current_setting('port')"),
        "replica": (standby, "select current_setting('port') where pg_is_in_recovery()"),
    }[role]
    with forebay.target.at(dbname="shop").connect(autocommit=True, options=f"-c forebay.role={role}") as client:
        for _ in range(4):
            assert client.execute(text.encode()).fetchone() == (str(expected.port),)


def test_a_server_that_does_not_let_the_poll_in_keeps_its_role(
    server: Postgres, standby: Postgres, variant: Variant, start: Start
) -> None:
    """A password that was changed, or a server that is full, is no failover."""
    database = clustered(server, standby, poll_user="other", poll_interval="100ms")
    forebay = start(configuration(server, variant, databases={"app": database}))
    primary = f"127.0.0.1:{server.port}"
    assert endpoints(forebay, "app", 2)[primary]["role"] == "primary"
    with server.target.connect(user="postgres", autocommit=True) as admin:
        admin.execute("alter role other nologin")
        try:
            polls = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'forebay poll'"
            admin.execute(polls)  # type: ignore[arg-type]
            late = until(
                lambda: next(
                    (row for row in forebay.console("show endpoints") if int(row["answered_ms"] or 0) > 1000), None
                ),
                within_s=10, what="many polls are refused",
            )  # fmt: skip
            assert late["endpoint"] == primary
            assert "not permitted to log in" in str(late["error"])
            assert late["role"] == "primary"
            (told,) = [line for line in forebay.events("probe_refused") if line["endpoint"] == primary]
            assert "not permitted to log in" in told["error"]
            assert asked(forebay, "app") == [(False,)]
        finally:
            admin.execute("alter role other login")
    until(
        lambda: all(row["error"] is None for row in forebay.console("show endpoints")),
        within_s=10, what="they are let in again",
    )  # fmt: skip
