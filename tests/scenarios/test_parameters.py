"""Startup and reported parameters belong to the client, whoever used the server before."""

from __future__ import annotations

import contextlib

import pytest

from tests.conftest import Start
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.target import Target
from tests.harness.wire import Wire, bind, execute, message, parse, query, startup, sync, text

# What clients ask for at startup.
ASKED: list[dict[str, str]] = [
    {},
    {"TimeZone": "Asia/Tokyo"},
    {"DateStyle": "German"},
    {"application_name": 'it\'s "me" \\'},
    {"client_encoding": "LATIN1"},
    {"options": "-c statement_timeout=12345 -c IntervalStyle=iso_8601"},
    {"options": "-c TimeZone=America/New_York --work-mem=3MB"},
    {"options": r"-c application_name=with\ space -csearch_path=a,b"},
    {"search_path": "x, public"},
    {"extra_float_digits": "2"},
]

# What any of them changes.
NAMES = (
    "TimeZone", "DateStyle", "IntervalStyle", "application_name", "client_encoding", "statement_timeout", "work_mem",
    "search_path", "extra_float_digits",
)  # fmt: skip


def shown(wire: Wire, name: str) -> str | None:
    """SHOW of a parameter."""
    return wire.value(f"show {name}")


def all_shown(wire: Wire) -> dict[str, str | None]:
    """SHOW of all that clients of this file change."""
    return {name: shown(wire, name) for name in NAMES}


def test_each_client_keeps_its_startup_parameters_over_hand_overs(shared: Forebay, direct: Target) -> None:
    """A report written in another client's time zone is wrong, and nobody notices."""
    with contextlib.ExitStack() as stack:
        pairs = [[stack.enter_context(t.wire(**asked)) for t in (direct, shared.target)] for asked in ASKED]
        for _ in range(2):
            for plain, pooled in pairs:
                assert all_shown(pooled) == all_shown(plain)


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: ",".join(asked) or "none")
def test_a_login_reports_the_parameters_that_the_server_reports(
    asked: dict[str, str], shared: Forebay, direct: Target
) -> None:
    """Drivers set themselves up from these: encoding, time zone, version."""
    with direct.wire(**asked) as plain, shared.target.wire(**asked) as pooled:
        assert pooled.parameters == plain.parameters


def test_a_reported_parameter_that_a_client_sets_stays_its_own(shared: Forebay) -> None:
    """SET of a reported parameter is kept; nobody else sees it."""
    with shared.target.wire() as one, shared.target.wire() as two:
        one.ask(query("set timezone = 'Europe/Oslo'; set application_name = 'one'"))
        two.ask(query("set timezone = 'Asia/Kolkata'"))
        for _ in range(2):
            assert (shown(one, "timezone"), shown(one, "application_name")) == ("Europe/Oslo", "one")
            assert (shown(two, "timezone"), shown(two, "application_name")) == ("Asia/Kolkata", "")
        one.ask(query("reset timezone"))
        assert shown(two, "timezone") == "Asia/Kolkata"
        assert shown(one, "timezone") == "Etc/UTC"
        assert one.parameters["TimeZone"] == "Etc/UTC"


def test_reset_returns_to_what_the_client_asked_for_at_startup(shared: Forebay, direct: Target) -> None:
    """RESET means the session's default, and that is the startup value."""

    def program(wire: Wire) -> str | None:
        wire.ask(query("set timezone = 'Europe/Oslo'"))
        wire.ask(query("reset timezone"))
        return shown(wire, "timezone")

    for target in (direct, shared.target):
        with target.wire(TimeZone="Asia/Tokyo") as wire:
            assert program(wire) == "Asia/Tokyo"


def test_reset_ends_in_every_protocol_and_before_a_copy(shared: Forebay) -> None:
    """What is set again behind a request must not hold up the rest of that request."""
    with shared.target.wire(extra_float_digits="2") as wire:
        wire.ask(parse("", "set extra_float_digits to default"), bind(), execute(), sync())
        assert shown(wire, "extra_float_digits") == "2"
        wire.send(query("reset extra_float_digits; copy scratch from stdin"))
        wire.read_until("G")
        wire.ask(message("f", text("changed my mind")))
        assert shown(wire, "extra_float_digits") == "2"


def test_a_setting_that_was_rolled_back_is_not_kept(shared: Forebay) -> None:
    """SET is undone with its transaction."""
    with shared.target.wire() as one, shared.target.wire(TimeZone="Asia/Tokyo") as two:
        one.ask(query("begin"))
        one.ask(query("set timezone = 'Europe/Oslo'"))
        one.ask(query("rollback"))
        assert shown(two, "timezone") == "Asia/Tokyo"
        assert shown(one, "timezone") == "Etc/UTC"


