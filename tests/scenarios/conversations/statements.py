"""Prepared statements, by the names that clients give them."""

from __future__ import annotations

from tests.harness.wire import Wire, bind, close, describe, execute, flush, parse, query, sync
from tests.scenarios.conversations import conversation, keeping_its_server, register


@conversation
def a_named_statement_is_used_again(c: Wire) -> None:
    """Prepared once, executed in later transactions, on whatever server."""
    c.ask(parse("again", "select name from people where id = $1"), describe("S", "again"), sync())
    for i in (1, 2, 3):
        c.ask(bind(statement="again", values=[str(i).encode()]), describe("P"), execute(), sync())


@conversation
def a_named_statement_of_each_name(c: Wire) -> None:
    """Names are the client's own, also those that look like ours."""
    for name in ("s", "S_1", "__asyncpg_stmt_1__", "fb_1", "fb_", "?", "a b", "ü", "n" * 63, "n" * 300):
        c.ask(parse(name, f"select {len(name)}"), sync())
        c.ask(bind(statement=name), execute(), sync())
        c.ask(close("S", name), sync())
        c.ask(bind(statement=name), execute(), sync())


@conversation
def two_names_of_one_text(c: Wire) -> None:
    """Each error tells the name that was used, and each name goes by itself."""
    names = ("one", "two", "")
    for name in names:
        c.ask(parse(name, "select $1::int"), sync())
    for name in names:
        c.ask(bind(statement=name), execute(), sync())
    for name in names[:2]:
        c.ask(query(f"execute {name}"))
        c.ask(parse("", f"execute {name}"), bind(), execute(), sync())
    c.ask(parse("", "deallocate two"), bind(), execute(), sync())
    for name in names[:2]:
        c.ask(bind(statement=name, values=[b"1"]), execute(), sync())
    c.ask(parse("two", "select $1::int"), sync())
    c.ask(query("deallocate one"))
    for name in names[:2]:
        c.ask(bind(statement=name, values=[b"1"]), execute(), sync())


@conversation
def a_deallocate_that_is_not_run(c: Wire) -> None:
    """Skipped, bound wrongly or bound only, it takes nothing away; nor does it in a failed transaction."""
    c.ask(parse("kept", "select 5"), parse("away", "deallocate kept"), sync())
    skipped = [parse("", "select 1/0"), bind(), execute(), bind(statement="away"), execute(), sync()]
    wrong = [bind(statement="away", values=[b"1"]), execute(), sync()]
    only_bound = [bind(statement="away"), describe("P"), sync()]
    for batch in (skipped, wrong, only_bound):
        c.ask(*batch)
        c.ask(bind(statement="kept"), execute(), sync())
        c.ask(parse("other", "select 5"), bind(statement="other"), execute(), close("S", "other"), sync())
    c.ask(query("begin"))
    c.ask(query("select 1/0"))
    c.ask(bind(statement="away"), execute(), sync())
    c.ask(query("rollback"))
    c.ask(bind(statement="kept"), execute(), sync())


@conversation
def a_deallocate_in_one_pipeline_with_what_it_takes_away(c: Wire) -> None:
    """The name is free again in the same pipeline, and the statement is not taken to be there."""
    for _ in range(2):
        made = [parse("brief", "select 6"), parse("away", "deallocate brief"), bind(statement="away"), execute()]
        c.ask(*made, close("S", "away"), sync())
        c.ask(bind(statement="brief"), execute(), sync())
    c.ask(parse("brief", "select 6"), bind(statement="brief"), execute(), sync())
    again = [parse("away", "deallocate brief"), bind("later", "away"), bind(statement="brief"), execute()]
    c.ask(*again, execute("later"), parse("brief", "select 6"), bind(statement="brief"), execute(), sync())
    c.ask(bind(statement="brief"), execute(), sync())


