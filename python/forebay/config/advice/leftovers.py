"""What PgBouncer needed and forebay does not."""

from __future__ import annotations

from typing import Final

from forebay.config.advice.facts import Facts, listed, shown
from forebay.config.draft import Draft
from forebay.config.finding import Report

# What drivers send and PostgreSQL knows. Others may be ignored because PostgreSQL would refuse them.
_KNOWN: Final = frozenset(
    (
        "client_min_messages", "default_transaction_isolation", "default_transaction_read_only", "extra_float_digits",
        "geqo", "idle_in_transaction_session_timeout", "intervalstyle", "jit", "lock_timeout", "options", "role",
        "search_path", "statement_timeout", "synchronous_commit", "work_mem",
    )
)  # fmt: skip


def ignored_parameters(draft: Draft, facts: Facts, report: Report) -> None:
    """Startup parameters are applied here."""
    names = draft.value("arrivals", "ignore_startup_parameters")
    needless = [name for name in names if name.lower() in _KNOWN] if isinstance(names, tuple) else []
    if needless:
        place = draft.place("arrivals", "ignore_startup_parameters")
        report.add("needless_ignore", place, parameters=listed(needless))


def several_processes(draft: Draft, facts: Facts, report: Report) -> None:
    """One process has all cores."""
    if draft.value("listen", "reuse_port"):
        name = f"{shown(draft, 'listen', 'reuse_port')} is on"
        report.add("several_processes", draft.place("listen", "reuse_port"), name=name)