def test_a_local_setting_ends_with_its_transaction(shared: Forebay) -> None:
    """SET LOCAL leaves no trace."""
    with shared.target.wire() as one, shared.target.wire() as two:
        one.ask(query("begin; set local timezone = 'Europe/Oslo'"))
        assert shown(one, "timezone") == "Europe/Oslo"
        one.ask(query("commit"))
        assert shown(two, "timezone") == "Etc/UTC"
        assert shown(one, "timezone") == "Etc/UTC"


def test_set_config_of_a_reported_parameter_is_kept(shared: Forebay) -> None:
    """A function may set it: the server's report counts, not the text."""
    with shared.target.wire() as one, shared.target.wire() as two:
        one.ask(query("select set_config('TimeZone', 'Europe/Paris', false)"))
        assert shown(two, "timezone") == "Etc/UTC"
        assert shown(one, "timezone") == "Europe/Paris"


def test_a_value_that_does_not_exist_is_refused_at_login(shared: Forebay, direct: Target) -> None:
    """The client must learn of it, and nobody else may suffer."""
    for target in (direct, shared.target):
        with target.dial() as wire:
            wire.send(startup(user="app", database=target.dbname, TimeZone="Mars/Base"))
            refused = wire.rest()[-1]
            assert refused.tag == "E"
            assert (refused.fields["S"], refused.fields["C"]) == ("FATAL", "22023")
    with shared.target.wire() as wire:
        assert wire.value("select 1") == "1"


def test_a_parameter_that_does_not_exist_is_refused_at_login(shared: Forebay, direct: Target) -> None:
    """A misspelt option must not pass unseen."""
    for target in (direct, shared.target):
        with target.dial() as wire:
            wire.send(startup(user="app", database=target.dbname, options="-c no_such_setting=1"))
            refused = wire.rest()[-1]
            assert refused.tag == "E", target
            assert refused.fields["S"] == "FATAL"


def test_a_value_with_quotes_is_a_value(shared: Forebay, direct: Target) -> None:
    """What a client sends at startup must never be run as SQL at a hand-over."""
    evil = "x'; drop table people; select '"
    for target in (direct, shared.target):
        with target.wire(application_name=evil) as wire:
            assert shown(wire, "application_name") == evil
            with target.wire() as other:
                assert other.value("select count(*) from people") == "100"
            assert shown(wire, "application_name") == evil


def test_a_value_is_kept_whatever_its_length_once_quoted(shared: Forebay) -> None:
    """PgBouncer keeps 127 bytes of a quoted value, and hands the neighbour's name to a client with a longer one."""
    quotes = "'" * 63
    with shared.target.wire(application_name=quotes) as client, shared.target.wire(application_name="x") as neighbour:
        for _ in range(2):
            assert shown(client, "application_name") == quotes
            assert shown(neighbour, "application_name") == "x"


@pytest.mark.parametrize("count", [24, 25, 26, 400])
def test_a_long_search_path_follows_its_client(count: int, shared: Forebay) -> None:
    """PgBouncer loses the end of a SET of 300 bytes: PostgreSQL says "invalid message format", the client is out."""
    path = ", ".join(f"schema_{number:03}" for number in range(count))
    with shared.target.wire(search_path=path) as at_login, shared.target.wire() as by_set:
        by_set.ask(query(f"set search_path to {path}"))
        with shared.target.wire() as other:
            for _ in range(2):
                assert shown(at_login, "search_path") == path
                assert shown(other, "search_path") == '"$user", public'
                assert shown(by_set, "search_path") == path


def test_a_reset_behind_another_request_is_answered_in_its_turn(shared: Forebay, direct: Target) -> None:
    """What the client asked for at its start is set again behind the request that resets it, and no other."""
    pipeline = (
        (query("select 1"), query("reset timezone"), query("show timezone")),
        (parse("", "select 2"), bind(), execute(), sync(), parse("", "reset timezone"), bind(), execute(), sync(),
         query("show timezone")),
        (query("select 1/0"), query("set timezone to 'UTC'"), query("discard all"), query("show timezone")),
    )  # fmt: skip

    def said(target: Target) -> list[list[str]]:
        with target.wire(TimeZone="Asia/Tokyo") as session:
            answers = []
            for messages in pipeline:
                session.send(*messages)
                ends = sum(message[:1] in b"QS" for message in messages)
                answers.append([frame.tag for frame in session.ready(ends) if frame.tag != "S"])
            return answers

    assert said(shared.target.at(dbname="app")) == said(direct)


