"""What monitoring reads of `forebay-pgbouncer`'s console: PgBouncer's tables, by name and by place, for whoever may."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from forebay.admin.registry import COMMANDS

from tests.harness import drop_in
from tests.harness.deadline import until
from tests.harness.drop_in import DropIn, Make
from tests.harness.pooler import asked, columns
from tests.harness.postgres import Postgres
from tests.harness.wire import Frame, Wire, bind, describe, execute, parse, query, row, sync

_COUNTS = "server_assignment_count xact_count query_count"
_PARSES = "client_parse_count server_parse_count bind_count client_login_count"
_TIMES = "xact_time query_time wait_time"
_SOCKETS = (
    "type user database replication state addr port local_addr local_port connect_time request_time wait wait_us "
    "close_needed ptr link remote_pid tls application_name prepared_statements id"
)


def _with(prefix: str, names: str) -> str:
    return " ".join(prefix + name for name in names.split())


# The columns of PgBouncer 1.25.2.
PGBOUNCERS = {
    "stats": f"database {_with('total_', f'{_COUNTS} received sent {_TIMES} {_PARSES}')} "
    f"{_with('avg_', f'{_COUNTS} recv sent {_TIMES} {_PARSES}')}",
    "stats_totals": f"database {_COUNTS} bytes_received bytes_sent {_TIMES} {_PARSES}",
    "stats_averages": f"database {_COUNTS} bytes_received bytes_sent {_TIMES} {_with('avg_', _PARSES)}",
    "totals": "name value",
    "pools": "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active "
    "sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode "
    "load_balance_hosts",
    "peer_pools": "peer_id cl_active_cancel_req cl_waiting_cancel_req sv_active_cancel sv_login",
    "clients": _SOCKETS,
    "servers": _SOCKETS,
    "sockets": f"{_SOCKETS} recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail",
    "active_sockets": f"{_SOCKETS} recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail",
    "databases": "name host port database force_user pool_size min_pool_size reserve_pool_size server_lifetime "
    "pool_mode load_balance_hosts max_connections current_connections max_client_connections "
    "current_client_connections paused disabled",
    "users": "name pool_size reserve_pool_size pool_mode max_user_connections current_connections "
    "max_user_client_connections current_client_connections",
    "peers": "peer_id host port pool_size",
    "lists": "list items",
    "fds": "fd task user database addr port cancel link client_encoding std_strings datestyle timezone password "
    "scram_client_key scram_server_key",
    "mem": "name size used free memtotal",
    "state": "key value",
    "version": "version",
    "dns_hosts": "hostname ttl addrs",
    "dns_zones": "zonename serial count",
    "config": "key value default changeable",
}
# Those behind which columns of forebay's own may stand: whoever reads them by place stops before.
WIDER = ("pools", "clients", "servers", "dns_hosts")
# What exporters take for numbers.
NUMBERS = {
    "stats_totals": PGBOUNCERS["stats_totals"].split()[1:],
    "pools": PGBOUNCERS["pools"].split()[2:15],
    "databases": ["pool_size", "max_connections", "current_connections", "paused", "disabled"],
}


@pytest.fixture(scope="module")
def running(server: Postgres) -> Iterator[DropIn]:
    """One that has served a client, who is still there."""
    with drop_in.maker(server) as make:
        made: Make = make
        begun = made(peer_id="1")
        begun.path.write_text(begun.path.read_text() + "[peers]\n2 = host=10.0.0.2\n")
        begun.start()
        with begun.target.wire() as wire:
            wire.ask(query("begin"))
            yield begun


def console(running: DropIn, user: str = "ops") -> Wire:
    """A session of a user's with the console."""
    return running.target.at(user=user, dbname="pgbouncer").wire()


def described(frames: list[Frame]) -> list[str]:
    """Names of the columns in an answer."""
    return next((columns(frame.body) for frame in frames if frame.tag == "T"), [])


@pytest.mark.parametrize("name", sorted(PGBOUNCERS))
def test_every_table_has_pgbouncers_columns_by_either_protocol(running: DropIn, name: str) -> None:
    """Exporters and scripts read them by name and by place; many drivers ask by the extended protocol only."""
    expected = PGBOUNCERS[name].split()
    with console(running) as wire:
        simple = wire.ask(query(f"SHOW {name}"))
        named = described(simple)
        assert named[: len(expected)] == expected
        assert name in WIDER or named == expected
        packets = (parse("", f"SHOW {name}"), bind(), describe("P"), execute(), sync())
        extended = wire.ask(*packets)
        assert [frame.tag for frame in extended if frame.tag == "E"] == []
        assert described(extended) == named
        assert next(frame.body for frame in extended if frame.tag == "C") == b"SHOW\0"
        widths = {len(row(frame)) for frame in (*simple, *extended) if frame.tag == "D"}
        assert widths in (set(), {len(named)})
        # SELECT is SHOW, as in PgBouncer.
        assert described(wire.ask(query(f"SELECT {name}"))) == named
    ours = {"budgets", "endpoints", "errors", "failovers", "fleet", "help", "pins", "route", "workers"}
    assert set(PGBOUNCERS) | ours >= {
        command.removeprefix("show ") for command in COMMANDS if command.startswith("show ")
    }, "a new table is to be listed here"


