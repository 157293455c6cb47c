"""The console: statements in, backend messages out."""

from __future__ import annotations

import asyncio
import re
import struct
import time
from typing import Any

import msgspec
import pytest
from forebay._generated.show import COLUMNS
from forebay.admin.answer import Answer, Table
from forebay.admin.backend import BudgetRow, EndpointRow, FailoverRow, Identity, NodeRow, Shutdown, SwitchoverOrder
from forebay.admin.console import Asked, Console
from forebay.admin.registration import Role
from forebay.admin.registry import COMMANDS
from forebay.admin.snapshot import PeerPool, Snapshot, Socket, decode
from forebay.observe.stats import PoolCounters, Totals, WorkerCounters

from tests.unit.admin.world import CONFIG, FakeBackend, Reply, client, engine_config, pool, read, server

# What PgBouncer keeps and forebay does without, and what is answered by a notice: tables without rows.
EMPTY = ("help", "dns_hosts", "dns_zones")


def ask(text: str, backend: FakeBackend | None = None, *, user: str = "ops", **more: Any) -> Reply:
    """What the console says to `user`."""
    return read(asyncio.run(Console(backend or FakeBackend()).answer(Asked(user, text, **more))))


def stand_in(**held: Any) -> FakeBackend:
    """A service that stands in for PgBouncer."""
    return FakeBackend(identity=Identity("0.1.0", "io_uring", 2, is_pgbouncer=True), **held)


def test_every_show_answers_with_the_columns_of_its_row_in_spec() -> None:
    """Exporters read columns by name and position."""
    backend = FakeBackend(
        config=engine_config(f'{CONFIG}[listen]\npeer_id = 1\n[peers.2]\nendpoint = "10.0.0.2:6432"\n'),
        held=Snapshot(
            [client(pin=("listen",), server=7, socket=Socket(11, "127.0.0.1", 6432))],
            [server(socket=Socket(12, "unix", 0))],
            [pool()],
            ["blog"],
            peers=[PeerPool(2, 0, 0, 0, 0)],
        ),
        counted={"shop": Totals(xact_count=3)},
        averaged={"shop": Totals(xact_count=1)},
        working=[WorkerCounters(1, 2, 3, 4, 5, 6, 7)],
        pooled=[PoolCounters("shop", "app", *[0] * 12, refusals={"FB201": 2}, server_errors={"23": 1})],
        clustered=[EndpointRow("shop", "10.0.0.5:5432", "primary", "can write", 1, 1 << 32, None, 0.25, None)],
        nodes=[NodeRow("a", "this", "127.0.0.1:6432", "0.1.0", 0.0, "10.0.0.5:5432"),
               NodeRow("b", "absent", None, None, None, "")],
        failed_over=[FailoverRow("shop", "a:1", "b:1", 2, True, 0, 0.0, "it was planned", time.monotonic())],
        parts=[BudgetRow("shop", 60, "a", 40, 30, 35, 12), BudgetRow("shop", 60, "b", 20, 20, 0, None)],
    )  # fmt: skip
    for name, columns in COLUMNS.items():
        reply = ask("EXPLAIN ROUTE shop 'select 1'" if name == "route" else f"SHOW {name}", backend)
        assert reply.error is None, (name, reply.error)
        assert reply.tag == "SHOW"
        assert [column for column, _ in reply.columns] == [column for column, _ in columns], name
        assert bool(reply.rows) is (name not in EMPTY), name


@pytest.mark.parametrize("words", ["shop", "shop select 1", "shop select 1 from a join b on true"])
def test_a_route_is_explained_of_a_quoted_text(words: str) -> None:
    """A statement is rarely one word, and whoever leaves out the quotes is told of them."""
    refused = ask(f"EXPLAIN ROUTE {words}").error
    assert refused is not None
    assert "the form is EXPLAIN ROUTE database 'text', the text in quotes" in refused["M"]