@pytest.mark.variants("uring-2", "epoll-1")
def test_a_database_gives_parameters_to_clients_that_ask_for_none(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """client_encoding, datestyle, timezone, application_name of a database, as PgBouncer's [databases] has them."""
    given = {"client_encoding": "LATIN1", "datestyle": "German", "timezone": "Asia/Tokyo", "application_name": "shop"}
    sections = configuration(server, variant, databases={"app": {"pool_size": 1, **given}})
    forebay = start(sections)
    expected = {
        "client_encoding": "LATIN1",
        "DateStyle": "German, DMY",
        "TimeZone": "Asia/Tokyo",
        "application_name": "shop",
    }
    with forebay.target.wire() as plain, forebay.target.wire(TimeZone="UTC", application_name="own") as other:
        assert plain.parameters.items() >= expected.items()
        assert (other.parameters["TimeZone"], other.parameters["DateStyle"]) == ("UTC", "German, DMY")
        for _ in range(2):
            assert {name: shown(plain, name) for name in expected} == expected
            assert (shown(other, "TimeZone"), shown(other, "application_name")) == ("UTC", "own")
            other.ask(query("set timezone to 'Europe/Rome'"))
            other.ask(query("reset timezone"))
            plain.ask(query("set datestyle to 'SQL'"))
            plain.ask(query("reset all"))
        sections['databases."app"']["timezone"] = "Europe/Oslo"
        forebay.reload(sections)
        with forebay.target.wire() as later:
            assert shown(later, "TimeZone") == "Europe/Oslo", "servers that were opened with another value are replaced"


def test_a_setting_of_forebay_s_own_takes_its_values_alone(shared: Forebay) -> None:
    """No server knows it, and would take anything: reads would go on where they went before, and nobody knew why."""
    with shared.target.wire() as wire:
        for sql in ("set forebay.role = 'nonsense'", "select set_config('forebay.role', 'nonsense', false)"):
            (error,) = [frame.fields for frame in wire.ask(query(sql)) if frame.tag == "E"]
            assert (error["S"], error["C"]) == ("ERROR", "22023")
            assert error["M"] == 'invalid value for parameter "forebay.role": "nonsense"'
            assert error["H"].startswith("Available values: primary, replica, auto.")
            frames = wire.ask(parse("", sql), bind(), execute(), sync())
            assert [frame.fields["C"] for frame in frames if frame.tag == "E"] == ["22023"]
        assert wire.status == "I"
        for value in ("Replica", "auto", "default"):
            assert [frame.tag for frame in wire.ask(query(f"set forebay.role = {value}"))] == ["C", "Z"]
        wire.ask(query("begin"))
        wire.ask(query("set local forebay.role = 'nonsense'"))
        assert wire.status == "E", "as after any error"
        wire.ask(query("rollback"))


def test_a_name_that_forebay_has_no_setting_of_is_refused(shared: Forebay) -> None:
    """A letter less, and reads stay as old as before."""
    with shared.target.wire() as wire:
        for sql in (
            "set forebay.read_consistancy = 'primary'", "set forebay.read_consistancy to default",
            "select set_config('forebay.read_consistancy', 'primary', false)",
        ):  # fmt: skip
            (error,) = [frame.fields for frame in wire.ask(query(sql)) if frame.tag == "E"]
            assert (error["S"], error["C"]) == ("ERROR", "42602")
            assert error["M"] == 'invalid configuration parameter name "forebay.read_consistancy"'
            assert error["D"] == '"forebay" is a reserved prefix.'
            assert "forebay.read_consistency" in error["H"]
        assert wire.status == "I"


def test_a_login_is_refused_for_what_set_is(server: Postgres, shared: Forebay) -> None:
    """A connection string that means nothing is found out by whoever writes it, and not by who reads what is old."""

    def refusal(target: Target, **asked: str) -> dict[str, str]:
        wire = target.dial()
        with contextlib.closing(wire):
            frames = wire.first(startup(user=target.user, database=target.dbname, **asked), password=target.password)
        assert frames[-1].tag == "E", frames
        return frames[-1].fields

    ours = refusal(shared.target, options="-c forebay.role=nonsense")
    # As the server does it for a setting of its own.
    its = refusal(server.target, options="-c bytea_output=nonsense")
    assert (ours["S"], ours["C"]) == (its["S"], its["C"]) == ("FATAL", "22023")
    assert ours["M"] == its["M"].replace("bytea_output", "forebay.role")
    assert refusal(shared.target, **{"forebay.read_consistency": "often"})["C"] == "22023"
    misspelt = refusal(shared.target, options="-c forebay.rule=primary")
    assert (misspelt["S"], misspelt["C"]) == ("FATAL", "42602")
    with shared.target.connect(options="-c forebay.role=Primary") as client:
        assert client.execute("select 1").fetchone() == (1,)
