"""What works and is a mistake all the same, as far as a configuration tells: said by `forebay check` alone.

`rules` refuses what can't be; a rule here takes the draft, what is known of the machine and the servers, and a report.
`ADVICE` is the registration. Sizes are in `pools`, times in `times`, what pooling modes do in `modes`, who may see and
do what in `doors`, what is no longer needed in `leftovers`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from forebay.config.advice import doors, leftovers, modes, pools, times
from forebay.config.advice.facts import Facts
from forebay.config.draft import Draft
from forebay.config.finding import Finding, Report

ADVICE: Final[tuple[Callable[[Draft, Facts, Report], None], ...]] = (
    pools.fit_the_server,
    pools.fit_connection_limits,
    pools.of_servers_that_said_nothing,
    pools.can_be_reached,
    pools.have_a_reserve_in_time,
    pools.fit_the_descriptors,
    times.before_the_server,
    times.before_the_network,
    times.of_waiting,
    times.of_idle_clients,
    times.of_logins,
    modes.statement_mode,
    modes.session_mode,
    modes.reset_query,
    modes.statements,
    doors.listeners,
    doors.servers,
    doors.md5_secrets,
    doors.fallback,
    doors.lookups,
    leftovers.ignored_parameters,
    leftovers.several_processes,
)


def advise(draft: Draft, facts: Facts) -> tuple[Finding, ...]:
    """All advice on a configuration."""
    report = Report()
    for rule in ADVICE:
        rule(draft, facts, report)
    return report.findings