def test_descriptors_are_shown_without_secrets_to_admins_alone() -> None:
    """PgBouncer shows passwords and SCRAM keys there; a stats user gets neither."""
    backend = FakeBackend(
        held=Snapshot(
            [client(id=3, server=7, socket=Socket(11, "127.0.0.1", 6432)), client(id=4)],
            [server(id=7, client=3, socket=Socket(12, "10.0.0.1", 5000))],
        )
    )
    first, second = ask("SHOW FDS", backend).records()
    assert (first["fd"], first["task"], first["link"], second["fd"], second["task"], second["link"]) == (
        "11", "client", "12", "12", "server", "11",
    )  # fmt: skip
    secret = ("cancel", "password", "scram_client_key", "scram_server_key")
    assert {row[name] for row in (first, second) for name in secret} == {None}
    refused = ask("SHOW FDS", backend, user="eve").error
    assert refused is not None
    assert refused["C"] == "42501"
    assert [(row["local_addr"], row["local_port"]) for row in ask("SHOW CLIENTS", backend).records()] == [
        ("127.0.0.1", "6432"), (None, None),
    ]  # fmt: skip


def test_every_row_of_spec_has_a_command_and_every_command_a_row() -> None:
    """SHOW HELP would name what is not there, or hide what is."""
    shows = {name.removeprefix("show ") for name in COMMANDS if name.startswith("show ")}
    assert shows == set(COLUMNS)
    detail = ask("SHOW HELP").notices[0]["D"].upper()
    for name in COMMANDS:
        assert re.search(rf"^\t{name.upper()}\b", detail, re.MULTILINE), name


def test_a_pin_is_shown_with_its_server_its_cause_and_what_releases_it() -> None:
    """A pool that is held by sessions looks like one that is too small, until somebody sees this."""
    long = client(id=1, server=7, pin=("temporary object", "advisory lock"), pinned_us=9_000_000, pin_verb="CREATE")
    short = client(id=2, server=8, pin=("seed", "sequence"), pinned_us=1_000_000, pin_verb="SELECT")
    backend = FakeBackend(held=Snapshot([client(id=3), short, long], [server(dirt=("setting", "opaque"))]))
    first, second = ask("SHOW PINS", backend).records()
    assert (first["id"], first["server"], first["remote_pid"], first["statement"]) == ("1", "7", "4711", "CREATE")
    assert first["reasons"] == "temporary object, advisory lock"
    assert (first["released_by"] or "").startswith("DROP of what is temporary, or the end of the session; pg_advisory")
    assert first["pinned_since"] < second["pinned_since"]  # type: ignore[operator]
    assert (second["id"], second["remote_pid"]) == ("2", None)
    assert second["released_by"] == "the end of the session, or pin_idle_limit"
    shown = {one["id"]: (one["pin"], one["pinned_since"]) for one in ask("SHOW CLIENTS", backend).records()}
    assert shown == {"1": (first["reasons"], first["pinned_since"]), "2": ("seed, sequence", second["pinned_since"]),
                     "3": ("", None)}  # fmt: skip
    held = ask("SHOW SERVERS", backend).records()[0]
    assert (held["pin"], held["dirt"]) == ("temporary object, advisory lock", "setting, opaque")


def test_a_worker_tells_what_a_transaction_takes() -> None:
    """By what it spends on each transaction one sees whether a worker batches; none has been counted at the start."""
    busy = WorkerCounters(9, transactions=8, requests=10, loop_turns=2, io_calls=3, copied_bytes=0, lent_servers=12)
    idle = WorkerCounters(0, 0, 0, loop_turns=5, io_calls=5, copied_bytes=0, lent_servers=0)
    first, second = ask("SHOW WORKERS", FakeBackend(working=[busy, idle])).rows
    assert first == ["0", "9", "8", "10", "2", "3", "0", "12", "0.250", "0.375", "0.000", "1.500"]
    assert second == ["1", "0", "0", "0", "5", "5", "0", "0", None, None, None, None]


def test_an_engine_that_reports_no_pins_is_read_as_having_none() -> None:
    """The snapshot's fields about pins are optional."""
    rows = [msgspec.structs.asdict(one) for one in (client(), server())]
    for name in ("pin", "pinned_us", "pin_verb"):
        del rows[0][name]
    del rows[1]["dirt"]
    snapshot = decode(msgspec.json.encode({"worker": 0, "clients": rows[:1], "servers": rows[1:]}))
    assert (snapshot.clients[0].pin, snapshot.servers[0].dirt) == ((), ())
    assert ask("SHOW PINS", FakeBackend(held=snapshot)).rows == []


def test_pools_are_shown_with_seconds_and_microseconds_of_the_longest_wait() -> None:
    """Alerts on maxwait are the commonest ones there are."""
    backend = FakeBackend(held=Snapshot(pools=[pool()]))
    record = ask("show pools", backend).records()[0]
    assert (record["database"], record["user"], record["cl_waiting"]) == ("shop", "app", "1")
    assert (record["maxwait"], record["maxwait_us"], record["pool_mode"]) == ("1", "500000", "transaction")