@conversation
def all_are_deallocated_by_the_extended_protocol(c: Wire) -> None:
    """Those with names are, up to there in the pipeline; the unnamed one, which it is itself, stays."""
    gone = [bind(statement="away"), execute()]
    c.ask(parse("away", "deallocate all"), parse("", "select 7"), sync())
    c.ask(*gone, sync())
    c.ask(bind(), execute(), sync())
    c.ask(parse("", "deallocate all"), bind(), execute(), sync())
    c.ask(bind(values=[b"1"]), sync())
    c.ask(parse("away", "deallocate all"), parse("old", "select 8"), sync())
    c.ask(*gone, parse("new", "select 9"), bind(statement="new"), execute(), sync())
    c.ask(bind(statement="new"), execute(), sync())
    c.ask(bind(statement="old"), execute(), sync())
    c.ask(parse("away", "discard all"), sync())
    c.ask(*gone, parse("next", "select 10"), bind(statement="next"), execute(), sync())
    c.ask(bind(statement="next"), execute(), sync())
    c.ask(bind(statement="new"), execute(), sync())


@conversation
def a_duplicate_name_is_refused(c: Wire) -> None:
    """42P05 in the server's words, with the client's name; the first statement stays."""
    c.ask(parse("twice", "select 1"), sync())
    c.ask(parse("twice", "select 2"), sync())
    c.ask(parse("twice", "select 1"), sync())
    c.ask(bind(statement="twice"), execute(), sync())


@conversation
def a_duplicate_name_within_a_pipeline(c: Wire) -> None:
    """The second Parse fails, what follows is skipped, the first stays."""
    c.ask(parse("pair", "select 1"), parse("pair", "select 2"), bind(statement="pair"), execute(), sync())
    c.ask(bind(statement="pair"), execute(), sync())


@conversation
def a_duplicate_name_in_a_transaction_fails_it(c: Wire) -> None:
    """It must be the server that says so, or the transaction would go on."""
    c.ask(parse("held", "select 1"), sync())
    c.ask(query("begin"))
    c.ask(parse("held", "select 2"), sync())
    assert c.status == "E"
    c.ask(query("rollback"))


@conversation
def the_unnamed_statement_before_what_a_failed_pipeline_skips(c: Wire) -> None:
    """It is still there, in a transaction in which it could not be parsed again."""
    c.ask(query("begin"))
    failing = [parse("", "set there_is_no_such to 1"), bind(), describe("P"), execute()]
    c.ask(*failing, parse("", "select 1 as skipped"), bind(), execute(), sync())
    c.ask(describe("S"), sync())
    c.ask(parse("", "not even a statement"), parse("", "select 2 as skipped"), sync())
    c.ask(describe("S"), sync())
    c.ask(query("rollback"))


@conversation
def a_prepare_of_a_taken_name_by_the_extended_protocol(c: Wire) -> None:
    """What is wrong with the statement is said first, and that the name is taken only then."""
    run = [bind(), describe("P"), execute(), sync()]
    c.ask(parse("has_it", "select 'by protocol'"), sync())
    c.ask(parse("", "prepare has_it as select nothing"), *run)
    c.ask(parse("", "prepare has_it as select 1"), *run)
    c.ask(query("begin"))
    c.ask(query("savepoint s"))
    c.ask(parse("", "prepare has_it as select 2"), *run)
    c.ask(query("rollback to s"))
    c.ask(query("execute has_it"))
    c.ask(query("commit"))
    c.ask(query("deallocate has_it"))


@keeping_its_server
def a_prepare_by_the_extended_protocol_outlives_its_transaction(c: Wire) -> None:
    """Whatever else the transaction did and had undone."""
    c.ask(query("begin"))
    c.ask(parse("", "prepare stays as select 'stays'"), bind(), execute(), sync())
    c.ask(query("listen somewhere"))
    c.ask(query("rollback"))
    c.ask(query("prepare stays as select 'new'"))
    c.ask(query("execute stays"))
    c.ask(query("deallocate stays"))


@conversation
def an_unknown_name_is_refused(c: Wire) -> None:
    """26000, and the session lives on."""
    c.ask(bind(statement="nobody"), execute(), sync())
    c.ask(describe("S", "nobody"), sync())
    c.ask(close("S", "nobody"), sync())
    c.ask(query("select 1"))


@conversation
def an_unknown_name_in_a_transaction_fails_it(c: Wire) -> None:
    """As a direct session does."""
    c.ask(query("begin"))
    c.ask(describe("S", "nobody"), sync())
    c.ask(query("select 1"))
    c.ask(query("rollback"))


@conversation
def a_closed_statement_is_gone(c: Wire) -> None:
    """Close takes the client's name away, not the statement of others."""
    c.ask(parse("short", "select 1"), sync())
    c.ask(close("S", "short"), sync())
    c.ask(bind(statement="short"), execute(), sync())
    c.ask(parse("short", "select 2"), bind(statement="short"), execute(), close("S", "short"), sync())
    c.ask(describe("S", "short"), sync())


