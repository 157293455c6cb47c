"""What may leave anything is read as the server reads it, or counts as what may do anything: nothing passes unseen."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import Postgres
from tests.harness.wire import function_call, message, query

Start = Callable[..., Forebay]


# Startup parameters, and Queries sent in one write. The last sets work_mem, for who reads its backslash as the session
# does; for others that is part of a string or comment, and the rest does nothing.
ESCAPED = r"select 'a\' -- ', set_config('work_mem', '1234kB', false) --'"
ENCODED = b"select E'\xe8\xa1\x81\\', set_config($$work_mem$$, $$1234kB$$, false), E' --'"
HIDDEN: dict[str, tuple[dict[str, str], list[bytes]]] = {
    "after another client": ({"options": "-c standard_conforming_strings=off"}, [query(ESCAPED)]),
    "after a change": ({}, [query("set standard_conforming_strings = off"), query(ESCAPED)]),
    "within a character": ({"client_encoding": "SJIS"}, [message("Q", ENCODED, b"\0")]),
    "within a character after a change": ({}, [query("set client_encoding = 'GBK'"), message("Q", ENCODED, b"\0")]),
    "in a prepared statement": (
        {"options": "-c standard_conforming_strings=off"},
        [query("select 1"), query(f"prepare p as {ESCAPED}"), query("execute p")],
    ),
}


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.variants("uring-1", "epoll-1")
def test_nothing_is_left_by_a_text_that_another_session_would_read_otherwise(
    name: str, start: Start, server: Postgres, variant: Variant
) -> None:
    """Read by the wrong rules, a call that sets something passes as part of a string."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 1}}))
    parameters, queries = HIDDEN[name]
    with forebay.target.wire() as other, forebay.target.wire(**parameters) as one:
        usual = other.value("show work_mem")
        one.send(*queries)
        frames = one.ready(len(queries))
        assert not [frame.fields for frame in frames if frame.tag == "E"]
        assert other.value("show work_mem") == usual
        assert one.value("show work_mem") == "1234kB"
        assert other.value("show work_mem") == usual


def pins(forebay: Forebay) -> list[str | None]:
    """Why clients hold their servers."""
    return [row["reasons"] for row in forebay.console("show pins")]


@pytest.mark.parametrize("level", ["safe", "strict"])
@pytest.mark.variants("uring-1", "epoll-1")
def test_what_a_function_call_by_number_leaves_is_its_client_s_own(
    level: str, start: Start, server: Postgres, variant: Variant
) -> None:
    """The message names its function by oid, and no text says what it does."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 1, "level": level}}))
    with forebay.target.wire() as one, forebay.target.wire() as two:
        usual = two.value("show work_mem")
        for setting, value in (("work_mem", b"1234kB"), ("app.tenant", b"one's")):
            frames = one.ask(function_call(2078, setting.encode(), value, b"f"))
            assert [frame.tag for frame in frames] == ["V", "Z"], frames
        assert two.value("show work_mem") == usual
        nothing = None if level == "strict" else ""
        assert two.value("select current_setting('app.tenant', true)") == nothing
        assert one.rows("select current_setting('work_mem'), current_setting('app.tenant')") == [["1234kB", "one's"]]
        assert two.value("select current_setting('app.tenant', true)") == nothing
        # pg_advisory_lock(bigint) holds the server, and pg_advisory_unlock(bigint) gives it back.
        one.ask(function_call(2880, b"62"))
        until(lambda: pins(forebay) == ["advisory lock"], within_s=5, what="the lock pins")
        one.ask(function_call(2884, b"62"))
        until(lambda: pins(forebay) == [], within_s=5, what="nothing pins any more")
        assert two.value("select 1") == "1"


@pytest.mark.variants("uring-1", "epoll-1")
def test_the_catalogue_is_read_whatever_the_last_client_s_encoding(
    start: Start, server: Postgres, variant: Variant
) -> None:
    """A table whose name is misread is one of which nothing is known: that its trigger sets something passes unseen."""
    forebay = start(configuration(server, variant, databases={"app": {"pool_size": 1}}))
    objects = """
        create table "t\u00e9" (id int);
        create function "f\u00e9"() returns trigger language plpgsql as
          $$begin perform set_config('work_mem', '1234kB', false); return new; end$$;
        create trigger t after insert on "t\u00e9" for each row execute function "f\u00e9"()"""
    with forebay.target.wire() as other, forebay.target.wire(client_encoding="LATIN1") as one:
        usual = other.value("show work_mem")
        until(lambda: forebay.catalogue_loads() == 1, within_s=5, what="the catalogue is read")
        try:
            one.ask(message("Q", objects.encode("latin1"), b"\0"))
            until(
                lambda: one.value("select 1") and forebay.catalogue_loads() == 2,
                within_s=5,
                what="it is read over LATIN1",
            )
            other.ask(query('insert into "t\u00e9" values (1)'))
            assert one.value("show work_mem") == usual
            assert other.value("show work_mem") == "1234kB"
        finally:
            other.ask(query('drop table "t\u00e9"; drop function "f\u00e9"()'))