@pytest.mark.parametrize("text", ["SELECT 1", "SHOW NOTHING", "DESTROY shop", "help"])
def test_an_unknown_command_is_told_as_it_was_typed(text: str) -> None:
    """A health check that sends SELECT 1 must not look for a SHOW in its code."""
    error = ask(text).error
    assert error is not None
    said = " ".join(text.upper().split()[: 2 if text.startswith("S") else 1])
    assert error["M"] == f'unknown console command "{said}"'


def test_clients_and_servers_are_linked_by_their_ptr() -> None:
    """The one question asked in an incident is: who holds this server?"""
    backend = FakeBackend(held=Snapshot([client(id=1188, server=7)], [server()]))
    (held,) = ask("SHOW CLIENTS", backend).records()
    (holder,) = ask("SHOW SERVERS", backend).records()
    assert (held["link"], holder["link"]) == (holder["ptr"], held["ptr"])


def test_databases_show_host_and_port_and_whether_they_are_paused() -> None:
    """The exporter's pgbouncer_databases_* come from here."""
    backend = FakeBackend(held=Snapshot(servers=[server()], pools=[pool()], paused=["blog"]))
    shop, blog = ask("SHOW DATABASES", backend).records()
    assert (shop["host"], shop["port"], shop["database"], shop["paused"]) == ("10.0.0.5", "5432", "shop_db", "0")
    assert shop["current_connections"] == "1"
    assert (blog["host"], blog["port"], blog["paused"]) == ("/run/pg/.s.PGSQL.5433", None, "1")


def test_databases_that_the_fallback_serves_are_shown_once_they_are_used() -> None:
    """They are in no file, so this is the only place to see them."""
    config = engine_config('[databases."*"]\nendpoints = ["10.0.0.5:5432"]\n[users.ops]\nsecret = "x"\n')
    backend = FakeBackend(config=config, held=Snapshot([client(database="tenant7")]))
    (row,) = ask("SHOW DATABASES", backend).records()
    assert (row["name"], row["database"], row["current_client_connections"]) == ("tenant7", "tenant7", "1")
    lists = {str(row["list"]): row["items"] for row in ask("SHOW LISTS", backend).records()}
    assert lists["databases"] == "1", "as many as are shown"


def test_the_version_names_the_driver_in_use() -> None:
    """Whether io_uring could be had is decided at the start, and decides the speed."""
    assert ask("SHOW VERSION").rows == [["forebay 0.1.0 (io_uring, 2 workers)"]]


def test_a_viewer_may_look_and_not_touch() -> None:
    """A monitoring user's password lies in many places."""
    for name, command in COMMANDS.items():
        backend = FakeBackend()
        reply = ask(name, backend, user="eve")
        if command.role is Role.ADMIN:
            assert reply.error is not None, name
            assert reply.error["C"] == "42501", name
        else:
            assert reply.error is None, name
        assert backend.orders == []


def test_commands_reach_the_service_with_their_database() -> None:
    """PAUSE of the wrong database is an outage."""
    backend = FakeBackend()
    for text in ('PAUSE "shop"', "resume", "RECONNECT blog;", "KILL shop", "RELOAD", "FORGET_NODE b",
                 "KILL_CLIENT 0x4a3", "DISABLE shop", "ENABLE shop", "WAIT_CLOSE",
                 "SET Verbose = 'a b'", "SET x TO 1"):  # fmt: skip
        assert ask(text, backend).error is None, text
    assert backend.orders == [
        ("pause", "shop"),
        ("resume", None),
        ("reconnect", "blog"),
        ("kill", "shop"),
        ("reload",),
        ("forget_node", "b"),
        ("kill_client", 0x4A3),
        ("disable", "shop"),
        ("enable", "shop"),
        ("wait_close", None),
        ("set", "verbose", "a b"),
        ("set", "x", "1"),
    ]