@conversation
def a_statement_closed_and_made_anew_in_one_pipeline(c: Wire) -> None:
    """The new text counts, in the same pipeline and later."""
    c.ask(parse("turn", "select 'old'"), sync())
    c.ask(close("S", "turn"), parse("turn", "select 'new'"), bind(statement="turn"), execute(), sync())
    c.ask(bind(statement="turn"), execute(), sync())


@conversation
def a_close_that_was_skipped_closes_nothing(c: Wire) -> None:
    """After an error the server skips Close too."""
    c.ask(parse("stays", "select 4"), sync())
    c.ask(parse("", "select 1/0"), bind(), execute(), close("S", "stays"), sync())
    c.ask(bind(statement="stays"), execute(), sync())


@conversation
def the_unnamed_statement_outlives_its_sync(c: Wire) -> None:
    """PostgreSQL keeps it until the next unnamed Parse or simple Query."""
    c.ask(parse("", "select $1::int * 3"), sync())
    c.ask(describe("S"), sync())
    c.ask(bind(values=[b"5"]), execute(), sync())
    c.ask(bind(values=[b"6"]), execute(), sync())


@conversation
def a_query_drops_the_unnamed_statement(c: Wire) -> None:
    """26000 afterwards, as a direct session says."""
    c.ask(parse("", "select 1"), sync())
    c.ask(query("select 2"))
    c.ask(bind(), execute(), sync())


@conversation
def no_unnamed_statement_at_first(c: Wire) -> None:
    """Another client's must not answer."""
    c.ask(bind(), execute(), sync())
    c.ask(describe("S"), sync())


@conversation
def a_failed_unnamed_parse_leaves_none(c: Wire) -> None:
    """PostgreSQL drops the old unnamed statement before it reads the new one."""
    c.ask(parse("", "select 1"), sync())
    c.ask(parse("", "select missing"), sync())
    c.ask(bind(), execute(), sync())


@conversation
def a_closed_unnamed_statement_is_gone(c: Wire) -> None:
    """Close of the empty name."""
    c.ask(parse("", "select 1"), close("S"), sync())
    c.ask(bind(), execute(), sync())


@conversation
def statements_in_a_failed_transaction_stay(c: Wire) -> None:
    """Prepared statements are not undone by ROLLBACK."""
    c.ask(query("begin"))
    c.ask(parse("kept", "select 11"), sync())
    c.ask(query("rollback"))
    c.ask(bind(statement="kept"), execute(), sync())


@conversation
def a_statement_that_never_executes_rows(c: Wire) -> None:
    """NoData for what returns none."""
    c.ask(parse("", "set local work_mem = '2MB'"), describe("S"), bind(), describe("P"), execute(), sync())


@conversation
def many_names_for_one_text(c: Wire) -> None:
    """Shared by content: each name still ends by itself."""
    for i in range(10):
        c.ask(parse(f"alias_{i}", "select name from people where id = 7"), sync())
    c.ask(close("S", "alias_0"), sync())
    for i in range(10):
        c.ask(bind(statement=f"alias_{i}"), execute(), sync())


@conversation
def parse_and_describe_with_flush_then_bind(c: Wire) -> None:
    """The server must stay until the Sync."""
    c.send(parse("flushed", "select $1::int"), describe("S", "flushed"), flush())
    c.read_until("T")
    c.send(bind(statement="flushed", values=[b"3"]), execute(), sync())
    c.ready()
    c.ask(bind(statement="flushed", values=[b"4"]), execute(), sync())


@conversation
def a_name_parsed_behind_deallocate_all(c: Wire) -> None:
    """Free again from the Execute on, and what was parsed behind an error before it never was."""
    c.ask(parse("again", "select 'first'"), parse("kept", "select 'kept'"), sync())
    c.ask(parse("", "deallocate all"), bind(), execute(), parse("again", "select 'second'"), sync())
    c.ask(bind(statement="again"), execute(), sync())
    c.ask(bind(statement="kept"), execute(), sync())
    c.ask(parse("kept", "select 'kept'"), sync())
    failing = [parse("", "select 1/0"), bind(), execute()]
    deallocating = [parse("", "deallocate all"), bind(), execute(), parse("again", "select 'third'")]
    c.ask(*failing, *deallocating, sync())
    c.ask(bind(statement="again"), execute(), bind(statement="kept"), execute(), sync())
    c.ask(*deallocating, *failing, sync())
    c.ask(bind(statement="again"), execute(), sync())
    c.ask(bind(statement="kept"), execute(), sync())