def test_every_command_has_the_role_of_the_one_table(running: DropIn) -> None:
    """A stats user looks, an admin does everything, nobody else gets in; by either protocol."""
    with console(running, "watcher") as wire:
        for name, command in COMMANDS.items():
            is_for_admins = command.stand_in_role is None and command.role.name == "ADMIN"
            for frames in (
                wire.ask(query(name)),
                wire.ask(parse("", name), bind(), execute(), sync()),
            ):
                errors = [frame.fields for frame in frames if frame.tag == "E"]
                if is_for_admins:
                    assert [(error["M"], error["C"]) for error in errors] == [("admin access needed", "42501")], name
                else:
                    assert errors == [], name
    with pytest.raises(psycopg.OperationalError):
        running.target.at(user="app", dbname="pgbouncer").connect()


def of_app(wire: Wire, command: str) -> list[dict[str, str | None]]:
    """The rows that are about its database."""
    return [one for one in asked(wire, command) if one["database"] == "app"]


def test_a_client_and_its_server_are_shown_with_both_ends(running: DropIn) -> None:
    """Who looks into a packet trace, or at ss, finds the connection by these."""
    with console(running) as wire:
        # Who reads the catalogue is among them for a moment.
        until(lambda: len(of_app(wire, "SHOW SERVERS")) == 1, within_s=30, what="there is one server")
        (client,), (server,) = of_app(wire, "SHOW CLIENTS"), of_app(wire, "SHOW SERVERS")
        fds = {one["fd"]: one for one in asked(wire, "SHOW FDS")}
        by_place = asked(wire, "SHOW ACTIVE_SOCKETS")
    assert (client["local_addr"], client["local_port"]) == ("127.0.0.1", str(running.port))
    assert (client["link"], server["link"]) == (server["ptr"], client["ptr"])
    assert (server["local_addr"], server["port"]) == ("127.0.0.1", str(running.server.port))
    assert f"new connection to server (from 127.0.0.1:{server['local_port']})" in running.log()
    assert {one["type"] for one in by_place} == {"C", "S"}
    (of_client,) = [one for one in fds.values() if (one["task"], one["database"]) == ("client", "app")]
    assert fds[of_client["link"]]["task"] == "server"
    assert (of_client["addr"], of_client["port"]) == (client["addr"], client["port"])


def test_who_came_over_the_unix_socket_has_its_number(running: DropIn) -> None:
    """As PgBouncer writes it, for what reads the log and SHOW CLIENTS."""
    with running.target.at(host=str(running.folder), user="ops", dbname="pgbouncer").wire() as wire:
        (own,) = [one for one in asked(wire, "SHOW CLIENTS") if one["addr"] == "unix"]
    assert (own["port"], own["local_addr"], own["local_port"]) == (str(running.port), "unix", str(running.port))
    running.says(f": pgbouncer/ops@unix:{running.port} closing because: client unexpected eof")


def test_a_scrape_as_pgbouncer_exporter_does_it_reads_without_change(running: DropIn) -> None:
    """The steps of prometheus-community/pgbouncer_exporter: where one fails it says that the pooler is down."""
    with console(running, "watcher") as wire:
        (version,) = wire.rows("SHOW VERSION;")
        assert str(version[0]).startswith("PgBouncer 1.")
        lists = {str(name): int(str(items)) for name, items in wire.rows("SHOW LISTS;")}
        known = "databases users pools free_clients used_clients login_clients free_servers used_servers"
        assert set(known.split()) <= set(lists)
        assert {len(line) for line in wire.rows("SHOW CONFIG;")} == {4}
        config = {line[0]: line[1] for line in wire.rows("SHOW CONFIG;")}
        assert float(str(config["max_client_conn"])) == 100
        clients = asked(wire, "SHOW CLIENTS;")
        assert {"database", "user", "application_name", "state"} <= set(clients[0])
        for name, numbers in NUMBERS.items():
            scraped = asked(wire, f"SHOW {name};")
            assert scraped, name
            for one in scraped:
                assert all(float(str(one[column])) >= 0 for column in numbers), (name, one)
        totals = {one["name"]: int(str(one["value"])) for one in asked(wire, "SHOW TOTALS")}
        assert totals["total_client_login_count"] >= 1