def test_a_switchover_reaches_the_service_and_tells_how_far_it_is() -> None:
    """A word that was taken for another would make the wrong server the primary."""
    backend, told = FakeBackend(), list[bytes]()
    reply = ask("SWITCHOVER shop TO '10.0.0.6:5432' wait 2.5 TIMEOUT 9 MANUAL cut", backend, tell=told.append)
    assert (reply.tag, [read(part).notices[0]["M"] for part in told]) == ("SWITCHOVER", ["held: all wait"])
    assert ask("SWITCHOVER shop", backend).tag == ask("SWITCHOVER shop BACK", backend).tag == "SWITCHOVER"
    assert backend.orders == [
        ("switch_over", SwitchoverOrder(database="shop", candidate="10.0.0.6:5432", end_s=2.5, limit_s=9,
                                        is_manual=True, is_cut=True)),
        ("switch_over", SwitchoverOrder(database="shop")),
        ("switch_back", "shop"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "drain"),
    [("SHUTDOWN", False), ("SHUTDOWN WAIT_FOR_CLIENTS", True), ("shutdown wait_for_servers", True)],
)
def test_shutdown_waits_when_it_is_told_to(text: str, drain: bool) -> None:
    """Deploy scripts rely on the difference; those of PgBouncer on what each word means there."""
    backend = FakeBackend()
    assert ask(text, backend).tag == "SHUTDOWN"
    assert backend.orders == [("shutdown", Shutdown.DRAIN if drain else Shutdown.NOW)]
    backend = stand_in()
    assert ask(text, backend).tag == "SHUTDOWN"
    word = text.upper().partition("WAIT_FOR_")[2]
    assert backend.orders == [("shutdown", Shutdown[word or "NOW"])]


def test_drain_is_taken_back_by_off() -> None:
    """Before and after work on a host; SHOW STATE tells whether it was forgotten."""
    backend = FakeBackend()
    state = lambda: dict(ask("SHOW STATE", backend).rows)["draining"]  # noqa: E731
    assert state() == "no"
    assert ask("DRAIN", backend).tag == "DRAIN"
    assert (backend.is_draining, state()) == (True, "yes")
    assert ask("drain off", backend).tag == "DRAIN"
    assert (backend.is_draining, state()) == (False, "no")


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [
        ("PAUSE nowhere", "3D000"),
        ("PAUSE forebay", "55000"),
        ("DISABLE", "55000"),
        ("SUSPEND now", "42601"),
        ("SWITCHOVER", "55000"),
        ("SWITCHOVER nowhere", "3D000"),
        ("SWITCHOVER shop 10.0.0.6:5432", "42601"),
        ("SWITCHOVER shop WAIT", "42601"),
        ("PAUSE shop blog", "42601"),
        ("SHOW TEA", "42601"),
        ("BREW", "42601"),
        ("KILL_CLIENT", "22023"),
        ("KILL_CLIENT one", "22023"),
        ("SHUTDOWN LATER", "42601"),
        ("DRAIN LATER", "42601"),
        ("SHOW POOLS; SHOW STATS", "42601"),
        ("SET pool_size", "42601"),
        ("SET pool_size 3", "42601"),
    ],
)
def test_a_wrong_command_gets_an_error_with_code_and_hint(text: str, sqlstate: str) -> None:
    """And the session lives on: the severity is ERROR."""
    backend = FakeBackend()
    reply = ask(text, backend)
    assert reply.error is not None
    assert (reply.error["S"], reply.error["C"], reply.kinds) == ("ERROR", sqlstate, "E")
    assert re.search(r"\(FB9\d\d\)$", reply.error["H"])
    assert backend.orders == []


def test_a_refusal_of_the_engine_is_told_in_its_words() -> None:
    """Such as RESUME of what is not paused."""
    reply = ask("RESUME shop", FakeBackend(refuses="database shop is not paused"))
    assert reply.error is not None
    assert reply.error["M"] == "RESUME was refused: database shop is not paused"


def test_an_exception_becomes_an_error_and_not_a_hanging_session() -> None:
    """The client waits for ReadyForQuery, which follows only an answer."""

    class Broken(FakeBackend):
        async def snapshot(self) -> Snapshot:
            raise RuntimeError("secret detail")

    reply = ask("SHOW POOLS", Broken())
    assert reply.error is not None
    assert reply.error["C"] == "XX000"
    assert "secret detail" not in str(reply.error)


def test_parameters_that_drivers_set_are_taken_and_ignored() -> None:
    """JDBC and Npgsql set some before the first query."""
    reply = ask("SET extra_float_digits = 3")
    assert (reply.tag, reply.notices[0]["M"]) == ("SET", "SET ignored")