@conversation
def names_behind_a_query_that_deallocates_all(c: Wire) -> None:
    """In one write: what comes behind goes by what the Query did."""
    texts = ["deallocate all", "select 1; deallocate all; select 1/0", "select 1/0; deallocate all", "discard all"]
    for i, text in enumerate(texts):
        c.ask(parse("behind", "select 'first'"), sync())
        again = [parse("behind", f"select 'second {i}'"), bind(statement="behind"), execute(), sync()]
        c.send(query(text), *again)
        c.ready(2)
        c.ask(bind(statement="behind"), execute(), sync())
        c.ask(close("S", "behind"), sync())


@conversation
def what_a_name_means_when_its_execute_is_bound(c: Wire) -> None:
    """A text that executes or deallocates another is about what has the name then, not when it was parsed."""
    c.ask(parse("runs", "execute meant"), parse("ends", "deallocate meant"), sync())
    runs = [bind(statement="runs"), execute(), sync()]
    c.ask(*runs)
    c.ask(parse("meant", "select 'first'"), sync())
    c.ask(*runs)
    c.ask(query("deallocate meant"))
    c.ask(*runs)
    c.ask(query("prepare meant as select 'second'"))
    c.ask(*runs)
    c.ask(bind(statement="ends"), execute(), sync())
    c.ask(*runs)
    c.ask(bind(statement="ends"), execute(), sync())


@conversation
def an_error_before_the_close_of_its_statement(c: Wire) -> None:
    """It names the statement as its client did, also when the name has ended by the time that it comes."""
    c.ask(parse("asks", "select $1::int"), parse("also", "select $1::int"), sync())
    c.ask(bind(statement="asks"), close("S", "asks"), sync())
    c.ask(bind(statement="asks", values=[b"1"]), execute(), sync())
    c.ask(bind(statement="also"), close("S", "also"), close("S", "asks"), sync())
    c.ask(close("S", "also"), sync())


@conversation
def names_in_a_text_of_several_statements(c: Wire) -> None:
    """Each means what it stands for by then."""
    c.ask(parse("parsed", "select 'parsed' where $1::int > 0"), sync())
    c.ask(query("prepare made as select 'made'"))
    c.ask(query("select 1; execute parsed(1); execute Made"))
    c.ask(query("begin; execute made; deallocate made; rollback; select 2"))
    c.ask(query("execute made"))
    c.ask(query("execute parsed(1); deallocate prepare parsed; execute parsed(1)"))
    c.ask(bind(statement="parsed", values=[b"1"]), execute(), sync())
    for text in ["select 'first'", "select 'second'"]:
        c.ask(query(f"prepare made as {text}"))
        c.ask(query("deallocate made; select 1/0"))
        c.ask(query("select 1/0; deallocate made"))
    c.ask(query("prepare made as select 'third'"))
    # The server's own is kept by its client until then.
    c.ask(query("begin"))
    c.ask(query("deallocate made; prepare made as select 'fourth'; execute made"))
    c.ask(query("execute made"))
    c.ask(bind(statement="made"), execute(), sync())
    c.ask(query("execute made; deallocate all; execute made"))
    c.ask(query("rollback"))
    c.ask(query("prepare made as select 'fifth'"))
    c.ask(query("select 1; prepare made as select 'sixth'"))
    c.ask(query("execute made; execute made('x'); select 1"))
    c.ask(query("execute made; select nothing; execute made"))
    c.send(
        query("select 1; deallocate made"), parse("made", "select 'seventh'"), bind(statement="made"), execute(), sync()
    )
    c.ready(2)
    c.ask(query("begin; execute made"))
    c.ask(query("select 1/0"))
    c.ask(query("rollback; deallocate made; execute made"))


