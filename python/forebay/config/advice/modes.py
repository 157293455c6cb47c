"""What a pooling mode does to those who use it."""

from __future__ import annotations

from forebay.config.advice.facts import Facts, given_values, is_given, listed, modes_of, spoken, value_and_place
from forebay.config.draft import Draft
from forebay.config.finding import Report
from forebay.config.resolve import pool_value

# So many clients for each server of a pool never come to their turn in session mode.
CROWDED = 10


def statement_mode(draft: Draft, facts: Facts, report: Report) -> None:
    """Transactions are refused there."""
    for _, mode, place in given_values(draft, "pool_mode"):
        if mode == "statement":
            report.add("statement_mode", place)


def session_mode(draft: Draft, facts: Facts, report: Report) -> None:
    """A pool does not share anything while its clients stay."""
    clients = draft.value("limits", "max_client_conn")
    if not is_given(draft, "limits", "max_client_conn") or not isinstance(clients, int):
        return
    for database in draft.databases.values():
        mode, mode_place = value_and_place(draft, database, "pool_mode")
        users = max(1, len(draft.users)) if "user" not in database.settings else 1
        size = int(pool_value(draft, database, "pool_size"))
        if mode == "session" and clients >= CROWDED * size * users:
            wait = int(pool_value(draft, database, "query_wait_timeout"))
            waiting = f", and fail after {spoken(wait)}" if wait else ""
            is_said = mode_place != database.place
            place = mode_place if is_said else draft.place("limits", "max_client_conn")
            report.add("session_mode_waits", place, clients=clients, size=size, waiting=waiting)
            return


def reset_query(draft: Draft, facts: Facts, report: Report) -> None:
    """It is for session mode, and needed there."""
    bare = [
        one.name
        for one in draft.databases.values()
        if "session" in modes_of(draft, one) and not pool_value(draft, one, "server_reset_query")
    ]
    are_sessions = any("session" in modes_of(draft, one) for one in draft.databases.values())
    for _, query, place in given_values(draft, "server_reset_query"):
        if not query and bare:
            report.add("no_reset", place, pools=listed(bare))
        elif (
            query
            and not are_sessions
            and draft.databases
            and not any(pool_value(draft, one, "server_reset_query_always") for one in draft.databases.values())
        ):
            report.add("reset_query_unused", place)


def statements(draft: Draft, facts: Facts, report: Report) -> None:
    """Drivers prepare statements by themselves."""
    shared = {mode for one in draft.databases.values() for mode in modes_of(draft, one)} - {"session"}
    for _, count, place in given_values(draft, "max_prepared_statements"):
        if count == 0 and shared:
            report.add("unshared_statements", place, mode=sorted(shared)[-1])