def test_an_empty_statement_is_answered_as_postgresql_does() -> None:
    """Drivers ping with one."""
    assert ask(" ; ").kinds == "I"


def test_zero_bytes_in_a_text_do_not_shift_the_fields_behind_it() -> None:
    """An application_name can hold anything."""
    backend = FakeBackend(held=Snapshot([client(application_name="a\0b")]))
    assert ask("SHOW CLIENTS", backend).records()[0]["id"] == "1187"


def test_all_databases_paused_is_the_state_paused() -> None:
    """Scripts wait for it after PAUSE."""
    assert ["paused", "yes"] in ask("SHOW STATE", FakeBackend(held=Snapshot(paused=["blog", "shop"]))).rows
    assert ["paused", "no"] in ask("SHOW STATE", FakeBackend(held=Snapshot(paused=["blog"]))).rows


def test_a_statement_is_described_before_it_is_run() -> None:
    """Drivers of the extended protocol read columns from Describe, and must not set anything off by it."""
    backend = FakeBackend(held=Snapshot(pools=[pool()]))
    described = ask("SHOW POOLS", backend, step="describe", formats=[1])
    assert described.kinds == "T"
    assert [column for column, _ in described.columns] == [column for column, _ in COLUMNS["pools"]]
    run = ask("SHOW POOLS", backend, step="execute")
    assert run.kinds == "DC"
    assert ask("PAUSE shop", backend, step="describe").kinds == "n"
    assert ask("PAUSE shop", backend, step="describe", user="eve").kinds == "E"
    assert backend.orders == []


def test_values_are_sent_in_the_formats_that_were_bound() -> None:
    """asyncpg and pgx ask for all of them in binary."""
    table = Table(
        (("a", "int4"), ("b", "int8"), ("c", "text"), ("d", "numeric")), [(1, 2, "x", "-12345.678"), (None,) * 4]
    )
    encoded = Answer("SHOW", table).encode([1], is_described=True)
    digits = struct.pack("!hhHh3h", 3, 1, 0x4000, 3, 1, 2345, 6780)
    fields = [struct.pack("!i", 1), struct.pack("!q", 2), b"x", digits]
    row = struct.pack("!h", 4) + b"".join(struct.pack("!i", len(field)) + field for field in fields)
    assert row in encoded
    assert struct.pack("!h", 4) + struct.pack("!i", -1) * 4 in encoded
    mixed = Answer("SHOW", table).encode([0, 1, 0, 0])
    assert struct.pack("!i", 1) + b"1" + struct.pack("!i", 8) in mixed
    wrong = ask("SHOW VERSION", step="execute", formats=[1, 1])
    assert wrong.error is not None
    assert wrong.error["C"] == "42601"


def test_who_runs_it_may_do_everything_over_its_own_socket() -> None:
    """The user `pgbouncer` is in no list; the engine has seen whose process it is."""
    backend = stand_in()
    denied = ask("PAUSE shop", backend, user="pgbouncer")
    assert denied.error is not None
    assert denied.error["M"] == "admin access needed"
    assert ask("PAUSE shop", backend, user="pgbouncer", is_own=True).tag == "PAUSE"


@pytest.mark.parametrize(
    ("text", "words", "held"),
    [
        ("FLUSH Pools", "invalid command 'FLUSH Pools', use SHOW HELP;", {}),
        ("PAUSE nowhere", "no such database: nowhere", {}),
        ("PAUSE pgbouncer", "cannot pause admin db: pgbouncer", {}),
        ("PAUSE", "already suspended/paused", {"held": Snapshot(paused=["*"])}),
        ("SUSPEND", "already suspended/paused", {"held": Snapshot(paused=["*"])}),
        ("SUSPEND", "cannot suspend with paused databases", {"held": Snapshot(paused=["shop"])}),
        ("RESUME", "pooler is not paused/suspended", {}),
        ("RESUME shop", "database shop is not paused", {}),
        ("RESUME", "pooler is shutting down", {"is_stopping": True}),
        ("DISABLE", "a database is required", {}),
        ("KILL_CLIENT 12", "client not found", {"refuses": "no such client"}),
        ("KILL_CLIENT x", "invalid client pointer supplied", {}),
        ("RELOAD", "RELOAD failed, see logs for additional details", {"refuses": "line 3"}),
        ("SET verbose = x", "SET failed", {"refuses": "not a number"}),
    ],
)
def test_the_stand_in_speaks_in_pgbouncers_words(text: str, words: str, held: dict[str, Any]) -> None:
    """Scripts look for them."""
    reply = ask(text, stand_in(**held))
    assert reply.error is not None
    assert (reply.error["S"], reply.error["M"]) == ("ERROR", words)


