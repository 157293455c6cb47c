"""What PgBouncer needed and forebay does not."""

from __future__ import annotations

from forebay.config.advice.facts import Facts, listed, shown
from forebay.config.draft import Draft
from forebay.config.finding import Report


def ignored_parameters(draft: Draft, facts: Facts, report: Report) -> None:
    """Startup parameters are applied here."""
    names = draft.value("arrivals", "ignore_startup_parameters")
    if names and isinstance(names, tuple):
        report.add("needless_ignore", draft.place("arrivals", "ignore_startup_parameters"), parameters=listed(names))


def several_processes(draft: Draft, facts: Facts, report: Report) -> None:
    """One process has all cores."""
    if draft.value("listen", "reuse_port"):
        name = f"{shown(draft, 'listen', 'reuse_port')} is on"
        report.add("several_processes", draft.place("listen", "reuse_port"), name=name)