@conversation
def two_names_for_one_text_are_taken_away(c: Wire) -> None:
    """Each by itself, in one text, in one pipeline, and where that fails."""
    texts = ["deallocate one; deallocate two; execute two", "deallocate one; execute two", "; ;execute one"]
    for text in [*texts, "deallocate one; select 1/0"]:
        c.ask(parse("one", "select 'same'"), parse("two", "select 'same'"), sync())
        c.ask(query(text))
        for name in ("one", "two"):
            c.ask(bind(statement=name), execute(), sync())
            c.ask(close("S", name), sync())
    c.ask(parse("one", "select 'same'"), parse("two", "select 'same'"), parse("away", "deallocate one"), sync())
    c.ask(bind("p", "away"), bind("q", "away"), execute("p"), execute("q"), sync())
    c.ask(bind(statement="two"), execute(), sync())
    c.ask(bind(statement="one"), execute(), sync())


@conversation
def a_deallocate_that_execute_runs(c: Wire) -> None:
    """The protocol prepares what PREPARE does not."""
    for text in ("deallocate gone", "deallocate all", "discard all"):
        c.ask(parse("gone", "select 'gone'"), parse("away", text), parse("twice", "execute away"), sync())
        c.ask(query("execute away"))
        c.ask(parse("gone", "select 'again'"), sync())
        for name in ("gone", "away"):
            c.ask(bind(statement=name), execute(), sync())
            c.ask(close("S", name), sync())
        c.ask(close("S", "twice"), sync())
    for text in ("deallocate gone", "deallocate all"):
        c.ask(query("begin"))
        c.ask(parse("gone", "select 'gone'"), parse("away", text), parse("twice", "execute away"), sync())
        c.ask(query("execute twice; select 1"))
        c.ask(query("rollback; deallocate all"))


@conversation
def a_deallocate_whose_portal_is_another_by_then(c: Wire) -> None:
    """It was never executed."""
    c.ask(parse("kept", "select 'kept'"), parse("away", "deallocate kept"), sync())
    c.ask(query("begin"))
    c.ask(bind("c", "away"), close("P", "c"), sync())
    c.ask(query("declare c cursor for select 1"))
    c.ask(execute("c"), sync())
    c.ask(bind(statement="kept"), execute(), sync())
    c.ask(query("savepoint s"))
    c.ask(bind("d", "away"), sync())
    c.ask(query("rollback to s; declare d cursor for select 2"))
    c.ask(execute("d"), sync())
    c.ask(query("commit"))
    c.ask(bind(statement="kept"), execute(), sync())


@register("few")
def more_statements_than_a_server_keeps(c: Wire) -> None:
    """Evicted on the server, still there for the client."""
    for i in range(12):
        c.ask(parse(f"many_{i}", f"select {i} + $1::int"), sync())
    for _ in range(2):
        for i in range(12):
            c.ask(bind(statement=f"many_{i}", values=[b"100"]), execute(), sync())


@register("few")
def more_statements_in_one_pipeline_than_a_server_keeps(c: Wire) -> None:
    """Eviction in the middle of a pipeline must not close what the pipeline still uses."""
    for i in range(8):
        c.ask(parse(f"lot_{i}", f"select {i}"), sync())
    for i in [*range(8), *range(8)]:
        c.send(bind(statement=f"lot_{i}"), execute())
    c.ask(sync())
    c.send(*(message for i in range(8) for message in (bind(statement=f"lot_{i}"), execute(), sync())))
    c.ready(8)


@register("few")
def portals_outlive_the_eviction_of_their_statement(c: Wire) -> None:
    """An open portal goes on although the server forgot its statement."""
    c.ask(query("begin"))
    c.ask(parse("base", "select i from generate_series(1, 6) i"), sync())
    c.ask(bind("p", "base"), execute("p", 2), sync())
    for i in range(5):
        c.ask(parse(f"push_{i}", f"select 'push {i}'"), bind(statement=f"push_{i}"), execute(), sync())
    c.ask(execute("p", 2), sync())
    c.ask(query("commit"))


@keeping_its_server
def an_unnamed_statement_parsed_again_is_told_without_sync(c: Wire) -> None:
    """A driver that flushes waits for ParseComplete, whatever else the server has been asked for before."""
    select = parse("", "select name from people where id = $1::int")
    c.ask(select, bind(values=[b"1"]), execute(), sync())
    c.send(select, flush())
    c.read_until("1")
    c.ask(bind(values=[b"2"]), execute(), sync())
    c.send(query("select 'before'"), select, flush())
    c.ready()
    c.read_until("1")
    c.ask(sync())