def test_a_stats_user_may_see_the_stand_ins_settings() -> None:
    """The exporter logs in as one; a forebay.toml may hold commands for secrets."""
    assert ask("SHOW CONFIG", stand_in(), user="eve").error is None
    assert ask("SHOW CONFIG", FakeBackend(), user="eve").error is not None


def test_the_stand_in_shows_a_socket_as_folder_and_number() -> None:
    assert [(row["host"], row["port"]) for row in ask("SHOW DATABASES", stand_in()).records()] == [
        ("10.0.0.5", "5432"),
        ("/run/pg", "5433"),
    ]


def test_the_stand_in_tells_both_versions() -> None:
    """Tools compare the number behind the name."""
    assert ask("SHOW VERSION", stand_in()).rows == [["PgBouncer 1.25.2 (forebay 0.1.0, io_uring)"]]


def test_a_disabled_database_is_shown_as_such() -> None:
    """And one that PAUSE of everything holds, as paused."""
    held = Snapshot(paused=["*"], disabled=["blog"])
    shown = [
        (row["name"], row["paused"], row["disabled"]) for row in ask("SHOW DATABASES", FakeBackend(held=held)).records()
    ]
    assert shown == [("shop", "1", "0"), ("blog", "1", "1")]


@pytest.mark.parametrize(
    ("text", "meant"),
    [("SHOW POOLZ", "SHOW POOLS"), ("shwo pools", "SHOW POOLS"), ("pools", "SHOW POOLS"), ("help", "SHOW HELP"),
     ("puase shop", "PAUSE"), ("SELECT 1", None), ("DESTROY shop", None)],
)  # fmt: skip
def test_a_misspelt_command_is_told_what_was_meant(text: str, meant: str | None) -> None:
    """At night nobody reads a list of forty commands."""
    for backend in (FakeBackend(), stand_in()):
        error = ask(text, backend).error
        assert error is not None
        assert error["H"].startswith(f"Did you mean {meant}?" if meant else "Run SHOW HELP")


def test_what_is_refused_is_told_what_to_do_instead() -> None:
    """ "Put right what it says" helps nobody who has paused all and resumes one."""
    paused = stand_in(held=Snapshot(paused=["*"]))

    def hint(text: str, backend: FakeBackend) -> str:
        error = ask(text, backend).error
        assert error is not None, text
        return error["H"]

    assert hint("RESUME shop", paused).startswith("All of them are paused together: RESUME without a database.")
    assert hint("PAUSE", paused).startswith("RESUME ends it")
    assert hint("RESUME", stand_in()).startswith("There is nothing to resume")
    assert "SHOW DATABASES" in hint("DISABLE", stand_in())


def test_help_fits_into_a_terminal() -> None:
    """One long line makes psql wrap all of them."""
    lines = ask("SHOW HELP").notices[0]["D"].splitlines()
    assert max(len(line.expandtabs()) for line in lines) <= 100
    assert all(line.startswith("\t") for line in lines if line)


def test_what_is_not_known_of_a_failover_is_null() -> None:
    """A 0 in its place would say that nothing is missing."""
    now = time.monotonic()
    backend = FakeBackend(
        failed_over=[
            FailoverRow("shop", "a:1", "b:1", 2, True, 0, 0.0, "it was planned", now - 9),
            FailoverRow("shop", "b:1", "a:1", 3, False, None, None, "nobody knows", now - 2),
            FailoverRow("shop", "a:1", "b:1", 4, False, 70, 0.25, "at most 0.3 s", now),
        ]
    )
    planned, unknown, known = ask("SHOW FAILOVERS", backend).records()
    assert (planned["planned"], planned["missing_bytes"], planned["missing_ms_max"]) == ("1", "0", "0")
    assert (unknown["planned"], unknown["missing_bytes"], unknown["missing_ms_max"]) == ("0", None, None)
    assert (known["old"], known["new"], known["timeline"], known["missing_bytes"], known["missing_ms_max"]) == (
        "a:1", "b:1", "4", "70", "250",
    )  # fmt: skip
    assert 2000 <= int(unknown["age_ms"] or 0) < 60_000
